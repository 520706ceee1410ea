"""Validation of user input, and the error texts that every layer shares.

Each `as_*` function takes what a user has (a torch tensor or a NumPy array, of any float width, contiguous or not)
and returns the tensor that the internals work on, or raises a `ValueError`/`TypeError` that says what was expected,
what came, and what to do.
"""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from legolas_metric.compiled import runs_compiled

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
    return torch.from_numpy(np.array(native, order="C", copy=not native.flags.writeable or None))


def as_embeddings(
    embeddings: ArrayLike,
    *,
    name: str = "embeddings",
    metric: Metric | None = None,
    ids: Int64[Tensor, " n"] | None = None,
) -> Float32[Tensor, "n d"]:
    """Finite float32 rows on their own device, made contiguous.

    Args:
        embeddings: [n, d] of float16, bfloat16, float32 or float64.
        name: what the caller calls this argument, for the error text.
        metric: with "cosine", rows of norm zero are refused too.
        ids: [n], names the rows in the error text (default: row numbers).

    Raises:
        TypeError: integers, booleans or complex numbers.
        ValueError: not 2-D, empty, NaN or inf (also after the cast to float32), or zero rows under cosine.
    """
    rows = as_float_rows(embeddings, name=name)
    check_norms(rows, *_norm_range(rows), name=name, metric=metric, ids=ids)
    return rows


def as_float_rows(embeddings: ArrayLike, *, name: str) -> Float32[Tensor, "n d"]:
    """What `as_embeddings` gives, before it looks at the values: they may not be finite.

    Raises:
        TypeError, ValueError: as `as_embeddings`, but for the values.
    """
    rows = as_tensor(embeddings, name=name)
    if not rows.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {rows.dtype}: convert with .float()")
    if rows.ndim != 2 or rows.shape[0] == 0 or rows.shape[1] == 0:
        raise ValueError(f"{name} must be [n, d] with n >= 1 and d >= 1, got shape {tuple(rows.shape)}")
    return rows.detach().to(torch.float32).contiguous()


def check_norms(
    rows: Float32[Tensor, "n d"],
    least: float,
    most: float,
    *,
    name: str,
    metric: Metric | None,
    ids: Int64[Tensor, " n"] | None,
) -> None:
    """Raise, by their least and largest norm, where rows are not finite or, under "cosine", all zero."""
    if not math.isfinite(most):
        _refuse_rows(
            ~torch.isfinite(rows).all(1),
            ids,
            f"{name}: NaN or inf (in float32)",
            "find where the encoder overflowed, or drop these rows",
        )
    if metric == "cosine" and least == 0:
        _refuse_rows(
            (rows == 0).all(1),
            ids,
            f"{name}: all zero, which has no direction under metric='cosine',",
            "drop these rows, or use metric='euclidean' or 'dot'",
        )


def _norm_range(rows: Float32[Tensor, "n d"]) -> tuple[float, float]:
    """The least and the largest norm of rows, in float64: finite of finite rows, and 0 of zeros alone."""
    if runs_compiled(rows.device):
        from legolas_metric.kernels import norm_range

        return norm_range(rows.numpy())
    least, most = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).aminmax()
    return float(least), float(most)


def as_labels(labels: ArrayLike, n: int, *, name: str = "labels", of: str = "embeddings") -> Int64[Tensor, " n"]:
    """int64 labels of n rows; -1 means unlabelled, anything below it is refused.

    Raises:
        TypeError: labels that are not integers.
        ValueError: wrong length, not 1-D, or a label below -1.
    """
    values = as_integers(labels, n, name=name, of=of)
    if values.numel() and int(values.min()) < UNLABELLED:
        raise ValueError(f"{name} must be >= 0, or -1 for unlabelled, got {int(values.min())}")
    return values


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


def as_ids(ids: ArrayLike | None, n: int, *, of: str = "embeddings") -> Int64[Tensor, " n"]:
    """int64 ids of n rows, all different and >= 0; row numbers where none are given."""
    if ids is None:
        return torch.arange(n)
    values = as_integers(ids, n, name="ids", of=of)
    if n and int(values.min()) < 0:
        raise ValueError(f"ids must be >= 0, got {int(values.min())}: -1 stands for 'no neighbour'")
    ordered = values.sort().values
    repeated = ordered[1:][ordered[1:] == ordered[:-1]].unique()
    if len(repeated):
        raise ValueError(
            f"ids must be unique, got {len(repeated)} that occur more than once (first: {_first(repeated)})"
        )
    return values


def as_groups(groups: ArrayLike | None, n: int, *, of: str = "embeddings") -> Int64[Tensor, " n"] | None:
    """int64 groups (session, camera, recording) of n rows, or None where none are given."""
    return None if groups is None else as_integers(groups, n, name="groups", of=of)


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


def _refuse_rows(bad: Bool[Tensor, " n"], ids: Tensor | None, what: str, remedy: str) -> None:
    rows = bad.nonzero().flatten()
    names = rows if ids is None else ids.to(rows.device)[rows]
    kind = "rows" if ids is None else "ids"
    raise ValueError(f"{what} in {len(rows)} of {len(bad)} rows (first {kind}: {_first(names)}): {remedy}")


def _first(values: Tensor, count: int = 5) -> str:
    shown = ", ".join(str(int(value)) for value in values[:count])
    return shown + (", ..." if len(values) > count else "")
