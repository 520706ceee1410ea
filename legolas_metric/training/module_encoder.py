"""The encoder of a LightningModule, placed as the Trainer runs it."""

import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from legolas_metric.distributed import ALONE, World
from legolas_metric.training.embedder import Placed
from legolas_metric.training.encoder_option import EncoderOption, encoder_of


def placed_encoder(trainer: L.Trainer, pl_module: L.LightningModule, option: EncoderOption) -> Placed:
    """The encoder, with the module's device and in the Trainer's precision."""
    found = encoder_of(pl_module, option)
    context = trainer.precision_plugin.forward_context
    return Placed(found, None if isinstance(found, nn.Module) else pl_module, pl_module.device, context)


def world_of(trainer: L.Trainer) -> World:
    """The processes that a Trainer trains on, in the process group of its strategy.

    Raises:
        ValueError: a strategy that divides the module's weights, so that no process could embed by itself.
    """
    if trainer.world_size == 1:
        return ALONE
    if not isinstance(trainer.strategy, DDPStrategy):
        raise ValueError(
            f"every process embeds with a whole encoder, which {type(trainer.strategy).__name__} does not give it: use "
            "strategy='ddp' ('ddp_spawn', 'ddp_notebook'), or one device"
        )
    return World(trainer.global_rank, trainer.world_size, averages_gradients=True)


def finished(trainer: L.Trainer, *, epoch: int, step: int) -> bool:
    """Whether a run has nothing left to do at the beginning of an epoch."""
    over = trainer.max_epochs is not None and trainer.max_epochs != -1 and epoch >= trainer.max_epochs
    return over or (trainer.max_steps != -1 and step >= trainer.max_steps)
