"""Recipes: complete settings of batches, mining and loss, each measured in docs/recipes.md; the encoder is yours.

`choose` reads off the data which one to begin with. A recipe is plain values, changed by `dataclasses.replace`.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import nn

from legolas_metric.checks import ArrayLike, check_choice, check_number, check_whole
from legolas_metric.losses.multi_similarity import MultiSimilarityLoss
from legolas_metric.losses.supcon import SupConLoss
from legolas_metric.losses.triplet import TripletLoss
from legolas_metric.miners.false_negatives import FalseNegativeGuard
from legolas_metric.miners.schedule import MiningSchedule, NoMiner
from legolas_metric.miners.triplets import HardMiner
from legolas_metric.relations import LabelRelation
from legolas_metric.rows import as_groups, as_labels
from legolas_metric.samplers.pk import PKSampler
from legolas_metric.signatures import typed, typed_fields

Kind = Literal["mined", "neighbors", "random"]
Loss = Literal["supcon", "triplet", "multi-similarity"]
Name = Literal["pk-supcon", "pk-batch-hard", "pk-multi-similarity", "near", "mined"]

SEEN_ALREADY = 0.3
"""Chance of meeting the nearest class in a random batch from which a look at the whole set added nothing."""

NOISY = 0.05
"""Share of wrong labels from which the hardest examples are mostly mistakes."""


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
        if self.hard is not None and "neighbors" not in self.turns:
            raise ValueError(f"hard belongs to batches of near classes, got turns={self.turns}: leave it out")
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
        """The batches of a recipe that never looks beyond them.

        Raises:
            ValueError: a recipe that does look: `GlobalMining` and `MiningLoop` take it as `recipe`.
        """
        if self.looks:
            raise ValueError(
                f"the recipe {self.name!r} looks at the whole training set: pass it to GlobalMining or MiningLoop as "
                "recipe=, which make its batches"
            )
        return PKSampler(
            labels,
            batch_size // self.k,
            self.k,
            groups=groups,
            distinct_groups=self.distinct_groups,
            batches_per_epoch=batches_per_epoch,
            short="repeat",
            seed=seed,
        )


def near(
    *,
    temperature: float | int = 0.02,
    pool: int | None = None,
    hard: float | int | None = None,
    distinct_groups: bool = False,
) -> Recipe:
    """Batches of classes that lie near each other in the whole set, SupCon: many classes, few of them in a batch.

    `hard=0.5`, of each class the half nearest to the batch's other classes, gains in short runs only (docs/log.md).

    Args:
        temperature, pool, hard, distinct_groups: see `Recipe`.

    Example:
        >>> from legolas_metric import recipes
        >>> recipes.near().temperature, recipes.near(hard=0.5).hard
        (0.02, 0.5)

    Source: ours, after the graph sampling of Liao and Shao (2022), arXiv:2104.01546.
    """
    return Recipe(
        name="near",
        temperature=temperature,
        turns=("neighbors",),
        pool=pool,
        hard=hard,
        distinct_groups=distinct_groups,
        warm_up=1,
    )


def mined(
    *, temperature: float | int = 0.02, guard: FalseNegativeGuard | None = None, distinct_groups: bool = False
) -> Recipe:
    """Batches of triplets whose negatives are among the ten nearest of the whole set, SupCon over all their pairs.

    Args:
        temperature, guard, distinct_groups: see `Recipe`.

    Example:
        >>> from legolas_metric import FalseNegativeGuard, recipes
        >>> recipes.mined(guard=FalseNegativeGuard()).ranks
        (1, 10)

    Source: ours.
    """
    return Recipe(
        name="mined",
        temperature=temperature,
        turns=("mined",),
        distinct_groups=distinct_groups,
        warm_up=1,
        guard=guard,
    )


def pk_supcon(*, temperature: float | int = 0.02, distinct_groups: bool = False) -> Recipe:
    """Random classes, SupCon: what all else is compared with.

    Args:
        temperature, distinct_groups: see `Recipe`.

    Example:
        >>> from legolas_metric import recipes
        >>> recipes.pk_supcon().looks
        False

    Source: Khosla et al. (2020), Supervised Contrastive Learning, arXiv:2004.11362.
    """
    return Recipe(name="pk-supcon", temperature=temperature, distinct_groups=distinct_groups)


def pk_batch_hard(*, margin: float | int = 0.2, warm_up: int = 1, distinct_groups: bool = False) -> Recipe:
    """Random classes, the hardest triplet of each anchor; semi-hard ones first, since batch-hard may collapse at once.

    Args:
        margin: in distance.
        warm_up: epochs of semi-hard triplets.
        distinct_groups: positives come from other groups than their anchors.

    Example:
        >>> from legolas_metric import recipes
        >>> recipe = recipes.pk_batch_hard()
        >>> recipe.build_loss(epoch=0).selection, recipe.build_loss().selection
        ('semihard', 'hard')

    Source: Hermans et al. (2017), In Defense of the Triplet Loss, arXiv:1703.07737; the warm-up is ours.
    """
    return Recipe(name="pk-batch-hard", loss="triplet", margin=margin, warm_up=warm_up, distinct_groups=distinct_groups)


def pk_multi_similarity(*, distinct_groups: bool = False) -> Recipe:
    """Random classes, multi-similarity: features that are good before training, such as those of sentences.

    Args:
        distinct_groups: positives come from other groups than their anchors.

    Example:
        >>> from legolas_metric import recipes
        >>> recipes.pk_multi_similarity().loss
        'multi-similarity'

    Source: Wang et al. (2019), Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning.
    """
    return Recipe(name="pk-multi-similarity", loss="multi-similarity", distinct_groups=distinct_groups)


def named(name: str) -> Recipe:
    """A recipe as it comes, by its name.

    Args:
        name: of one, see docs/recipes.md.

    Raises:
        ValueError: no such name.

    Example:
        >>> from legolas_metric import recipes
        >>> recipes.named("near") == recipes.near()
        True

    Source: ours.
    """
    check_choice("recipe", name, get_args(Name))
    made = {
        "near": near,
        "mined": mined,
        "pk-supcon": pk_supcon,
        "pk-batch-hard": pk_batch_hard,
        "pk-multi-similarity": pk_multi_similarity,
    }
    return made[name]()


@typed
def choose(
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    batch_size: int = 128,
    k: int = 4,
    noise: float | int = 0.0,
) -> Recipe:
    """The recipe to begin with, by how the data is made up; its `why` gives the reason in words.

    The first that holds of C classes, p = min(batch_size // k, C) of them in a batch:
        1. C <= p, and classes with several groups: `pk_supcon(distinct_groups=True)`. Each batch holds every class, so
           that there is nothing to choose among classes; what varies within a class is the difficulty.
        2. a chance (p - 1) / (C - 1) >= 0.3 to meet the nearest class in a random batch: `pk_supcon`.
        3. noise >= 0.05: `pk_supcon` with a temperature of 0.1, since near classes and hard pairs then are mistakes.
        4. else `near`. In 2 to 4, too, positives come from other groups where most classes have several.

    Args:
        labels: [n] of the training set, integers or names; -1 is unlabelled.
        groups: [n] what must differ between honest positives: sessions, cameras, speakers.
        batch_size, k: of training.
        noise: share of wrong labels, in [0, 1), as `diagnose` or a look at the data suggests.

    Raises:
        ValueError: fewer than two classes, or settings out of range.

    Example:
        >>> import torch
        >>> from legolas_metric import recipes
        >>> recipes.choose(torch.arange(500).repeat_interleave(20)).name
        'near'
        >>> recipes.choose(torch.arange(10).repeat_interleave(90)).why
        'a random batch of 10 of 10 classes holds the nearest class with chance 1.00: it shows what a look would show'

    Source: ours.
    """
    values = as_labels(labels, None)
    check_whole("k", k, 2)
    check_whole("batch_size", batch_size, 2 * k)
    if not 0 <= noise < 1:
        raise ValueError(f"noise must lie in [0, 1), got {noise}: it is the share of wrong labels")
    places = as_groups(groups, len(values), of="the training set")
    classes = len(values[values >= 0].unique())
    if classes < 2:
        raise ValueError(f"a recipe needs at least 2 classes to tell apart, got {classes}")
    chance = ((p := min(batch_size // k, classes)) - 1) / (classes - 1)
    across = places is not None and _share_in_several(values, places) > 0.5
    several = "; most classes have several groups, so positives come from others than their anchors" if across else ""
    here = f"a random batch of {p} of {classes} classes holds the nearest class with chance {chance:.2f}"
    if chance >= SEEN_ALREADY:
        return replace(pk_supcon(distinct_groups=across), why=f"{here}: it shows what a look would show{several}", k=k)
    if noise >= NOISY:
        why = f"{noise:.0%} of the labels are wrong, and the nearest of other classes are the first to be{several}"
        return replace(pk_supcon(temperature=0.1, distinct_groups=across), why=why, k=k)
    return replace(near(distinct_groups=across), why=f"{here} only: near classes are looked for{several}", k=k)


def _share_in_several(labels: torch.Tensor, groups: torch.Tensor) -> float:
    pairs = torch.stack([labels, groups.to(labels.device)], 1)[labels >= 0].unique(dim=0)
    return float((pairs[:, 0].unique(return_counts=True)[1] > 1).float().mean())
