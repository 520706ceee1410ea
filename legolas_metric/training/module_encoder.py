"""The encoder of a LightningModule, placed as the Trainer runs it."""

from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from legolas_metric.datasets.embedding import Encoder
from legolas_metric.distributed import ALONE, World
from legolas_metric.training.embedder import Placed

EncoderOption = str | Callable[[Any], Encoder] | None
"""The name of a module's attribute, dotted for parts of it, or a function of the module; None for the usual one."""


def check_encoder(option: EncoderOption) -> None:
    """Raise unless it names an encoder."""
    if isinstance(option, nn.Module):
        raise TypeError(
            "encoder is the name of an attribute of the LightningModule, or a function of it such as "
            "lambda module: module.backbone, not a module: a module may be moved or replaced when training begins"
        )
    if not (option is None or isinstance(option, str) or callable(option)):
        raise TypeError(f"encoder must be an attribute's name or a function of the LightningModule, got {option!r}")


def encoder_of(pl_module: L.LightningModule, option: EncoderOption) -> Encoder:
    """The encoder that is asked for, else `module.encoder`, else the module itself.

    Raises:
        ValueError: no attribute of that name, or something that can't be called.
    """
    if option is None:
        found: Any = getattr(pl_module, "encoder", pl_module)
    elif isinstance(option, str):
        found = pl_module
        for name in option.split("."):
            if not hasattr(found, name):
                raise ValueError(f"encoder={option!r}, but {type(found).__name__} has no attribute {name!r}")
            found = getattr(found, name)
    else:
        found: Any = option(pl_module)
    if not callable(found):
        raise ValueError(f"the encoder of {type(pl_module).__name__} must map inputs to [b, d], got {found!r}")
    return found  # pyright: ignore[reportReturnType]  (what it maps to is checked at each batch)


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
