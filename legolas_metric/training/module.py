"""The training loop's module: an encoder, a loss, and the triplets that were mined for the batch."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from legolas_metric.records import Triplets

Batch = Sequence[Tensor]


class MetricLearner(L.LightningModule):
    """Minimise a metric loss over batches of (inputs, labels, ids), with AdamW and a one-cycle rate.

    Args:
        encoder: maps inputs to [b, d].
        loss: PML's call, `loss(embeddings, labels, indices_tuple)`.
        lr: highest learning rate of the cycle.
        weight_decay: of AdamW.

    `GlobalMining` sets `triplets` to have the loss see only the mined ones that lie in the batch; None leaves every
    pair of the batch to the loss.

    Example:
        >>> from legolas_metric import SupConLoss
        >>> from legolas_metric.encoders import Conv4
        >>> from legolas_metric.training import MetricLearner
        >>> learner = MetricLearner(Conv4(), SupConLoss(temperature=0.1), lr=2e-3)
    """

    triplets: Triplets | None = None

    def __init__(
        self, encoder: nn.Module, loss: Callable[..., Tensor], *, lr: float = 2e-3, weight_decay: float = 1e-4
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.loss = loss
        self.lr = lr
        self.weight_decay = weight_decay

    def forward(self, inputs: Tensor) -> Float[Tensor, "b d"]:
        """Embed a batch."""
        return self.encoder(inputs)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step: the loss over a batch of (inputs, labels, ids), or over its mined triplets."""
        inputs, labels, ids = batch
        indices = None if self.triplets is None else self.triplets.locate(ids)
        loss = self.loss(self.encoder(inputs), labels, indices)
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW, with the rate on one cycle: up to lr in the first tenth of all steps, then down to nearly nothing."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        # A function has no state, whereas a scheduler saves the attributes of a method.
        cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._share_of_lr(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def _share_of_lr(self, step: int) -> float:
        # The scheduler asks for step 0 when it is built. To count the steps then would have the loader's workers draw
        # batches before `GlobalMining` has mined any.
        return one_cycle(step, int(self.trainer.estimated_stepping_batches) if step else 1)


def one_cycle(step: int, total: int, *, warm_up: float = 0.1, start: float = 1 / 25, end: float = 1e-4) -> float:
    """Share of the highest rate at a step of `total`: start -> 1 -> end, each on half a cosine.

    Source: Smith and Topin (2017), Super-Convergence, arXiv:1708.07120.
    """
    peak = warm_up * total
    low, through = (start, step / peak) if step < peak else (end, 1 - (step - peak) / max(total - peak, 1))
    return low + (1 - low) * (1 - math.cos(math.pi * min(max(through, 0.0), 1.0))) / 2
