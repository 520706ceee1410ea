"""Weight averaging on Lightning."""

from typing import Any

import lightning as L

from legolas_metric.training.weight_averaging import WeightAverage


class AveragedWeights(L.Callback):
    """Give the module, when fitting has ended, the average of its weights: `WeightAverage` on Lightning.

    Args:
        decay: of an exponential moving average over the steps.
        last: mean of the weights at the end of the last N epochs, in place of it.

    Raises:
        ValueError: both or neither of `decay` and `last`.

    Example:
        >>> from legolas_metric.training.averaged_weights import AveragedWeights
        >>> AveragedWeights(last=5).average.last
        5

    Source: ours.
    """

    def __init__(self, *, decay: float | None = None, last: int | None = None) -> None:
        super().__init__()
        self.average = WeightAverage(decay=decay, last=last)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take up the step's weights."""
        if self.average.decay is not None:
            self.average.update(pl_module.state_dict())

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take up the epoch's weights."""
        if self.average.last is not None:
            self.average.update(pl_module.state_dict())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average in the place of the weights."""
        pl_module.load_state_dict(self.average.weights())

    def state_dict(self) -> dict[str, Any]:
        """What the average holds."""
        return self.average.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        self.average.load_state_dict(state_dict)
