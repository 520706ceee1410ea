"""What a recipe sets, in one record of plain values; `legolas_metric.recipes` makes them."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from legolas_metric.checks import ArrayLike, check_choice, check_number, check_whole
from legolas_metric.losses.multi_similarity import MultiSimilarityLoss
from legolas_metric.losses.supcon import SupConLoss
from legolas_metric.losses.triplet import TripletLoss
from legolas_metric.miners.false_negatives import FalseNegativeGuard
from legolas_metric.miners.schedule import MiningSchedule, NoMiner
from legolas_metric.miners.triplets import HardMiner
from legolas_metric.relations import LabelRelation
from legolas_metric.rows import as_labels
from legolas_metric.samplers.pk import PKSampler
from legolas_metric.signatures import typed, typed_fields

Kind = Literal["mined", "neighbors", "random"]
Loss = Literal["supcon", "triplet", "multi-similarity"]


def classes_of_batch(labels: ArrayLike, batch_size: int, k: int, *, parts: int = 1) -> int:
    """Classes in a recipe's batch, or in each of several parts of it: batch_size // k, or as many as there are.

    Args:
        labels: [n] of the training set, integers or names; -1 is unlabelled.
        batch_size, k: rows of a part, and of each class in it.
        parts: processes that train together, on different classes.

    Raises:
        ValueError: fewer than two classes for a part.
    """
    values = as_labels(labels, None)
    classes = len(values[values >= 0].unique())
    if classes < 2 * parts:
        each = "" if parts == 1 else f" on each of {parts} processes"
        raise ValueError(f"a recipe needs at least 2 classes to tell apart{each}, got {classes}")
    return min(batch_size // k, classes // parts)


@typed_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How batches are made, what is mined, and which loss is minimised.

    Attributes:
        name: for logs and tables.
        loss: "supcon", "triplet" (batch-hard) or "multi-similarity"; it sees every pair of the batch.
        temperature: of supcon.
        margin: of the triplet loss, in distance.
        turns: where batches come from, in turn: "random" classes, "neighbors" (classes near each other in the bank) or
            "mined" triplets. Only with the last two does anyone look at the whole training set.
        k: examples of a class in batches that are not mined.
        pool: nearest classes among which a batch's are drawn, see `NeighborPKSampler`.
        hard: share of a class's examples, those nearest to the batch's other classes, that batches of near classes draw
            from; None draws from all.
        distinct_groups: positives come from other groups (sessions, cameras, speakers) than their anchors.
        warm_up: epochs of random batches before the turns begin; under the triplet loss, of semi-hard triplets.
        every: epochs between two looks at the whole set.
        ranks: first and last rank of the negatives that are mined.
        guard: of what is mined.
        why: why `choose` chose it; empty else.

    Raises:
        TypeError, ValueError: settings out of range, or that contradict each other.

    Example:
        >>> from dataclasses import replace
        >>> from legolas_metric import recipes
        >>> replace(recipes.near(), k=8).turns
        ('neighbors',)

    Source: ours.
    """

    name: str
    loss: Loss = "supcon"
    temperature: float | int = 0.02
    margin: float | int = 0.2
    turns: tuple[Kind, ...] = ("random",)
    k: int = 4
    pool: int | None = None
    hard: float | int | None = None
    distinct_groups: bool = False
    warm_up: int = 0
    every: int = 1
    ranks: tuple[int, int] = (1, 10)
    guard: FalseNegativeGuard | None = None
    why: str = ""

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, get_args(Loss))
        check_number("temperature", self.temperature, above=0.0)
        check_number("margin", self.margin, least=0.0)
        if not self.turns:
            raise ValueError("turns is empty: name 'random', 'neighbors' or 'mined'")
        for kind in self.turns:
            check_choice("turns", kind, get_args(Kind))
        for name, least in (("k", 2), ("warm_up", 0), ("every", 1)):
            check_whole(name, getattr(self, name), least)
        HardMiner(ranks=self.ranks, guard=self.guard)  # which judges them
        if self.pool is not None:
            check_whole("pool", self.pool, 1)
        for name in ("pool", "hard"):
            if getattr(self, name) is not None and "neighbors" not in self.turns:
                raise ValueError(f"{name} belongs to batches of near classes, got turns={self.turns}: leave it out")
        if self.hard is not None and not 0 < self.hard <= 1:
            raise ValueError(f"hard must lie in (0, 1], the share of a class's examples to draw from, got {self.hard}")
        if self.guard is not None and "mined" not in self.turns:
            raise ValueError(f"guard belongs to mined triplets, got turns={self.turns}: leave it out")

    @property
    def looks(self) -> bool:
        """Whether it looks at the whole training set."""
        return set(self.turns) != {"random"}

    def build_loss(self, epoch: int | None = None) -> nn.Module:
        """The loss, in an epoch counted from 0 (None: once it has warmed up)."""
        if self.loss == "supcon":
            return SupConLoss(temperature=self.temperature)
        if self.loss == "multi-similarity":
            return MultiSimilarityLoss(mining=0.1)
        warm = epoch is not None and epoch < self.warm_up
        return TripletLoss(margin=self.margin, selection="semihard" if warm else "hard")

    def schedule(self, *, seed: int = 0) -> MiningSchedule:
        """The miner of the whole set; where batches hold near classes alone, one that mines nothing."""
        if "mined" not in self.turns:
            return MiningSchedule([(0, NoMiner())])
        relation = LabelRelation(positive_group="other") if self.distinct_groups else LabelRelation()
        return MiningSchedule([(0, HardMiner(ranks=self.ranks, guard=self.guard, relation=relation, seed=seed))])

    @typed
    def sampler(
        self,
        labels: ArrayLike,
        *,
        batch_size: int = 128,
        groups: ArrayLike | None = None,
        batches_per_epoch: int | None = None,
        seed: int = 0,
    ) -> PKSampler:
        """The batches of a recipe that never looks beyond them, of batch_size // k classes or as many as there are.

        Raises:
            ValueError: a recipe that does look: `GlobalMining` and `MiningLoop` take it as `recipe`; fewer than two
                classes.
        """
        if self.looks:
            raise ValueError(
                f"the recipe {self.name!r} looks at the whole training set: pass it to GlobalMining or MiningLoop as "
                "recipe=, which make its batches"
            )
        return PKSampler(
            labels,
            classes_of_batch(labels, batch_size, self.k),
            self.k,
            groups=groups,
            distinct_groups=self.distinct_groups,
            batches_per_epoch=batches_per_epoch,
            short="repeat",
            seed=seed,
        )
