"""The rows, labels and weights of a batch, as a loss takes them: with their gradient, in any float type."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike, as_integers, as_tensor
from legolas_metric.geometry import tie_distance
from legolas_metric.lookup import inverse
from legolas_metric.losses.terms import refuse_second_derivative
from legolas_metric.rows import answered_by_a_scaler, as_labels, check_norms, warn_of_overflow

_LEAST_NORM = 2.0**-100
# What rounding in float64 makes of 2 - 2 s where two rows are equal.
_LEAST_GAP = 8 * torch.finfo(torch.float64).eps


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """What a loss computes in: float32, or float64 where the rows are."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def unit_rows(
    rows: Float[Tensor, "n d"],
    dtype: torch.dtype,
    name: str,
    order: Int64[Tensor, " n"] | None,
    *,
    once: bool,
) -> Float[Tensor, "n d"]:
    """x / |x| in a wide type, differentiable (with `once` in fewer steps, but once); in an order, or as they came.

    A row shorter than the least normal number of its own type has no direction and no gradient: that grows as 1 / |x|,
    and would overflow.

    NaN and inf in float16 make all rows NaN, and with them the loss and its gradient, which a gradient scaler answers.

    Raises:
        ValueError: NaN, inf, or a row of zeros, as a miner does.
    """
    wide = rows.to(dtype)
    compiling = torch.compiler.is_compiling()
    once = once and not compiling
    norm = torch.linalg.vector_norm(wide.detach() if once else wide, dim=1, keepdim=True, dtype=torch.float64)
    if len(rows) and not compiling:
        least, most = (float(extreme) for extreme in norm.detach().aminmax())
        if not math.isfinite(most) and answered_by_a_scaler(rows):
            warn_of_overflow(rows, name, "the loss is NaN")
            return wide * torch.nan
        if not (math.isfinite(most) and least > 0):
            check_norms(rows.detach().float(), least, most, name=name, metric="cosine", ids=None)
    norm = norm.to(dtype)
    norm = norm.masked_fill(norm <= max(_LEAST_NORM, torch.finfo(rows.dtype).tiny), torch.inf)
    if once:
        return _UnitRows.apply(wide, norm, order)
    x = wide / norm
    return x if order is None else x.index_select(0, order)


class _UnitRows(torch.autograd.Function):
    """Rows over their norms, in an order; the derivative, (g - x <x, g>) / |row|, at once: autograd takes it apart."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, norm: Tensor, order: Tensor | None) -> Tensor:
        x = rows / norm if order is None else rows.index_select(0, order).div_(norm.index_select(0, order))
        ctx.save_for_backward(x, norm, order)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_second_derivative()
        x, norm, order = ctx.saved_tensors
        back = torch.addcmul(grad, x, (grad * x).sum(1, keepdim=True), value=-1)
        if order is not None:
            back = back.index_select(0, inverse(order))
        return back.div_(norm), None, None


def settled(s: Float[Tensor, "*b"], dtype: torch.dtype) -> Float[Tensor, "*b"]:
    """float64 similarities by which a loss chooses: exactly 1 where two rows are equal but for the rounding of `dtype`.

    The rule of `geometry.exact_similarity`, from a product of unit rows.
    """
    gap = max(tie_distance(wide_type(dtype)) ** 2, _LEAST_GAP)
    return s.masked_fill(s >= 1 - gap / 2, 1.0)


def as_rows(rows: ArrayLike, name: str) -> Float[Tensor, "n d"]:
    """Floating-point rows with their gradient; a list of rows that are tensors is stacked."""
    tensor = tensor_of(rows, name)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}: convert with .float()")
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise ValueError(f"{name} must be [n, d] with d >= 1, got shape {tuple(tensor.shape)}")
    return tensor


def as_weights(weights: ArrayLike | None, like: Tensor, n: int, name: str, of: str) -> Float[Tensor, " n"]:
    """[n] weights that are finite and >= 0, of the dtype and device of `like`; 1 where none are given."""
    if weights is None:
        return like.new_ones(n)
    weight = tensor_of(weights, name).detach().to(like)
    if weight.shape != (n,):
        raise ValueError(f"{name} must be [{n}], one for each of the {of}, got shape {tuple(weight.shape)}")
    if not torch.compiler.is_compiling() and not bool((weight >= 0).all() & weight.isfinite().all()):
        raise ValueError(f"{name} must be finite and >= 0")
    return weight


def as_batch_labels(labels: ArrayLike, n: int, *, name: str = "labels", of: str = "embeddings") -> Int64[Tensor, " n"]:
    """`as_labels`, but for names: numbered within a batch, one name would get another number in the next."""
    refuse_names(labels, name)
    return as_labels(as_integers(labels, n, name=name, of=of), n, name=name, of=of)


def refuse_names(labels: ArrayLike, name: str) -> None:
    """Raise where labels are names."""
    entries = () if isinstance(labels, Tensor) else np.asarray(labels, dtype=object).flat
    first = next((entry for entry in entries if isinstance(entry, str)), None)
    if first is not None:
        raise TypeError(
            f"{name} must be integers in a loss, got names (first: {str(first)!r}): number the whole data set's labels "
            "once, numpy.unique(all_labels, return_inverse=True)[1], and pass the batch's own of those"
        )


def tensor_of(values: ArrayLike, name: str) -> Tensor:
    """The tensor itself; a list of tensors stacked, with their gradient; or what the user has, as a tensor."""
    if isinstance(values, list | tuple) and all(isinstance(row, Tensor) for row in values):
        rows = [row for row in values if isinstance(row, Tensor)]
        if len({row.shape for row in rows}) == 1:
            return torch.stack(rows)
    return as_tensor(values, name=name)
