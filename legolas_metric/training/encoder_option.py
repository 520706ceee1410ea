"""Which part of a module that is trained embeds."""

from collections.abc import Callable
from typing import Any

from torch import nn

from legolas_metric.datasets.embedding import Encoder

EncoderOption = str | Callable[[Any], Encoder] | None
"""The name of a module's attribute, dotted for parts of it, or a function of the module; None for the usual one."""


def check_encoder(option: EncoderOption) -> None:
    """Raise unless it names an encoder."""
    if isinstance(option, nn.Module):
        raise TypeError(
            "encoder is the name of an attribute of the trained module, or a function of it such as "
            "lambda module: module.backbone, not a module: a module may be moved or replaced when training begins"
        )
    if not (option is None or isinstance(option, str) or callable(option)):
        raise TypeError(f"encoder must be an attribute's name or a function of the trained module, got {option!r}")


def encoder_of(pl_module: nn.Module, option: EncoderOption) -> Encoder:
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
