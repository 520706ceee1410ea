"""A guard that acts on collapse: warns, steps the mining back, or stops the run; and says why."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from legolas_metric.checks import check_at_least, check_choice, check_whole
from legolas_metric.probes.collapse_report import CLASS, DIMENSIONAL, POINT, VERDICTS, CollapseReport
from legolas_metric.probes.verdict import judge, shows
from legolas_metric.signatures import typed

_log = logging.getLogger(__name__)

Act = Literal["warn", "step_back", "stop"]
LOSS_PLATEAU = "loss plateau"
_LAX = 0.1  # strictness while a run warms up


@runtime_checkable
class Schedule(Protocol):
    """What can be stepped back: a `MiningSchedule`, or anything with its `advance`."""

    def advance(self, epoch: int, *, alarm: str | None = None) -> Any:
        """Take up an easier stage in this epoch, because of the alarm."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardAction:
    """What a guard did, and why.

    Attributes:
        epoch: in which it acts.
        act: "warn", "step_back" or "stop".
        fault: the verdict that raised the alarm, or "loss plateau".
        evidence: the figures behind it, a sentence each.
        remedy: what to do about it.

    Example:
        >>> import torch
        >>> from legolas_metric import CollapseGuard, probe_embeddings
        >>> action = CollapseGuard("stop").check(probe_embeddings(torch.ones(50, 8)), epoch=3)
        >>> action.epoch, action.act, action.fault
        (3, 'stop', 'point collapse')

    Source: ours.
    """

    epoch: int
    act: Act
    fault: str
    evidence: tuple[str, ...]
    remedy: str


class CollapseGuard:
    """Acts when reports show a collapse, and keeps acting until it is over.

    Hysteresis: the alarm rises after `patience` faulty reports in a row, and is over after `recovery` reports in a row
    that are free of its fault even by limits `margin` times as strict. Until then every further `patience` faulty
    reports act again; after `give_up` actions of one alarm the run is stopped. Reports between the two limits neither
    act nor end the alarm. Each action is logged as a warning, and kept in `actions`.

    A run is held against what it began with: the first report that is checked in epoch 0 becomes the guard's reference,
    and raises no alarm itself, for an encoder that was not trained has nothing to lose. Pass `reference` for another
    one; a report that has its own is judged by that. In its first steps an encoder is not what it will be, as running
    statistics of batch norm settle within some twenty steps: where `check` is told the step, a fault counts before the
    end of `warm_up` only where it is clear, by limits ten times as lax.

    Behaviour in corner cases: reports of fewer than three rows have no verdict and count for nothing; "over-clustered"
    is no alarm unless asked for, since SupCon ends there on training rows; a schedule in its first stage records the
    alarm and stays; reports after a "stop" act no more.

    Args:
        act: "warn", "step_back" (needs a schedule) or "stop".
        schedule: a `MiningSchedule`, whose `advance(epoch, alarm=...)` is called to step back.
        faults: verdicts that count as faulty.
        patience, recovery: reports in a row; at least 1.
        margin: how much stricter the limits are while an alarm lasts; at least 1.
        give_up: actions of one alarm after which to stop; None never does.
        reference: the report that the run is held against; None takes its own of epoch 0, if it is checked.
        warm_up: steps of the optimiser in which only a clear fault counts; 0 for none.
        plateau: the loss of a collapsed model: the margin for a triplet loss, ln 2 for its soft version, ln(B - 1) for
            SupCon. A loss within 1 % of it is faulty too.

    Raises:
        ValueError: an unknown act or verdict, a step back without a schedule, or numbers below 1.

    Example:
        >>> import torch
        >>> from legolas_metric import CollapseGuard, MiningSchedule, RandomMiner, SemiHardMiner, probe_embeddings
        >>> schedule = MiningSchedule([(0, RandomMiner()), (1, SemiHardMiner())])
        >>> guard = CollapseGuard("step_back", schedule=schedule)
        >>> type(schedule.advance(1)).__name__
        'SemiHardMiner'
        >>> guard.check(probe_embeddings(torch.randn(50, 8)), epoch=0)
        >>> guard.check(probe_embeddings(torch.ones(50, 8)), epoch=2).fault
        'point collapse'
        >>> type(schedule.miner).__name__
        'RandomMiner'

    Source: ours.
    """

    @typed
    def __init__(
        self,
        act: Act = "warn",
        *,
        schedule: Schedule | None = None,
        faults: Sequence[str] = (POINT, CLASS, DIMENSIONAL),
        patience: int = 1,
        recovery: int = 2,
        margin: float | int = 1.5,
        give_up: int | None = None,
        reference: CollapseReport | None = None,
        plateau: float | int | None = None,
        warm_up: int = 20,
    ) -> None:
        check_choice("act", act, get_args(Act))
        for fault in faults:
            check_choice("faults", fault, VERDICTS[1:])
        if act == "step_back" and schedule is None:
            raise ValueError("act='step_back' needs a schedule to step back: pass schedule=MiningSchedule(...)")
        for name, value in (("patience", patience), ("recovery", recovery), ("margin", margin)):
            check_at_least(name, value, 1)
        if give_up is not None:
            check_at_least("give_up", give_up, 1)
        self.act: Act = act
        self.schedule = schedule
        self.faults = tuple(faults)
        self.patience, self.recovery, self.margin = patience, recovery, margin
        self.give_up, self.reference, self.plateau = give_up, reference, plateau
        self.warm_up = check_whole("warm_up", warm_up, 0)
        self.alarmed = self.faulty = False
        self.actions: list[GuardAction] = []
        self._faulty = self._healthy = self._taken = 0

    @property
    def stopped(self) -> bool:
        """Whether the guard has asked for the run to stop."""
        return bool(self.actions) and self.actions[-1].act == "stop"

    @typed
    def check(
        self, report: CollapseReport, *, epoch: int, loss: float | int | None = None, step: int | None = None
    ) -> GuardAction | None:
        """Look at a report, and act if it is time to.

        Args:
            report: of the embeddings as they are now.
            epoch: the one about to start, in which a schedule steps back; 0 for the encoder before training.
            loss: the mean training loss, to be held against `plateau`.
            step: of the optimiser, to be held against `warm_up`; None is after it.

        Returns:
            What was done; None if nothing. After "stop" the caller ends the run.
        """
        if self.stopped or report.verdict is None:
            return None
        if epoch == 0 and self.reference is None:
            self.reference = replace(report, reference=None)
            return None
        if report.reference is None:
            report = replace(report, reference=self.reference)
        fault, evidence, remedy = self._look(report, loss, _LAX if step is not None and step < self.warm_up else 1.0)
        self.faulty = fault is not None
        if fault is None:
            self._recover(report, epoch)
            return None
        self._faulty, self._healthy = self._faulty + 1, 0
        if self._faulty < self.patience:
            return None
        self.alarmed, self._faulty, self._taken = True, 0, self._taken + 1
        over = self.give_up is not None and self._taken > self.give_up
        action = GuardAction(
            epoch=epoch, act="stop" if over else self.act, fault=fault, evidence=evidence, remedy=remedy
        )
        self.actions.append(action)
        reason = f"{fault}: {'; '.join(evidence)}"
        _log.warning("epoch %d: %s because of %s. Remedy: %s", epoch, action.act, reason, remedy)
        if action.act == "step_back":
            assert self.schedule is not None
            self.schedule.advance(epoch, alarm=reason)
        return action

    def _look(
        self, report: CollapseReport, loss: float | int | None, strictness: float
    ) -> tuple[str | None, tuple[str, ...], str]:
        """The fault that a report or the loss shows, if it counts as one, with its evidence and remedy."""
        verdict = judge(report, strictness=strictness)
        if verdict.fault in self.faults:
            return verdict.fault, verdict.evidence, verdict.remedy
        if loss is not None and self.plateau is not None and abs(loss - self.plateau) <= 0.01 * abs(self.plateau):
            sentence = f"loss {loss:.4f} is that of a model that maps everything to one point ({self.plateau:.4f})"
            return LOSS_PLATEAU, (sentence,), "mine easier negatives, or lower the learning rate"
        return None, (), ""

    def _recover(self, report: CollapseReport, epoch: int) -> None:
        """Count a report without a fault towards the end of the alarm, if it is clear of the fault that raised it."""
        self._faulty = 0
        if not self.alarmed:
            return
        edge = shows(report, self.actions[-1].fault, strictness=self.margin)
        self._healthy = 0 if edge else self._healthy + 1
        if self._healthy >= self.recovery:
            self.alarmed, self._healthy, self._taken = False, 0, 0
            _log.info("epoch %d: no %s for %d reports: the alarm is over", epoch, self.actions[-1].fault, self.recovery)

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs: the alarm, its counters, the actions so far, and what the run is held against.

        The schedule keeps its own.
        """
        counters = {"faulty": self._faulty, "healthy": self._healthy, "taken": self._taken}
        actions = [{name: getattr(action, name) for name in GuardAction.__slots__} for action in self.actions]
        reference = None if self.reference is None else self.reference.state_dict()
        return {"alarmed": self.alarmed, "actions": actions, "reference": reference, **counters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.alarmed = state["alarmed"]
        self.reference = None if state["reference"] is None else CollapseReport.from_state_dict(state["reference"])
        self._faulty, self._healthy, self._taken = state["faulty"], state["healthy"], state["taken"]
        self.actions = [GuardAction(**{**action, "evidence": tuple(action["evidence"])}) for action in state["actions"]]
