"""From what was mined to the batches of an epoch."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.distributed import ALONE, World
from legolas_metric.recipe_settings import classes_of_batch
from legolas_metric.records import Triplets
from legolas_metric.samplers.class_means import ClassMeans
from legolas_metric.samplers.neighbor_pk import NeighborPKSampler
from legolas_metric.samplers.pk import PKSampler
from legolas_metric.samplers.triplet_sampler import TripletSampler
from legolas_metric.training.batches import Examples, FedBatches
from legolas_metric.training.settings import Feeding, Kind

Near = EmbeddingBank | ClassMeans
"""What tells which classes are near each other."""


class Feeder:
    """The batches of a run, which come in turn from mined triplets, near classes and any classes.

    Args:
        examples: what the batches are made of.
        settings: what they hold.
        groups: of the examples, for `distinct_groups`.
    """

    def __init__(self, examples: Examples, settings: Feeding, groups: Int64[Tensor, " n"] | None = None) -> None:
        self.examples, self.settings, self.groups = examples, _held_to(examples.labels, settings), groups
        if settings.distinct_groups and groups is None:
            raise ValueError("a recipe with distinct_groups takes positives from other groups: pass groups")
        self.batches = FedBatches(0)
        self._pk: dict[Kind, PKSampler | NeighborPKSampler] = {}
        self.join(ALONE)

    def join(self, world: World) -> None:
        """Plan for the processes of a world together: a batch of each step is that of one process times their number.

        Every process plans the same joint batches, and hands out its own part of each.
        """
        settings, examples = self.settings, self.examples
        self._joint = settings.batch_size * world.size
        self.batches.join(world, settings.steps_per_epoch or -(-len(examples) // self._joint))
        part = settings.batch_size // settings.k
        if settings.fits:
            part = classes_of_batch(examples.labels, settings.batch_size, settings.k, parts=world.size)
        self._p = world.size * part  # whole classes in each part
        self._pk.clear()
        if settings.ever("random"):
            self._pk["random"] = PKSampler(
                examples.labels,
                self._p,
                settings.k,
                groups=self.groups,
                distinct_groups=settings.distinct_groups,
                batches_per_epoch=self._share("random"),
                short="repeat" if settings.fits else "skip",
                seed=settings.seed,
            )

    def feed(self, triplets: Triplets, bank: Near, *, epoch: int, done: int) -> float:
        """Make batches for the steps that are left of an epoch; the share of those of triplets that it takes."""
        turns, batches = self.settings.at(epoch), self.batches
        if "neighbors" in turns and ("neighbors" not in self._pk or done):
            self._pk["neighbors"] = self._neighbors(bank)
        elif "neighbors" in turns and isinstance(bank, ClassMeans):  # a bank is rewritten in place, means are not
            near = self._pk["neighbors"]
            assert isinstance(near, NeighborPKSampler)
            near.refresh(bank)
        if "mined" not in turns:
            batches.feed([self._pk[kind] for kind in turns], epoch)
            return 0.0
        seed, ids = self.settings.seed, self.examples.ids
        mined = TripletSampler(triplets, self._joint, ids=ids, seed=seed, fill=True)
        batches.feed([mined if kind == "mined" else self._pk[kind] for kind in turns], epoch)
        left = sum(turns[step % len(turns)] == "mined" for step in range(done, len(batches)))
        return min(1.0, left / len(mined))

    def state_dict(self, done: int) -> dict[str, Any]:
        """Where the samplers stand after so many steps of the epoch."""
        return self.batches.state_dict(done) | {"joint": self._joint}

    def resume(self, state: Mapping[str, Any], triplets: Triplets, bank: Near, *, epoch: int) -> None:
        """Go on where `state_dict` stood, by the triplets and the bank that came back.

        Raises:
            ValueError: the processes together train on batches of another length than the saved run's.
        """
        if state["joint"] != self._joint:
            own = f"{self.settings.batch_size} of each of {self.batches.world.size} processes"
            raise ValueError(
                f"the saved run trained on {state['joint']} rows a step, this one on {self._joint} ({own}): keep "
                "batch_size times the number of processes as it was"
            )
        self._pk.pop("neighbors", None)  # it planned by another bank
        self.feed(triplets, bank, epoch=epoch, done=0)
        self.batches.load_state_dict(state)

    def _share(self, kind: Kind) -> int:
        """Steps of an epoch that a kind of batch serves."""
        turns = self.settings.turns
        if kind not in turns:  # of the warm-up alone
            return len(self.batches)
        return max(1, sum(turns[step % len(turns)] == kind for step in range(len(self.batches))))

    def _neighbors(self, bank: Near) -> NeighborPKSampler:
        """Batches of near classes by the bank as it is, from the seed on that comes next."""
        settings, before = self.settings, self._pk.get("neighbors")
        steps = self._share("neighbors")
        sampler = NeighborPKSampler(
            bank,
            self._p,
            settings.k,
            pool=settings.pool,
            hard=settings.hard,
            distinct_groups=settings.distinct_groups,
            batches_per_epoch=steps,
            short="repeat" if settings.fits else "skip",
            seed=settings.seed,
        )
        if before is not None:
            sampler.load_state_dict(before.state_at(*before.position, None))
        return sampler


def _held_to(labels: Int64[Tensor, " n"], settings: Feeding) -> Feeding:
    """The settings, of a recipe with no larger batch and pool than there are classes; mined triplets fill any batch."""
    if not settings.fits:
        return settings
    rows = settings.k * classes_of_batch(labels, settings.batch_size, settings.k)
    others = len(labels[labels >= 0].unique()) - 1
    return replace(
        settings,
        batch_size=settings.batch_size if settings.ever("mined") else rows,
        pool=None if settings.pool is None else min(settings.pool, others),
    )
