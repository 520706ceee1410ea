"""Which miner an epoch uses: easy ones first, harder ones later, and a step back when a probe alarms."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, check_at_least
from legolas_metric.records import Triplets

_log = logging.getLogger(__name__)


@runtime_checkable
class TripletMiner(Protocol):
    """What a stage of a schedule can do: the public miners, or anything with their two calls."""

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


class MiningSchedule:
    """Miners by epoch, from easy to hard.

    `advance(epoch)` gives the miner of an epoch. With an `alarm` (a collapse probe's verdict) it steps back to the
    stage before, and enters the harder one again `hold` epochs later; all later stages are delayed by as much.

    Behaviour in corner cases: an alarm in the first stage is recorded and changes nothing; an epoch that skips several
    stages enters the last of them; asking again for an epoch changes nothing unless there is an alarm.

    Args:
        stages: (first epoch, miner), epochs ascending from 0.
        hold: epochs to stay in a stage after stepping back to it.

    Raises:
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
    """

    def __init__(self, stages: Sequence[tuple[int, TripletMiner]], *, hold: int = 1) -> None:
        starts = [start for start, _ in stages]
        if not starts or starts[0] != 0:
            raise ValueError(f"the first stage must start at epoch 0, got stages at {starts}")
        if any(later <= earlier for earlier, later in pairwise(starts)):
            raise ValueError(f"stages must start at ascending epochs, got {starts}")
        check_at_least("hold", hold, 1)
        self.stages = tuple(stages)
        self.hold = hold
        self.stage = 0
        self.delay = 0
        self.changes: list[StageChange] = []

    @property
    def miner(self) -> TripletMiner:
        """The miner of the current stage."""
        return self.stages[self.stage][1]

    def advance(self, epoch: int, *, alarm: str | None = None) -> TripletMiner:
        """Enter the stage that is due in an epoch, or step back on an alarm.

        Args:
            epoch: counted from 0.
            alarm: why the stage before should be taken up again, in words; None or empty if all is well.

        Returns:
            The miner to use from here on.
        """
        if alarm:
            before = max(0, self.stage - 1)
            if before < self.stage:
                self.delay = epoch + self.hold - self.stages[self.stage][0]
            self._enter(before, epoch, alarm)
            return self.miner
        due = sum(start + self.delay <= epoch for start, _ in self.stages[1:])
        if due > self.stage:
            start = self.stages[due][0]
            delayed = f", delayed by {self.delay}" if self.delay else ""
            self._enter(due, epoch, f"epoch {start} reached{delayed}")
        return self.miner

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs: the stage, the delay, the changes so far, and the state of every miner."""
        return {
            "stage": self.stage,
            "delay": self.delay,
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
        self.stage, self.delay = state["stage"], state["delay"]
        self.changes = [StageChange(**change) for change in state["changes"]]
        for (_, miner), saved in zip(self.stages, state["miners"]):
            miner.load_state_dict(saved)

    def _enter(self, stage: int, epoch: int, reason: str) -> None:
        change = StageChange(epoch, self.stage, stage, reason)
        self.changes.append(change)
        _log.info("epoch %d: stage %d -> %d, %r: %s", epoch, change.before, stage, self.stages[stage][1], reason)
        self.stage = stage
