"""When to stop, and which epoch's weights to go back to: plain objects for any loop."""

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from legolas_metric.checks import check_choice, check_number, check_whole
from legolas_metric.files import read_tensors, write_tensors
from legolas_metric.signatures import typed

Mode = Literal["max", "min"]
Restore = Literal["best", "before_patience"]
Interval = tuple[float | int, float | int]


def better(value: float | int, than: float | int, mode: Mode, by: float | int = 0.0) -> bool:
    """Whether a value beats another by more than `by`; NaN beats nothing."""
    return value - than > by if mode == "max" else than - value > by


class StoppingRule:
    """Stop when a value has not improved for `patience` updates, or when a ratio exceeded its limit for as many.

    An improvement beats the last one that counted by more than `min_delta`; with a paired interval it must also leave
    out 0. The best epoch is that of the best value as it is, the first of equal ones. A value that is not finite stops
    at once, as in Lightning.

    Args:
        mode: "max" where larger is better.
        patience: updates without improvement, at least 1.
        min_delta: an improvement must be larger, in units of the value.
        ratio_limit: of validation loss / training loss, say 1.15 for cross-entropy and 20 for focal loss.

    Behaviour in corner cases: a ratio whose training value is 0 is infinite; one that is NaN counts as exceeded.

    Raises:
        ValueError: an unknown mode, a patience below 1, or limits that are negative or not finite.

    Example:
        >>> from legolas_metric.training.stopping import StoppingRule
        >>> rule = StoppingRule(patience=2)
        >>> [rule.update(value, epoch) for epoch, value in enumerate([0.2, 0.5, 0.4, 0.3])]
        [False, False, False, True]
        >>> rule.best_epoch, rule.why
        (1, 'no improvement on 0.5 (epoch 1) for 2 updates')

    Source: Prechelt (1998), Early Stopping - But When?; the limit on the ratio is ours.
    """

    @typed
    def __init__(
        self, *, mode: Mode = "max", patience: int, min_delta: float | int = 0.0, ratio_limit: float | int | None = None
    ) -> None:
        check_choice("mode", mode, get_args(Mode))
        check_number("min_delta", min_delta, least=0.0)
        if ratio_limit is not None:
            check_number("ratio_limit", ratio_limit, above=0.0)
        self.mode: Mode = mode
        self.patience = check_whole("patience", patience, 1)
        self.min_delta = min_delta
        self.ratio_limit = ratio_limit
        worst = -math.inf if mode == "max" else math.inf
        self.best_value, self.best_epoch = worst, -1
        self.waited = self.exceeded = self.updates = 0
        self.why: str | None = None
        self._counted, self._counted_epoch = worst, -1  # the last improvement that counted

    @property
    def stopped(self) -> bool:
        """Whether training should stop."""
        return self.why is not None

    @property
    def streak(self) -> int:
        """Updates since all was well: without improvement, or with the ratio beyond its limit."""
        return max(self.waited, self.exceeded)

    def update(
        self,
        value: float | int,
        epoch: int,
        *,
        ratio: tuple[float | int, float | int] | None = None,
        interval: Interval | None = None,
    ) -> bool:
        """Tell the value of an epoch; True where training should stop.

        Args:
            value: what is monitored.
            epoch: its number.
            ratio: (validation value, training value) of this epoch, needed with a `ratio_limit`.
            interval: (low, high) of the paired difference to the best epoch so far, this minus that.

        Raises:
            ValueError: a ratio without its limit, or an interval that is upside down.
        """
        if (ratio is None) != (self.ratio_limit is None):
            given, needed = ("no ratio", "one") if ratio is None else (f"ratio={ratio}", "none")
            raise ValueError(f"got {given} with ratio_limit={self.ratio_limit}, which needs {needed}")
        if interval is not None and interval[0] > interval[1]:
            raise ValueError(f"interval must be (low, high), got {interval}")
        self.updates += 1
        if better(value, self.best_value, self.mode):
            self.best_value, self.best_epoch = value, epoch
        self._count(value, epoch, interval)
        if ratio is not None and self.ratio_limit is not None:
            within = _quotient(*ratio) <= self.ratio_limit
            self.exceeded = 0 if within else self.exceeded + 1
        if self.why is None:
            self.why = self._reason(value, ratio)
        return self.stopped

    def _count(self, value: float | int, epoch: int, interval: Interval | None) -> None:
        shown = interval is None or (interval[0] > 0 if self.mode == "max" else interval[1] < 0)
        first = self._counted_epoch < 0  # nothing to be paired with
        if better(value, self._counted, self.mode, self.min_delta) and (shown or first):
            self._counted, self._counted_epoch, self.waited = value, epoch, 0
        else:
            self.waited += 1

    def _reason(self, value: float | int, ratio: tuple[float | int, float | int] | None) -> str | None:
        if not math.isfinite(value):
            return f"the monitored value is {value}"
        if self.waited >= self.patience:
            since = f"{self._counted:.6g} (epoch {self._counted_epoch})"
            return f"no improvement on {since} for {self.waited} updates"
        if self.exceeded >= self.patience and ratio is not None:
            return (
                f"validation over training is {_quotient(*ratio):.3g}, above {self.ratio_limit:g} for "
                f"{self.exceeded} updates"
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        """Where the rule stands, as plain values."""
        names = ("best_value", "best_epoch", "waited", "exceeded", "updates", "why", "_counted", "_counted_epoch")
        return {name.lstrip("_"): getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        for name, value in state_dict.items():
            setattr(self, f"_{name}" if name.startswith("counted") else name, value)


def _quotient(validation: float | int, training: float | int) -> float:
    return validation / training if training else math.inf


@dataclass(frozen=True, slots=True)
class EpochWeights:
    """Weights that were kept of an epoch.

    Example:
        >>> import torch
        >>> from legolas_metric.training.stopping import EpochWeights
        >>> EpochWeights(3, {"weight": torch.zeros(2)}).epoch
        3

    Source: ours.
    """

    epoch: int
    weights: dict[str, Tensor]


class RestoringStopper:
    """A `StoppingRule` that keeps, on disk, the weights that training will have to go back to.

    "best" goes back to the best epoch. "before_patience" goes back to the last epoch before the streak under way
    (`trigger - patience` where it stopped training; the last epoch of all where nothing was amiss). The folder holds
    what may yet be asked for and what the last saved state refers to: at most 2 files for "best", 2 (patience + 1) for
    "before_patience", each written whole or not at all.

    Args:
        rule: decides.
        folder: for the weights; it is made when first needed.
        restore: "best" or "before_patience".

    Behaviour in corner cases: where the files of a resumed state are gone (an older checkpoint than the last one), that
    is warned of, and the best epoch is chosen among those that follow.

    Raises:
        ValueError: an unknown `restore`.

    Example:
        >>> import torch
        >>> from legolas_metric.training.stopping import RestoringStopper, StoppingRule
        >>> encoder = torch.nn.Linear(2, 2)
        >>> stopper = RestoringStopper(StoppingRule(patience=2), folder="kept")
        >>> for epoch, value in enumerate([0.2, 0.5, 0.4, 0.3]):  # train, evaluate, then:
        ...     stopped = stopper.update(value, epoch, encoder.state_dict())
        >>> kept = stopper.restored()
        >>> _ = encoder.load_state_dict(kept.weights)
        >>> stopped, kept.epoch
        (True, 1)

    Source: ours.
    """

    @typed
    def __init__(self, rule: StoppingRule, *, folder: str | os.PathLike[str], restore: Restore = "best") -> None:
        check_choice("restore", restore, get_args(Restore))
        self.rule = rule
        self.folder = Path(folder)
        self.restore: Restore = restore
        self._kept: list[int] = []  # epochs whose weights may yet be asked for, oldest first
        self._saved: list[int] = []  # epochs that the last saved state refers to

    def update(
        self,
        value: float | int,
        epoch: int,
        weights: Mapping[str, Tensor],
        *,
        ratio: tuple[float | int, float | int] | None = None,
        interval: Interval | None = None,
    ) -> bool:
        """`StoppingRule.update`, with the weights as they are at the end of that epoch."""
        ended = self.rule.stopped
        stop = self.rule.update(value, epoch, ratio=ratio, interval=interval)
        if self.restore == "before_patience":
            if ended:  # by `min_epochs`, say: what to go back to is settled
                return stop
            wanted = [*self._kept, epoch][-(self.rule.streak + 1) :]
        else:
            wanted = [self.rule.best_epoch] if self.rule.best_epoch >= 0 else []
        if epoch in wanted:
            write_tensors(self._path(epoch), weights)
        self._kept = [held for held in wanted if held == epoch or held in self._kept]
        self._tidy()
        return stop

    def restored(self) -> EpochWeights | None:
        """The weights to go back to; None before the first update, or where no value was ever a number."""
        if not self._kept:
            return None
        return EpochWeights(self._kept[0], read_tensors(self._path(self._kept[0]))[0])

    def clear(self) -> None:
        """Delete the files: when training has ended and the weights are back."""
        self._kept, self._saved = [], []
        self._tidy()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as plain values; the weights stay in the folder until a later state is taken."""
        self._saved = list(self._kept)
        self._tidy()
        return {"rule": self.rule.state_dict(), "kept": list(self._kept)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the weights that lie in the folder."""
        self.rule.load_state_dict(state_dict["rule"])
        kept = list(state_dict["kept"])
        there = [epoch for epoch in kept if self._path(epoch).is_file()]
        if kept and kept[0] not in there:
            warnings.warn(
                f"the weights of epoch {kept[0]}, which training would go back to, are not in {self.folder}: the state "
                "is older than the files. The best epoch is chosen among those that follow",
                stacklevel=2,
            )
            fresh = StoppingRule(mode=self.rule.mode, patience=self.rule.patience)
            self.rule.best_value, self.rule.best_epoch = fresh.best_value, -1
        self._kept, self._saved = there, list(there)

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch}.safetensors"

    def _tidy(self) -> None:
        held = {self._path(epoch) for epoch in (*self._kept, *self._saved)}
        for pattern in ("epoch_*.safetensors", ".epoch_*.safetensors"):  # the latter: writes that were killed
            for path in self.folder.glob(pattern):
                if path not in held:
                    path.unlink(missing_ok=True)
