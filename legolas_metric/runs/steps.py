"""What happens to each training batch before its step: the step's own random state, and augmentation."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from jaxtyping import Float32
from torch import Tensor

from legolas_metric.encoders import augment_images, augment_signals, rarity
from legolas_metric.runs.run_settings import RunSettings

_OF_AXES: dict[int, Callable[..., Tensor]] = {2: augment_signals, 3: augment_images}  # axes of one input


class PrepareSteps(L.Callback):
    """Seed each step by its number, so that a run that was killed draws what it would have, and augment its inputs.

    Args:
        settings: `seed`, and `augment`: "rare" has rare classes augmented more, by `rarity`.
        labels: int64 [n], of the training part.
        axes: of one input.

    Raises:
        ValueError: augmentation of vectors.
    """

    def __init__(self, settings: RunSettings, labels: Tensor, axes: int) -> None:
        super().__init__()
        self.seed = settings.seed
        self.augment = None if settings.augment == "none" else augmentation(settings, axes)
        self.strength: Float32[Tensor, " n"] | None = rarity(labels) if settings.augment == "rare" else None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before a step."""
        torch.manual_seed(self.seed * 1_000_003 + trainer.global_step)
        if self.augment is None:
            return
        inputs, _, ids = batch
        own = None if self.strength is None else self.strength[ids.cpu()]
        inputs.copy_(self.augment(inputs, strength=own))  # the batch is this step's alone


def augmentation(settings: RunSettings, axes: int) -> Callable[..., Tensor]:
    """What augments inputs of so many axes.

    Raises:
        ValueError: there is nothing for vectors.
    """
    if axes not in _OF_AXES:
        raise ValueError(
            f"augment={settings.augment!r} is for images and signals, and these inputs are vectors: 'none'"
        )
    return _OF_AXES[axes]
