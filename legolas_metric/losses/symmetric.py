"""A batch against itself: half of the similarity matrix gives the loss, and one product with it the gradient.

For a loss whose anchors see their batch only through two sums,

    value_i = f(z_i, p_i),  z_i = sum_{j != i} E(s_ij),  p_i = sum_{j in P(i)} Q(s_ij),

E and Q are symmetric in i and j; only the weights of their derivatives are not. The derivative by the embeddings is H X
with H_ij = E_ij (a_i + a_j) + Q'_ij (b_i + b_j). So every pair is exponentiated once, and three products of the whole
matrix become one and a half. N rows, B rows of a strip, V columns from its first row on, P positives of an anchor.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from legolas_metric.geometry import product
from legolas_metric.losses.pair_masks import ByLabel
from legolas_metric.losses.terms import Sums, Terms, refuse_second_derivative

_ROWS = 256


class Positives(NamedTuple):
    """Q of the positives of a strip, 0 elsewhere, and its derivative."""

    q: Float[Tensor, "b p"]
    slope: Float[Tensor, "b p"]


class Finished(NamedTuple):
    """The terms of all anchors; a_i, with which E is the derivative of value_i; and b_i, the derivative by p_i."""

    terms: Terms
    a: Float[Tensor, " n"]
    b: Float[Tensor, " n"]


@runtime_checkable
class PairSums(Protocol):
    """A loss by its two sums."""

    def weigh(self, s: Float[Tensor, "b v"], column: Int64[Tensor, "b p"], some: Float[Tensor, "b p"]) -> Positives:
        """Overwrite similarities by E, whatever it makes of a row with itself; `some` is 1 at positives, else 0."""
        ...

    def finish(self, z: Float[Tensor, " n"], p: Float[Tensor, " n"], count: Float[Tensor, " n"]) -> Finished:
        """From each anchor's sums and its number of positives to its terms."""
        ...


class _Strip(NamedTuple):
    rows: slice
    column: Int64[Tensor, "b p"]
    e: Float[Tensor, "b v"]
    slope: Float[Tensor, "b p"]


def symmetric_sums(
    y: Float[Tensor, "n d"], weights: Float[Tensor, " n"], relation: ByLabel, loss: PairSums, *, workspace_mb: int
) -> Sums:
    """Sum the terms of all anchors, each times its anchor's weight; similarities are y y^T, in the relation's order."""
    return Sums(*_Symmetric.apply(y, weights, relation, loss, workspace_mb << 20, torch.is_grad_enabled()))


class _Symmetric(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, weights: Tensor, relation: ByLabel, loss: PairSums, workspace: int, recording: bool
    ) -> tuple[Tensor, ...]:
        n = len(y)
        recording = recording and ctx.needs_input_grad[0]
        keep = recording and n * (n + _ROWS) // 2 * y.element_size() <= workspace
        z, p = y.new_zeros(2, n).unbind()
        kept = []
        for rows, column, some in relation.strips(_ROWS):
            e = product(y[rows], y[rows.start :])
            q, slope = loss.weigh(e, column, some.to(y.dtype))
            e.diagonal().zero_()
            # Each pair of a strip belongs to the sum of its row and, beyond the strip's own square, of its column.
            b = len(column)
            z[rows].add_(e.sum(1))
            z[rows.stop :].add_(e[:, b:].sum(0))
            p[rows].add_(q.sum(1))
            p.index_add_(0, (column + rows.start).view(-1), q.masked_fill(column < b, 0.0).view(-1))
            if keep:
                kept.append(_Strip(rows, column, e, slope))
        terms, a, b = loss.finish(z, p, relation.counts().to(y.dtype))
        if recording:
            strips = kept if keep else _strips_again(y, relation, loss)
            largest = weights.amax().clamp_min(torch.finfo(y.dtype).tiny)  # a alone may be as large as exp(80)
            share = weights / largest
            ctx.save_for_backward(_derivative(y, strips, a * share, b * share), largest)
        value, *counts = (torch.stack(terms) @ weights).unbind()
        ctx.mark_non_differentiable(*counts)
        return value, *counts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_second_derivative()
        derivative, largest = ctx.saved_tensors
        return derivative * (largest * grads[0]), None, None, None, None, None


def _strips_again(y: Tensor, relation: ByLabel, loss: PairSums) -> Iterator[_Strip]:
    for rows, column, some in relation.strips(_ROWS):
        e = product(y[rows], y[rows.start :])
        slope = loss.weigh(e, column, some.to(y.dtype)).slope
        e.diagonal().zero_()
        yield _Strip(rows, column, e, slope)


def _derivative(y: Tensor, strips: Iterable[_Strip], a: Tensor, b: Tensor) -> Tensor:
    out = torch.zeros_like(y)
    for rows, column, e, slope in strips:
        e.mul_(a[rows, None] + a[rows.start :])
        e.scatter_(1, column, e.gather(1, column).addcmul_(slope, b[rows, None] + b[rows.start :][column]))
        out[rows].add_(product(e, y[rows.start :].T))
        if rows.stop < len(y):
            out[rows.stop :].add_(product(e[:, len(column) :].contiguous().T, y[rows].T))
    return out
