"""Does the attention of a sequence encoder attend to anything?"""

import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from legolas_metric.encoders.sequences import attention_entropy

UNIFORM = 0.99


class AttentionMonitor(L.Callback):
    """Log `attention_entropy` after every epoch: the mean over some sequences, 1 where all steps count alike.

    Where it is still above 0.99 after the last epoch, that is warned of: then the pooling is a plain mean.

    Args:
        sequences: [b, t, c], some of the validation set.
        lengths: [b].
        encoder: of the module: the attribute's name, or a function of the module.

    Raises:
        TypeError: at the first epoch, an encoder that doesn't tell its attention.

    Example:
        >>> import torch
        >>> from legolas_metric.training.attention_monitor import AttentionMonitor
        >>> AttentionMonitor(torch.randn(8, 20, 3)).history
        []

    Source: ours.
    """

    def __init__(
        self,
        sequences: Float[Tensor, "b t c"],
        lengths: Int64[Tensor, " b"] | None = None,
        *,
        encoder: str | Callable[[Any], Any] = "encoder",
    ) -> None:
        super().__init__()
        self.sequences, self.lengths, self.encoder = sequences, lengths, encoder
        self.history: list[float] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the epoch."""
        told = self.encoder
        encoder: Any = getattr(pl_module, told, None) if isinstance(told, str) else told(pl_module)
        if not hasattr(encoder, "attention"):
            name = told if isinstance(told, str) else type(encoder).__name__
            raise TypeError(f"{name} tells no attention: it needs attention(sequences, lengths) -> [b, t]")
        was = encoder.training
        encoder.eval()
        with torch.no_grad():
            weights = encoder.attention(self.sequences.to(pl_module.device), self.lengths)
        encoder.train(was)
        self.history.append(float(attention_entropy(weights, self.lengths).mean()))
        pl_module.log("attention_entropy", self.history[-1])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say so where nothing was learnt to attend to."""
        if self.history and self.history[-1] > UNIFORM:
            warnings.warn(
                f"attention is uniform (entropy {self.history[-1]:.3f} of 1): the pooling is a plain mean of all steps",
                stacklevel=2,
            )
