"""The collapse guard as a callback: it looks at the bank and at the validation set, and acts."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import lightning as L

from legolas_metric.probes.collapse import probe_embeddings
from legolas_metric.probes.collapse_guard import Act, CollapseGuard, GuardAction
from legolas_metric.probes.collapse_report import CLASS, DIMENSIONAL, POINT, CollapseReport
from legolas_metric.training.mining import GlobalMining
from legolas_metric.training.monitor import ValidationMonitor
from legolas_metric.training.recording import (
    HistoryOption,
    check_history,
    log_values,
    record_end,
    record_epoch,
    record_failure,
    record_start,
    writes,
)
from legolas_metric.training.resume import as_plain, as_record

_Kind = TypeVar("_Kind", bound=L.Callback)


class CollapseMonitor(L.Callback):
    """Probe the embeddings after every epoch, and warn, step the mining back or stop the run when they collapse.

    Looks at the bank of `GlobalMining` and at the validation set of `ValidationMonitor`, whichever the Trainer has,
    each against its own first report: what the encoder began with. Each has a `CollapseGuard` of its own. What was done
    is in `actions`, in the log, in `history.jsonl` as an event, and `healthy/bank` and `healthy/validation` (1 or 0) go
    to every logger. Pass it after the two callbacks that it looks at.

    Args:
        act: "warn", "step_back" (needs a `MiningSchedule` with more than one stage) or "stop".
        faults, patience, recovery, margin, give_up, plateau, warm_up: see `CollapseGuard`; `plateau` is held against
            the logged `train_loss`, `warm_up` against the Trainer's steps.
        history: see `GlobalMining`.

    Raises:
        TypeError, ValueError: settings out of bounds; when training begins, neither a bank nor a validation set to look
            at, or no schedule to step back.

    Example:
        >>> from legolas_metric.training import CollapseMonitor
        >>> CollapseMonitor("stop", patience=2).actions
        []

    Source: ours.
    """

    def __init__(
        self,
        act: Act = "warn",
        *,
        faults: Sequence[str] = (POINT, CLASS, DIMENSIONAL),
        patience: int = 1,
        recovery: int = 2,
        margin: float | int = 1.5,
        give_up: int | None = None,
        plateau: float | int | None = None,
        warm_up: int = 20,
        history: HistoryOption = None,
    ) -> None:
        super().__init__()
        check_history(history)
        self.history_option = history
        self.act: Act = act
        self._settings: dict[str, Any] = {
            "faults": tuple(faults),
            "patience": patience,
            "recovery": recovery,
            "margin": margin,
            "give_up": give_up,
            "plateau": plateau,
            "warm_up": warm_up,
        }
        CollapseGuard(act, schedule=_Nothing(), **self._settings)  # refuses what is out of bounds
        self.guards: dict[str, CollapseGuard] = {}
        self.reports: dict[str, CollapseReport] = {}
        self._first: dict[str, CollapseReport] = {}  # of the bank: what it began with
        self._saved: Mapping[str, Any] = {}
        self._looked = -1  # step of the bank that was looked at last

    @property
    def actions(self) -> list[GuardAction]:
        """What was done, and why."""
        return [action for guard in self.guards.values() for action in guard.actions]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find what to look at."""
        minings, monitors = _found(trainer, GlobalMining), _found(trainer, ValidationMonitor)
        if not minings and not monitors:
            raise ValueError("CollapseMonitor looks at GlobalMining or ValidationMonitor: pass one of them as well")
        schedule = minings[0].schedule if minings else None
        if self.act == "step_back" and (schedule is None or len(schedule.stages) < 2):
            raise ValueError(
                "act='step_back' needs a stage to step back to: pass GlobalMining(schedule=MiningSchedule(...)) with "
                "more than one stage"
            )
        record_start(self, trainer, pl_module, resumed=None)
        names = ["bank"] * bool(minings) + ["validation"] * bool(monitors)
        self.guards = {name: CollapseGuard(self.act, schedule=schedule, **self._settings) for name in names}
        for name, state in self._saved.get("guards", {}).items():
            if name in self.guards:
                self.guards[name].load_state_dict(as_record(state))
        self._saved = {}
        self._look_at_bank(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look, and act."""
        epoch = trainer.current_epoch + 1
        before = len(self.actions)
        loss = trainer.callback_metrics.get("train_loss")
        fresh = {"bank": self._look_at_bank(trainer)}
        for monitor in _found(trainer, ValidationMonitor):
            latest = monitor.history[-1]
            fresh["validation"] = latest.collapse if latest.epoch == epoch else None
        for name, report in fresh.items():
            if report is not None:
                self.reports[name] = report
                told = None if loss is None else float(loss)
                self.guards[name].check(report, epoch=epoch, loss=told, step=trainer.global_step)
        log_values(trainer, self.recorded_values(epoch), step=trainer.global_step)
        for action in self.actions[before:]:
            self._tell(trainer, action)
        record_epoch(self, trainer, epoch=epoch)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the end of the run."""
        record_end(self, trainer, "stopped" if trainer.should_stop else "finished")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Record what ended the run."""
        record_failure(self, trainer, exception)

    def state_dict(self) -> dict[str, Any]:
        """The alarms, and what the bank began with: what resuming needs."""
        guards = {name: as_plain(guard.state_dict()) for name, guard in self.guards.items()}
        first = {name: as_plain(report) for name, report in self._first.items()}
        return {"guards": guards, "first": first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state."""
        self._saved = state_dict
        self._first = {name: as_record(report) for name, report in state_dict.get("first", {}).items()}

    def recorded_settings(self) -> Mapping[str, Any]:
        """For `history.jsonl`."""
        return {"act": self.act, **self._settings}

    def recorded_values(self, epoch: int) -> Mapping[str, float | int]:
        """Whether each of the two is free of the faults that count."""
        return {f"healthy/{name}": float(not self.guards[name].faulty) for name in self.reports}

    def recorded_names(self) -> set[str]:
        """Of all that is measured."""
        return {f"healthy/{name}" for name in self.guards}

    def _look_at_bank(self, trainer: L.Trainer) -> CollapseReport | None:
        """A report of the bank, if it was written since the last look."""
        for mining in _found(trainer, GlobalMining):
            bank = mining.bank
            if bank is None or bank.step == self._looked:
                return None
            self._looked = bank.step
            rows, labels = mining.loop.holding.sample(bank)
            report = probe_embeddings(rows, labels, reference=self._first.get("bank"))
            self._first.setdefault("bank", report)
            return report
        return None

    def _tell(self, trainer: L.Trainer, action: GuardAction) -> None:
        history = writes(trainer)
        why = f"{action.fault}: {'; '.join(action.evidence)}"
        if history is not None:
            history.event(epoch=action.epoch, step=trainer.global_step, what="guard", why=f"{action.act}: {why}")
        if action.act == "stop":
            trainer.should_stop = True


class _Nothing:
    """A schedule that is only there to have the settings checked."""

    def advance(self, epoch: int, *, alarm: str | None = None) -> None:
        """Nothing."""


def _found(trainer: L.Trainer, kind: type[_Kind]) -> list[_Kind]:
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # pyright: ignore
