"""Validation of user input, and the error texts that every layer shares.

Each `as_*` function takes what a user has (a torch tensor or a NumPy array, of any float width, contiguous or not)
and returns the tensor that the internals work on, or raises a `ValueError`/`TypeError` that says what was expected,
what came, and what to do.
"""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor


@runtime_checkable
class SupportsArray(Protocol):
    """What NumPy can read: a column or table of pandas, for example."""

    def __array__(self, dtype: Any = None) -> np.ndarray: ...

    def __len__(self) -> int: ...


ArrayLike = Tensor | np.ndarray | Sequence[Any] | SupportsArray
Metric = Literal["cosine", "dot", "euclidean"]

UNLABELLED = -1
"""The label of a row whose class is unknown: never an anchor, never a positive, may be a negative."""


def as_tensor(values: ArrayLike, *, name: str) -> Tensor:
    """A tensor of what the user has, in its own dtype; arrays that torch can't read as they are get copied.

    A list of tensors, and a column of vectors, are stacked.

    Raises:
        TypeError: strings, objects, dates.
        ValueError: rows of several lengths, masked entries, or integers beyond int64.
    """
    if isinstance(values, Tensor):
        if values.is_nested or values.layout != torch.strided or values.is_quantized or values.is_meta:
            raise TypeError(f"{name} must be a dense tensor, got a {_kind_of(values)} one: {_DENSE[_kind_of(values)]}")
        if values.dtype == torch.uint64:
            return as_tensor(values.detach().cpu().numpy(), name=name)
        return values
    array = _as_array(values, name)
    if isinstance(array, Tensor):
        return array
    if array.dtype.kind == "u" and array.dtype.itemsize == 8:
        _refuse_huge([array.max()] if array.size else [], name)
        array = array.astype(np.int64)
    # torch takes neither negative strides, read-only memory nor foreign byte order.
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if native.dtype.kind == "f" and native.dtype.itemsize > 8:
        native = native.astype(np.float64)
    if not native.flags.writeable:
        return torch.from_numpy(np.array(native, order="C"))
    return torch.from_numpy(np.ascontiguousarray(native) if native.ndim else native)


_DENSE = {
    "nested": "pass rows of one length, or pad them with .to_padded_tensor(0.0)",
    "sparse": "convert with .to_dense()",
    "quantized": "convert with .dequantize()",
    "meta": "it holds no numbers; load it first",
}


def _kind_of(values: Tensor) -> str:
    if values.is_nested:
        return "nested"
    if values.layout != torch.strided:
        return "sparse"
    return "quantized" if values.is_quantized else "meta"


def _as_array(values: ArrayLike, name: str) -> np.ndarray | Tensor:
    """Numbers as an array, or as a tensor where they are a list of tensors."""
    if isinstance(values, Sequence) and len(values) and all(isinstance(entry, Tensor) for entry in values):
        shapes = sorted({tuple(entry.shape) for entry in values})
        if len(shapes) > 1:
            raise ValueError(f"{name} has rows of several shapes, {shapes[0]} and {shapes[1]}: they must be equal")
        return torch.stack([entry.detach() for entry in values])
    if not isinstance(values, np.ndarray) and hasattr(values, "toarray"):
        raise TypeError(f"{name} must be dense, got a sparse {type(values).__name__}: convert with .toarray()")
    try:
        array = np.asarray(np.ma.getdata(values) if isinstance(values, np.ma.MaskedArray) else values)
        if array.dtype.kind == "O" and array.ndim == 1 and array.size and all(hasattr(e, "__len__") for e in array):
            array = np.stack([np.asarray(entry) for entry in array])  # a column of vectors
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name} must be a table of numbers, with rows of one length: {error}") from error
    if np.ma.is_masked(values):
        raise ValueError(f"{name} has masked entries: fill them with .filled(value), or drop these rows")
    if array.dtype.kind == "f" and isinstance(values, Sequence):  # NumPy makes floats of integers beyond its own
        _refuse_huge((entry for entry in values if isinstance(entry, int)), name)
    if array.dtype.kind in "US":
        raise TypeError(f"{name} must be numbers, got strings (first: {str(array.flat[0])[:20]!r})")
    if array.dtype.kind == "O" and all(isinstance(entry, Integral) for entry in array.flat):
        _refuse_huge(array.flat, name)
        return array.astype(np.int64)
    if array.dtype.kind not in "biufc":
        entry = array.flat[0] if array.size else None
        raise TypeError(
            f"{name} must be numbers, got an array of {array.dtype} (first: {type(entry).__name__}): "
            "numpy.asarray(values, dtype=float) converts what is numbers"
        )
    return array


def _refuse_huge(entries: Iterable[Any], name: str) -> None:
    largest = max((abs(int(entry)) for entry in entries), default=0)
    if largest >= 2**63:
        raise ValueError(f"{name} must be below 2^63, got {largest}: number them anew, or take x % 2**63")


def as_integers(values: ArrayLike, n: int | None, *, name: str, of: str = "embeddings") -> Int64[Tensor, " n"]:
    """int64 values, one for each of n rows (any number of them where n is None): a copy.

    Raises:
        TypeError: floats, booleans, strings.
        ValueError: wrong length, not 1-D, or beyond int64.
    """
    given = as_tensor(values, name=name)
    if given.dtype == torch.bool and given.ndim == 1:
        raise TypeError(
            f"{name} must be integers, got a mask of booleans: numpy.flatnonzero(mask) gives its positions, "
            "numpy.asarray(mask, dtype=int) its 0 and 1"
        )
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        if given.numel() == 0 and not isinstance(values, Tensor | np.ndarray):
            given = given.long()  # an empty list has no dtype of its own
        else:
            remedy = ".long()" if isinstance(values, Tensor) else "numpy.asarray(values).astype('int64')"
            raise TypeError(f"{name} must be integers, got {given.dtype}: convert whole numbers with {remedy}")
    if given.ndim != 1:
        hint = "" if given.ndim != 2 else "; several labels a row are LabelRelation.multi_label(table)"
        raise ValueError(f"{name} must be 1-D, got shape {tuple(given.shape)}: one integer for each row{hint}")
    if n is not None and given.shape[0] != n:
        raise ValueError(f"{name} has {len(given)} entries for {n} rows of {of}: give one for each row")
    return given.detach().to(torch.int64, copy=True, memory_format=torch.contiguous_format)


def check_metric(metric: str) -> None:
    """Raise unless the metric is one that the library knows."""
    check_choice("metric", metric, get_args(Metric))


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise unless the value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")


def shown(value: Any) -> str:
    """A value in an error text: itself where that is short, or else its type."""
    text = repr(value) if isinstance(value, str | Real | None | list | tuple | dict) else ""
    return text if 0 < len(text) <= 60 else f"a {type(value).__name__}"


def check_at_least(name: str, value: Any, least: float | int) -> None:
    """Raise unless a number is at least `least`; infinity is."""
    if not float(_number(name, value)) >= least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_number(
    name: str, value: Any, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
) -> None:
    """Raise unless a value is a finite number with least <= value <= most and value > above."""
    number = float(_number(name, value))
    if not (math.isfinite(number) and least <= number <= most and number > above):
        limits = [f"at least {least:g}"] * (least > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
        limits += [f"at most {most:g}"] * (most < math.inf)
        raise ValueError(f"{name} must be a finite number{', ' * bool(limits)}{' and '.join(limits)}, got {value}")


def _number(name: str, value: Any) -> Any:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    return within_int64(name, int(value)) if isinstance(value, Integral) else value


def check_whole(name: str, value: Any, least: int) -> int:
    """An integer as Python's own; raise unless it is one, at least `least`, and below 2^63."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    check_at_least(name, int(value), least)
    return int(value)


def within_int64(name: str, value: int) -> int:
    """The integer itself; raise where int64 doesn't hold it."""
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must be below 2^63, got {value}")
    return value


def as_device(device: torch.device | str) -> torch.device:
    """A device by its name; raise unless torch knows it."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be one of torch's, such as 'cpu' or 'cuda:0', got {device!r}") from error


def check_device(a: Tensor, b: Tensor, *, names: tuple[str, str]) -> None:
    """Raise unless two tensors lie on one device."""
    if a.device != b.device:
        raise ValueError(f"{names[0]} is on {a.device}, {names[1]} on {b.device}: move one with .to(device)")


def check_dimension(a: Float[Tensor, "n d"], b: Any, *, names: tuple[str, str]) -> None:
    """Raise unless two tables, of which `b` may be one on disk, have rows of the same length."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{names[0]} has {a.shape[1]} dimensions, {names[1]} has {b.shape[1]}: they must be equal")
