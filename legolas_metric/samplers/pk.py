"""P classes of K examples a batch: planned so that every class, and over time every example, has its turn."""

from collections.abc import Mapping
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike, check_choice, check_whole
from legolas_metric.datasets.labels import count_of
from legolas_metric.rows import as_groups
from legolas_metric.samplers.draws import fingerprint
from legolas_metric.samplers.epochs import PlannedSampler, checked_place, checked_shape
from legolas_metric.samplers.members import Members, Short, check_enough_classes, draw_rows
from legolas_metric.samplers.visits import Weights, class_visits, planned_visits, round_steps
from legolas_metric.signatures import typed

_WIDEST_WEIGHTS = 10_000


def plan_epoch(
    members: Members,
    p: int,
    k: int,
    *,
    epoch: int = 0,
    seed: int = 0,
    world_size: int = 1,
    batches: int | None = None,
    visits: Int64[np.ndarray, " c"] | None = None,
) -> Int64[Tensor, "b w pk"]:
    """Row numbers of an epoch: b steps of w ranks, each p classes of k rows; the rows of one class stand together.

    Epochs are windows on an endless sequence of rounds, in each of which class c is visited visits[c] times; where the
    last step of a round is not full, further classes top it up. So an epoch can be planned without those before it.

    Args:
        members: the classes that take part.
        p, k: classes of a rank's batch, rows of each class.
        epoch, seed: of the plan.
        world_size: ranks; the classes of one step differ across all of them.
        batches: steps of an epoch (default: a round).
        visits: [c] of each class in a round (default: one).
    """
    times = np.ones(len(members.classes), np.int64) if visits is None else visits
    classes, numbers = planned_visits(times, p * world_size, epoch=epoch, steps=batches, seed=seed)
    rows = draw_rows(members, classes.ravel(), numbers.ravel(), k, seed=seed)
    return torch.from_numpy(rows.reshape(-1, world_size, p * k))


class PKSampler(PlannedSampler):
    """Batches of P classes with K examples each; an epoch visits every class, successive epochs every example.

    ceil(C / P) batches an epoch for C classes that take part. The rows of one class stand together in a batch, so that
    `labels[batch].view(p, k)` has equal rows. Its random choices are its own: no global random state is read.

    Args:
        labels: [n] integers, -1 for unlabelled (never drawn).
        p: classes of a batch.
        k: examples of each class.
        groups: [n] integers (session, camera, recording), for `distinct_groups`.
        distinct_groups: draw a class's k examples from k different groups, or from all it has where those are fewer.
        batches_per_epoch: batches of an epoch on each rank (default: until every class was visited). Shorter and longer
            epochs go on where the one before stopped, so that coverage holds over time.
        weights: how often a class is visited. "balanced": once an epoch (every class alike); "proportional":
            ceil(size / k) times (every example alike; without distinct_groups, a round sees each at least once);
            "sqrt": ceil(sqrt(size / k)) times, between the two; or {label: weight}, for example the effective number
            (1 - b^n) / (1 - b): the lightest class once, the others round(weight / lightest) times.
        short: what to do with a class of fewer than k examples. "skip": leave it out, see `left_out`; "repeat": visit
            it like any other, its examples repeated within the batch.
        seed: of all random choices; the same on every rank.
        rank, world_size: this process, and how many there are. In each step the ranks' batches hold different classes,
            all ranks have equally many batches, and together they are the batches of one process with p * world_size.

    Behaviour in corner cases:
        - The last batch is topped up with classes that are not in it, so all batches have p * k rows; these classes
          are visited once more in that epoch.
        - A class's examples are shuffled and handed out k by k, so a class of n examples has shown all of them after
          ceil(n / k) rounds (epochs of the default length); the last of these visits is filled up with examples shown
          before. A visit that tops up a batch shows what the next round shows again. No batch holds an example twice,
          unless `short="repeat"`.
        - With distinct_groups, a class of at least k groups is drawn from k of them, group by group in turn; each
          group's examples take turns too, so that small groups' examples come more often. A class of fewer groups is
          drawn from all of them, as evenly as their sizes allow. A class of one group has no honest positive, but is
          visited all the same: look at `few_groups`.
        - Under weights, a class is never twice in one batch: where one class has more visits than the round has
          batches, the round gets longer, and other classes are visited more often to fill it.
        - Each iteration hands out the next epoch, unless `set_epoch` is used, as Lightning does: then the epoch is the
          one that was set.

    Raises:
        TypeError: labels or groups that are not integers; when iterated, a sampler that was passed as `sampler=`.
        ValueError: p or k below 2, batches_per_epoch below 1, a rank outside the world, fewer than p * world_size
            classes of at least k examples, distinct_groups without groups, weights that are not positive or lack a
            class.

    Example:
        >>> from legolas_metric import PKSampler
        >>> labels = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
        >>> sampler = PKSampler(labels, p=2, k=2, seed=0)
        >>> len(sampler), [len(batch) for batch in sampler], sampler.left_out.tolist()
        (2, [4, 4], [3])

    Sources: the P x K batch is that of Hermans, Beyer & Leibe 2017 (arXiv:1703.07737); square-root and class-balanced
    visits, Kang et al. 2020 (arXiv:1910.09217); effective number, Cui et al. 2019 (arXiv:1901.05555).
    """

    @typed
    def __init__(
        self,
        labels: ArrayLike,
        p: int,
        k: int,
        *,
        groups: ArrayLike | None = None,
        distinct_groups: bool = False,
        batches_per_epoch: int | None = None,
        weights: Weights | Mapping[int, float] = "balanced",
        short: Short = "skip",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        rank, world_size, seed = checked_place(rank, world_size, seed)
        super().__init__(rank, world_size)
        p, k = checked_shape(p, k)
        check_choice("short", short, get_args(Short))
        if batches_per_epoch is not None:
            batches_per_epoch = check_whole("batches_per_epoch", batches_per_epoch, 1)
        if distinct_groups and groups is None:
            raise ValueError("distinct_groups=True compares groups: pass groups, one for each label")
        as_groups(groups, count_of(labels), of="labels")
        self._members = Members.of(labels, groups if distinct_groups else None, least=1 if short == "repeat" else k)
        check_enough_classes(self._members, p, k, world_size)
        self._visits = _visits(self._members, k, weights)
        self.p, self.k, self.seed = p, k, seed
        self._batches = batches_per_epoch or round_steps(self._visits, p * world_size)
        self._fingerprint = fingerprint(np.array([self._members.fingerprint]), self._visits)

    def __repr__(self) -> str:
        return (
            f"PKSampler({len(self._members.classes)} classes, p={self.p}, k={self.k}, {len(self)} batches an epoch, "
            f"{len(self.left_out)} classes left out, rank {self.rank} of {self.world_size})"
        )

    def _steps(self) -> int:
        return self._batches

    @property
    def left_out(self) -> Int64[Tensor, " s"]:
        """Labels of the classes that were skipped for having too few examples, ascending."""
        return torch.from_numpy(self._members.left_out)

    @property
    def few_groups(self) -> Int64[Tensor, " f"]:
        """With distinct_groups, labels of the visited classes that have fewer than k groups."""
        return torch.from_numpy(self._members.few_groups(self.k))

    def plan(self) -> tuple[Int64[Tensor, " pk"], ...]:
        """This rank's batches of the current epoch."""
        steps = plan_epoch(
            self._members,
            self.p,
            self.k,
            epoch=self.epoch,
            seed=self.seed,
            world_size=self.world_size,
            batches=self._batches,
            visits=self._visits,
        )
        return steps[:, self.rank].unbind()

    def settings(self) -> dict[str, int]:
        """What a saved state must agree with."""
        return {
            "p": self.p,
            "k": self.k,
            "seed": self.seed,
            "world_size": self.world_size,
            "batches": self._batches,
            "data": self._fingerprint,
        }


def _visits(members: Members, k: int, weights: Weights | Mapping[int, float]) -> Int64[np.ndarray, " c"]:
    if not isinstance(weights, Mapping):
        check_choice("weights", weights, get_args(Weights))
        return class_visits(members.sizes, k, weights)
    missing = [int(label) for label in members.classes if int(label) not in weights]
    if missing:
        raise ValueError(f"weights lack {len(missing)} of the classes that take part (first: {missing[:5]})")
    values = np.array([weights[int(label)] for label in members.classes], np.float64)
    _check_weights(values)
    return np.rint(values / values.min()).astype(np.int64)


def _check_weights(values: Float64[np.ndarray, " c"]) -> None:
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError("weights must be positive and finite; to leave a class out, label its rows -1")
    if values.max() > _WIDEST_WEIGHTS * values.min():
        raise ValueError(
            f"weights must lie within a factor of {_WIDEST_WEIGHTS}, got {values.min():g} to {values.max():g}: "
            "the lightest class is visited once a round, so the round would hardly end"
        )
