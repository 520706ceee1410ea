"""Early stopping on Lightning, with and without going back to the weights of an earlier epoch."""

import os
import uuid
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L

from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.training.last_in_line import LastInLine
from legolas_metric.training.monitor import ValidationMonitor
from legolas_metric.training.recording import record_beside
from legolas_metric.training.resume import as_plain, as_record
from legolas_metric.training.stopping import Interval, Mode, Restore, RestoringStopper, StoppingRule

Ratio = tuple[str, str, float | int]
Pair = tuple[float, float] | None


class EarlyStopping(LastInLine):
    """Stop on any logged value, or where one logged value grows too large over another; keep the last weights.

    Args:
        monitor: name of the logged value, such as "rank_at_1" of `ValidationMonitor`.
        mode: "max" where larger is better.
        patience: epochs with a value but without improvement.
        min_delta: an improvement must be larger.
        ratio: (validation value, training value, limit), such as ("val_loss", "train_loss", 1.15): stops where the
            quotient of these logged values exceeds the limit for `patience` epochs.
        paired: an improvement counts only where the paired 95 % interval of the difference to the best epoch, over the
            identities of the `ValidationMonitor`, leaves out 0; `monitor` is then one of its ranking measures.

    Behaviour in corner cases: an epoch that logs no value (where validation is every other epoch) is left out of the
    count. A value that is not finite stops at once.

    Example:
        >>> from legolas_metric.training.early_stopping import EarlyStopping
        >>> EarlyStopping("rank_at_1", patience=5).rule.patience
        5

    Source: ours.
    """

    def __init__(
        self,
        monitor: str,
        *,
        mode: Mode = "max",
        patience: int,
        min_delta: float | int = 0,
        ratio: Ratio | None = None,
        paired: bool = False,
    ) -> None:
        super().__init__()
        limit = None if ratio is None else _checked(ratio)[2]
        self.rule = StoppingRule(mode=mode, patience=patience, min_delta=min_delta, ratio_limit=limit)
        self.monitor, self.mode, self.patience = monitor, mode, patience
        self.ratio = ratio
        self.paired = paired
        self._best: RankingReport | None = None  # the ranking of the best epoch, to pair with
        self._missed = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A run that had stopped stays stopped when it is taken up again."""
        trainer.should_stop = trainer.should_stop or self.rule.stopped

    def judge(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Look at the epoch's value."""
        needed = (self.monitor, *(() if self.ratio is None else self.ratio[:2]))
        values = [self.logged(trainer, name) for name in needed]
        there = [value for value in values if value is not None]
        if len(there) < len(needed):
            self._miss(trainer, needed)
            return
        pair = None if self.ratio is None else (there[1], there[2])
        report, measure = _report(trainer, self.monitor) if self.paired else (None, "")
        interval = None
        if report is not None and self._best is not None:
            difference = replace(report, baseline=self._best).difference(measure)
            interval = (difference.low, difference.high)
        epoch, before = trainer.current_epoch, self.rule.stopped
        stop = self._told(there[0], epoch, module, pair, interval)
        if stop and not before:
            record_beside(trainer, epoch=epoch + 1, what="stop", why=f"{self.monitor}: {self.rule.why}")
        if self.rule.best_epoch == epoch:
            self._best = report
        trainer.should_stop = trainer.should_stop or stop

    def _told(self, value: float, epoch: int, module: L.LightningModule, pair: Pair, interval: Interval | None) -> bool:
        return self.rule.update(value, epoch, ratio=pair, interval=interval)

    def _miss(self, trainer: L.Trainer, needed: tuple[str, ...]) -> None:
        self._missed += 1
        if self.rule.updates == 0 and self._missed == self.patience:
            held = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            warnings.warn(
                f"{type(self).__name__} waits for {', '.join(needed)}, none of {self._missed} epochs logged all of it; "
                f"logged: {held}",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """Where the rule stands."""
        return {"rule": self.rule.state_dict(), "best": as_plain(self._best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        self.rule.load_state_dict(state_dict["rule"])
        self._best = as_record(state_dict["best"])


class RestoringEarlyStopping(EarlyStopping):
    """`EarlyStopping` that goes back to an earlier epoch's weights: when it stops training, and when training ends.

    The whole module's weights return when fitting has ended (`on_fit_end`), so that what is evaluated next is what
    should be kept. Until then they lie in files, see `RestoringStopper`.

    Args:
        monitor, mode, patience, min_delta: as `EarlyStopping`.
        restore: "best", the epoch of the best value; or "before_patience", the last epoch before the streak that ended
            training, `trigger - patience`.
        ratio, paired: as `EarlyStopping`.
        folder: for the weights (default: one for each run in `early_stopping`, below `default_root_dir`). What
            a run that was killed leaves there is what it needs to be taken up again.

    Attributes:
        restored_epoch: the epoch whose weights the module has after fitting; None before.

    Example:
        >>> from legolas_metric.training.early_stopping import RestoringEarlyStopping
        >>> stop = RestoringEarlyStopping("rank_at_1", patience=5, ratio=("val_loss", "train_loss", 1.15))
        >>> stop.rule.ratio_limit
        1.15

    Source: ours.
    """

    def __init__(
        self,
        monitor: str,
        *,
        mode: Mode = "max",
        patience: int,
        min_delta: float | int = 0,
        restore: Restore = "best",
        ratio: Ratio | None = None,
        paired: bool = False,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(monitor, mode=mode, patience=patience, min_delta=min_delta, ratio=ratio, paired=paired)
        self.stopper = RestoringStopper(self.rule, folder=folder or "early_stopping", restore=restore)
        self.restored_epoch: int | None = None
        self._anywhere = folder is None
        self._run = uuid.uuid4().hex[:12]  # so that runs that share a folder keep apart

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Settle where the weights lie."""
        if self._anywhere:
            self._place(trainer.default_root_dir)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Find the folder of the run that is taken up again, before its state is."""
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state:
            self._run = state["run"]
        if self._anywhere:
            self._place(trainer.default_root_dir)

    def _place(self, root: str) -> None:
        self.stopper.folder = Path(root) / "early_stopping" / self._run

    def _told(self, value: float, epoch: int, module: L.LightningModule, pair: Pair, interval: Interval | None) -> bool:
        return self.stopper.update(value, epoch, module.state_dict(), ratio=pair, interval=interval)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go back to the weights that were asked for."""
        kept = self.stopper.restored()
        if kept is not None:
            pl_module.load_state_dict(kept.weights)
            self.restored_epoch = kept.epoch
            why = f"weights of epoch {kept.epoch + 1}, as {self.stopper.restore!r} asks by {self.monitor}"
            record_beside(trainer, epoch=trainer.current_epoch, what="restore", why=why)
            self.stopper.clear()
            above = self.stopper.folder.parent
            if self._anywhere and above.is_dir() and not any(above.iterdir()):
                above.rmdir()

    def state_dict(self) -> dict[str, Any]:
        """Where it stands; the weights are in its folder."""
        return {"run": self._run, "stopper": self.stopper.state_dict(), "best": as_plain(self._best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        self._run = state_dict["run"]
        self.stopper.load_state_dict(state_dict["stopper"])
        self._best = as_record(state_dict["best"])


def _checked(ratio: Ratio) -> Ratio:
    if len(ratio) != 3 or not all(isinstance(name, str) for name in ratio[:2]):
        raise ValueError(f"ratio must be (name of a validation value, of a training value, limit), got {ratio}")
    return ratio


def _report(trainer: L.Trainer, monitor: str) -> tuple[RankingReport, str]:
    """The ranking that the logged value is of, as the epoch's validation left it, and which of its measures it is."""
    monitors = [held for held in _callbacks(trainer) if isinstance(held, ValidationMonitor) and held.history]
    named = [held for held in monitors if monitor.startswith(held.prefix)]
    if not named:
        raise ValueError("paired=True compares rankings of a ValidationMonitor: add one to the Trainer's callbacks")
    of = max(named, key=lambda held: len(held.prefix))
    record = of.history[-1]
    measure, _, protocol = monitor.removeprefix(of.prefix).partition("/")
    if protocol and protocol not in record.rankings:
        raise ValueError(f"no protocol {protocol!r} in the ValidationMonitor; it has {', '.join(record.rankings)}")
    return (record.rankings[protocol] if protocol else record.ranking), measure


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
