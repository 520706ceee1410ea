"""Validation of user input, and the error texts that every layer shares.

Each `as_*` function takes what a user has (a torch tensor or a NumPy array, of any float width, contiguous or not)
and returns the tensor that the internals work on, or raises a `ValueError`/`TypeError` that says what was expected,
what came, and what to do.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

ArrayLike = Tensor | np.ndarray | Sequence[Any]
Metric = Literal["cosine", "dot", "euclidean"]

UNLABELLED = -1
"""The label of a row whose class is unknown: never an anchor, never a positive, may be a negative."""


def as_tensor(values: ArrayLike, *, name: str) -> Tensor:
    """A tensor of what the user has, in its own dtype; arrays that torch can't read as they are get copied.

    Raises:
        TypeError: strings, objects, dates.
    """
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype.kind in "US":
        raise TypeError(f"{name} must be numbers, got strings: numpy.unique(x, return_inverse=True)[1] numbers them")
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{name} must be numbers, got an array of {array.dtype}: convert with .astype()")
    # torch takes neither negative strides, read-only memory nor foreign byte order.
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    plain = np.asarray(native, order="C")
    return torch.from_numpy(plain if plain.flags.writeable else plain.copy())


def as_integers(values: ArrayLike, n: int | None, *, name: str, of: str = "embeddings") -> Int64[Tensor, " n"]:
    """int64 values, one for each of n rows (any number of them where n is None)."""
    given = as_tensor(values, name=name)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        if given.numel() == 0 and not isinstance(values, Tensor | np.ndarray):
            given = given.long()  # an empty list has no dtype of its own
        else:
            raise TypeError(f"{name} must be integers, got {given.dtype}: convert with .long() / .astype(int64)")
    if given.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got shape {tuple(given.shape)}")
    if n is not None and given.shape[0] != n:
        raise ValueError(f"{name} has {len(given)} entries for {n} rows of {of}: give one for each row")
    return given.detach().to(torch.int64).contiguous()


def check_metric(metric: str) -> None:
    """Raise unless the metric is one that the library knows."""
    check_choice("metric", metric, get_args(Metric))


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_at_least(name: str, value: float | int, least: float | int) -> None:
    """Raise unless a number is at least `least`."""
    if not value >= least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_whole(name: str, value: Any, least: int) -> int:
    """An integer as Python's own; raise unless it is one, at least `least`, and below 2^63."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    check_at_least(name, int(value), least)
    if int(value) >= 2**63:
        raise ValueError(f"{name} must be below 2^63, got {value}")
    return int(value)


def check_device(a: Tensor, b: Tensor, *, names: tuple[str, str]) -> None:
    """Raise unless two tensors lie on one device."""
    if a.device != b.device:
        raise ValueError(f"{names[0]} is on {a.device}, {names[1]} on {b.device}: move one with .to(device)")


def check_dimension(a: Float[Tensor, "n d"], b: Float[Tensor, "m e"], *, names: tuple[str, str]) -> None:
    """Raise unless two tables have rows of the same length."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{names[0]} has {a.shape[1]} dimensions, {names[1]} has {b.shape[1]}: they must be equal")
