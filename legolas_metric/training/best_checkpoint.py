"""Keeping the best epoch's weights on Lightning."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from torch import nn

from legolas_metric.encoders.input_normalisation import InputNormalisation
from legolas_metric.training.best_weights import BestWeights
from legolas_metric.training.last_in_line import LastInLine
from legolas_metric.training.recording import record_beside
from legolas_metric.training.stopping import Mode


class BestCheckpoint(LastInLine):
    """Keep the weights of the best epoch by any logged value, in one file: `BestWeights` on Lightning.

    The file, `best_{name}.safetensors` or `best_{name}_fold{k}.safetensors`, holds the whole module's weights under the
    names of Lightning's own checkpoints, or those of one part of it.

    Args:
        monitor: name of the logged value: "rank_at_1", or "rank_at_1/cross-day" of one protocol among several.
        mode: "max" where larger is better.
        folder, name, fold, last: as `BestWeights`.
        settings, label_names, normalisation: as `BestWeights`; what is not given is taken from the module when training
            begins, where it tells (`hparams`, `label_names`, and a fitted `InputNormalisation` in it).
        part: name of the module's attribute whose weights are kept, such as "encoder" (default: all).

    Behaviour in corner cases: an epoch that logs no value is passed over; none ever logging it is warned of when
    training ends.

    Example:
        >>> from legolas_metric.training.best_checkpoint import BestCheckpoint
        >>> BestCheckpoint("rank_at_1", folder="kept", fold=2).path.name
        'best_model_fold2.safetensors'

    Source: ours.
    """

    def __init__(
        self,
        monitor: str,
        *,
        mode: Mode = "max",
        folder: str | os.PathLike[str],
        name: str = "model",
        fold: int | None = None,
        last: bool = False,
        part: str | None = None,
        settings: Mapping[str, Any] | None = None,
        label_names: Sequence[str] | None = None,
        normalisation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.best = BestWeights(
            monitor,
            mode=mode,
            folder=folder,
            name=name,
            fold=fold,
            last=last,
            settings=settings,
            label_names=label_names,
            normalisation=normalisation,
        )
        given = {"settings": settings, "label_names": label_names, "normalisation": normalisation}
        self._given = {name for name, value in given.items() if value is not None}
        self.monitor, self.mode = monitor, mode
        self.path = self.best.path
        self.part = part

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See that the part is there, before the first epoch, and what the module tells about itself."""
        kept = self._kept(pl_module)
        told: dict[str, Any] = {"settings": dict(pl_module.hparams), "label_names": _label_names(pl_module)}
        fitted = [part for part in kept.modules() if isinstance(part, InputNormalisation) and bool(part.fitted)]
        told["normalisation"] = fitted[0].figures() if fitted else None
        self.best.tell(**{name: value for name, value in told.items() if name not in self._given})

    def judge(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Keep the epoch, where it is the best."""
        value = self.logged(trainer, self.monitor)
        if value is not None and trainer.is_global_zero:
            self.best.update(value, trainer.current_epoch, self._kept(module).state_dict())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record what was kept, and say so where nothing was."""
        if self.best.best_epoch >= 0:
            why = f"epoch {self.best.best_epoch + 1}, {self.monitor} {self.best.best_value:.6g}, in {self.path.name}"
            record_beside(trainer, epoch=trainer.current_epoch, what="best weights", why=why)
        if self.best.best_epoch < 0 and trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            held = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            warnings.warn(f"no epoch was kept: none logged a number as {self.monitor!r}; logged: {held}", stacklevel=2)

    def _kept(self, module: L.LightningModule) -> nn.Module:
        if self.part is None:
            return module
        part = getattr(module, self.part, None)
        if not isinstance(part, nn.Module):
            parts = ", ".join(name for name, _ in module.named_children())
            raise ValueError(f"part={self.part!r} is no module of {type(module).__name__}; it has {parts}")
        return part

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        return self.best.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        self.best.load_state_dict(state_dict)


def _label_names(module: L.LightningModule) -> list[str] | None:
    names: Any = getattr(module, "label_names", None)
    return None if names is None else [str(name) for name in names]
