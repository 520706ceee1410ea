"""The encoder of a LightningModule, placed as the Trainer runs it."""

from typing import Protocol, runtime_checkable

import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from legolas_metric.distributed import ALONE, World
from legolas_metric.training.embedder import Placed
from legolas_metric.training.encoder_option import EncoderOption, encoder_of
from legolas_metric.training.loop import MiningLoop


@runtime_checkable
class Mines(Protocol):
    """A callback that mines."""

    loop: MiningLoop
    encoder: EncoderOption


def trained_encoder(trainer: L.Trainer, option: EncoderOption) -> EncoderOption:
    """What is asked for, else what the run is mined with: one run, one encoder."""
    if option is not None:
        return option
    return next((callback.encoder for callback in trainer.callbacks if isinstance(callback, Mines)), None)  # pyright: ignore[reportAttributeAccessIssue]


def placed_encoder(trainer: L.Trainer, pl_module: L.LightningModule, option: EncoderOption) -> Placed:
    """The encoder, with the module's device and in the Trainer's precision.

    Raises:
        ValueError: see `encoder_of`; or a module without a forward pass, whose encoder is not told.
    """
    found = encoder_of(pl_module, option)
    if found is pl_module and type(pl_module).forward is L.LightningModule.forward:
        raise ValueError(
            f"{type(pl_module).__name__} has neither an attribute encoder nor a forward pass of its own to embed with: "
            f"pass encoder=, the name of the attribute that is its encoder"
        )
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
