"""Which miner an epoch uses: easy ones first, harder ones later, and a step back when a probe alarms."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, check_number, check_whole
from legolas_metric.miners.informative_pairs import MultiSimilarityMiner
from legolas_metric.records import MiningStats, SearchStats, Triplets
from legolas_metric.tables import Sheet, Shown

_log = logging.getLogger(__name__)


@runtime_checkable
class TripletMiner(Protocol):
    """What a stage of a schedule can do: the public miners of triplets, or anything with their calls."""

    def mine(self, bank: EmbeddingBank, anchors: ArrayLike | None = None) -> Triplets:
        """Mine a whole bank."""
        ...

    def __call__(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike,
        ref_emb: ArrayLike | None = None,
        ref_labels: ArrayLike | None = None,
    ) -> tuple[Int64[Tensor, " t"], Int64[Tensor, " t"], Int64[Tensor, " t"]]:
        """Mine a batch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        ...


class NoMiner:
    """A stage that mines nothing: for a loop whose batches come from random or near classes alone."""

    def __repr__(self) -> str:
        return "NoMiner()"

    def mine(self, bank: EmbeddingBank, anchors: ArrayLike | None = None) -> Triplets:
        """No triplet, of no anchor."""
        none, nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        stats = MiningStats(anchors=0, search=SearchStats(engine="none"), seconds=0.0, drift=bank.drift)
        return Triplets(none, none, none, nothing, nothing, stats)

    def __call__(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike,
        ref_emb: ArrayLike | None = None,
        ref_labels: ArrayLike | None = None,
    ) -> tuple[Int64[Tensor, " t"], Int64[Tensor, " t"], Int64[Tensor, " t"]]:
        """No triplet."""
        none = torch.zeros(0, dtype=torch.int64)
        return none, none, none

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""


@dataclass(frozen=True, slots=True)
class StageChange:
    """One change of stage, and why.

    Attributes:
        epoch: in which it happened.
        before, after: numbers of the stages.
        reason: in words.
    """

    epoch: int
    before: int
    after: int
    reason: str


@dataclass(frozen=True, slots=True)
class Plateau:
    """In place of a stage's first epoch: enter it when the value has not grown for some epochs.

    Attributes:
        patience: epochs without a new best value since the stage before was entered, or its `hold` was over.
        min_delta: by how much a value must exceed the best to be a new best.
    """

    patience: int
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        check_whole("patience", self.patience, 1)
        check_number("min_delta", self.min_delta, least=0.0)


class MiningSchedule(Shown):
    """Miners from easy to hard, by epoch or by plateau; a margin is scheduled as stages that differ in it.

    `advance(epoch)` gives the miner of an epoch. With an `alarm` (a collapse probe's verdict) it steps back to the
    stage before, and enters the harder one again `hold` epochs later at the earliest; later stages that start at an
    epoch are delayed by as much as that one is.

    Behaviour in corner cases: an alarm in the first stage is recorded and changes nothing; an epoch that skips several
    stages enters the last of them, but never passes a stage that waits for a plateau; an epoch may be asked for again.

    Args:
        stages: (first epoch, miner), or (`Plateau`, miner); the first starts at epoch 0, epochs ascend.
        hold: epochs to stay in a stage after stepping back to it.

    Raises:
        TypeError: no sequence of pairs, a start that is neither an integer nor a `Plateau`, a stage that is no miner.
        ValueError: no stages, a first stage that does not start at epoch 0, epochs that do not ascend.

    Example:
        >>> from legolas_metric import MiningSchedule, RandomMiner, SemiHardMiner
        >>> schedule = MiningSchedule([(0, RandomMiner()), (3, SemiHardMiner())])
        >>> [type(schedule.advance(epoch)).__name__ for epoch in (0, 2, 3)]
        ['RandomMiner', 'RandomMiner', 'SemiHardMiner']
        >>> type(schedule.advance(4, alarm="collapse: effective rank 1.2")).__name__
        'RandomMiner'
        >>> schedule.changes[-1]
        StageChange(epoch=4, before=1, after=0, reason='collapse: effective rank 1.2')

    Source: ours.
    """

    def __init__(self, stages: Sequence[tuple[int | Plateau, TripletMiner]], *, hold: int = 1) -> None:
        if isinstance(stages, str) or not isinstance(stages, Sequence):
            raise TypeError(
                f"schedule must be a sequence of (first epoch, miner) such as [(0, RandomMiner())], got {stages!r}"
            )
        for stage in stages:
            if not isinstance(stage, Sequence) or isinstance(stage, str) or len(stage) != 2:
                raise TypeError(f"a stage of a schedule is (first epoch, miner), got {stage!r}")
            start, miner = stage
            if not isinstance(start, Integral | Plateau) or isinstance(start, bool):
                raise TypeError(f"a stage starts at an epoch or with a Plateau, got {start!r}")
            if not _mines_triplets(miner):
                raise TypeError(
                    f"a stage is a miner of triplets such as HardMiner(), got {miner!r}; as_miner takes those of PML"
                )
        starts = [start for start, _ in stages if not isinstance(start, Plateau)]
        if not stages or stages[0][0] != 0:
            raise ValueError(f"the first stage must start at epoch 0, got stages at {[start for start, _ in stages]}")
        if any(later <= earlier for earlier, later in pairwise(starts)):
            raise ValueError(f"stages must start at ascending epochs, got {starts}")
        self.stages = tuple(stages)
        self.hold = check_whole("hold", hold, 1)
        self.stage = 0
        self.delay = 0
        self.held_until = 0
        self.best: float | None = None
        self.best_epoch = 0
        self.changes: list[StageChange] = []

    def _sheet(self) -> Sheet:
        rows = [
            [number, f"epoch {start}" if not isinstance(start, Plateau) else repr(start), repr(miner), now]
            for number, (start, miner) in enumerate(self.stages)
            for now in ["now" if number == self.stage else ""]
        ]
        return Sheet(f"MiningSchedule, hold={self.hold}", ["stage", "from", "miner", ""], rows)

    @property
    def miner(self) -> TripletMiner:
        """The miner of the current stage."""
        return self.stages[self.stage][1]

    def advance(self, epoch: int, *, value: float | None = None, alarm: str | None = None) -> TripletMiner:
        """Enter the stage that is due in an epoch, or step back on an alarm.

        Args:
            epoch: counted from 0.
            value: what a `Plateau` looks at, larger is better (for example, validation Rank@1); -inf before the first
                is known, which counts no epoch.
            alarm: why the stage before should be taken up again, in words; None or empty if all is well.

        Returns:
            The miner to use from here on.

        Raises:
            ValueError: no value, or NaN, where the next stage waits for a plateau of it.
        """
        if alarm:
            self._step_back(epoch, alarm)
            return self.miner
        after, reason = self.stage, ""
        while after + 1 < len(self.stages) and epoch >= self.held_until:
            start = self.stages[after + 1][0]
            due = (
                self._plateau(start, epoch, value, after) if isinstance(start, Plateau) else self._reached(start, epoch)
            )
            if not due:
                break
            after, reason = after + 1, due
        if after > self.stage:
            self._enter(after, epoch, reason)
        return self.miner

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs: where the schedule stands, the changes so far, and the state of every miner."""
        return {
            "stage": self.stage,
            "delay": self.delay,
            "held_until": self.held_until,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "changes": [asdict(change) for change in self.changes],
            "miners": [miner.state_dict() for _, miner in self.stages],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state.

        Raises:
            ValueError: the state is of a schedule with another number of stages.
        """
        if len(state["miners"]) != len(self.stages):
            raise ValueError(f"the state has {len(state['miners'])} stages, this schedule {len(self.stages)}")
        self.stage, self.delay, self.held_until = state["stage"], state["delay"], state["held_until"]
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.changes = [StageChange(**change) for change in state["changes"]]
        for (_, miner), saved in zip(self.stages, state["miners"]):
            miner.load_state_dict(saved)

    def _reached(self, start: int, epoch: int) -> str:
        """Why a stage that starts at an epoch is due; empty if it is not."""
        if epoch < start + self.delay:
            return ""
        return f"epoch {start} reached" + (f", delayed by {self.delay}" if self.delay else "")

    def _plateau(self, plateau: Plateau, epoch: int, value: float | None, after: int) -> str:
        """Why a stage that waits for a plateau is due; empty if it is not, as in the epoch of the stage before."""
        if after != self.stage:
            return ""
        if value is None:
            raise ValueError(f"stage {after + 1} waits for a plateau: pass advance(epoch, value=...)")
        if math.isnan(value):
            raise ValueError(f"the value that stage {after + 1} waits for is NaN: see what became of the metric")
        if value == -math.inf:
            return ""
        if self.best is None or value > self.best + plateau.min_delta:
            self.best, self.best_epoch = value, epoch
        stale = epoch - self.best_epoch
        return f"no value above {self.best:.4g} for {stale} epochs" if stale >= plateau.patience else ""

    def _step_back(self, epoch: int, alarm: str) -> None:
        if self.stage == 0:
            self._record(0, epoch, alarm)
            return
        start = self.stages[self.stage][0]
        self.held_until = epoch + self.hold
        if not isinstance(start, Plateau):
            self.delay = self.held_until - start
        else:
            entered = next(change.epoch for change in reversed(self.changes) if change.after == self.stage)
            self.delay += self.held_until - entered
        self._enter(self.stage - 1, epoch, alarm)

    def _enter(self, stage: int, epoch: int, reason: str) -> None:
        self._record(stage, epoch, reason)
        self.stage, self.best, self.best_epoch = stage, None, epoch

    def _record(self, stage: int, epoch: int, reason: str) -> None:
        self.changes.append(StageChange(epoch, self.stage, stage, reason))
        _log.info("epoch %d: stage %d -> %d, %r: %s", epoch, self.stage, stage, self.stages[stage][1], reason)


def _mines_triplets(miner: object) -> bool:
    """Whether something has the calls of a `TripletMiner`; miners of PML have a `mine` of other arguments."""
    foreign = any(base.__module__.startswith("pytorch_metric_learning") for base in type(miner).__mro__)
    return isinstance(miner, TripletMiner) and not foreign and not isinstance(miner, type | MultiSimilarityMiner)
