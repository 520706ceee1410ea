"""What an epoch logged, read when all of it is there."""

from abc import abstractmethod
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping as MonitoringCallback


class LastInLine(MonitoringCallback):
    """A callback that is asked once an epoch, after all other callbacks and the module have logged.

    Lightning gives that place to checkpoints and to its own early stopping, and knows them by their class; hence the
    parent, of whose behaviour nothing else is left. In the list of callbacks it may stand anywhere.
    """

    def __init__(self) -> None:
        super().__init__(monitor="")
        self._stale: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Nothing to set up."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Nothing: an epoch is judged when it ends."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note what earlier epochs logged, so that it isn't taken for this epoch's."""
        self._stale = dict(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge the epoch."""
        if not trainer.sanity_checking and not getattr(trainer, "fast_dev_run", False):
            self.judge(trainer, pl_module)

    @abstractmethod
    def judge(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Look at what the epoch logged."""

    def logged(self, trainer: L.Trainer, name: str) -> float | None:
        """The value that this epoch logged under a name; None where it logged none."""
        value = trainer.callback_metrics.get(name)
        # Lightning keeps the values of earlier epochs, as the same objects; those that are logged anew are new ones.
        return None if value is None or value is self._stale.get(name) else float(value)
