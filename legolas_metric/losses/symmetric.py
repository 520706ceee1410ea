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

from legolas_metric.geometry import chunks, product
from legolas_metric.losses.pair_masks import ByLabel, Runs
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
        """Overwrite similarities by E, whatever it makes of a row with itself; `some` is 1 at positives, else 0.

        Where it is 0, `column` may name a positive once more, or the row itself.
        """
        ...

    def finish(self, z: Float[Tensor, " n"], p: Float[Tensor, " n"], count: Float[Tensor, " n"]) -> Finished:
        """From each anchor's sums and its number of positives to its terms."""
        ...


class _Strip(NamedTuple):
    rows: slice
    column: Int64[Tensor, "b p"]
    e: Float[Tensor, "b v"]
    positives: Positives


def symmetric_sums(
    x: Float[Tensor, "n d"],
    scale: float | Float[Tensor, ""],
    weights: Float[Tensor, " n"],
    relation: ByLabel,
    loss: PairSums,
    *,
    workspace_mb: int,
) -> Sums:
    """Sum the terms of all anchors, each times its weight; similarities are `scale` x x^T, in the relation's order."""
    if isinstance(scale, Tensor):  # it has a gradient of its own
        x, scale = x * scale.sqrt(), 1.0
    return Sums(*_Symmetric.apply(x, scale, weights, relation, loss, workspace_mb << 20, torch.is_grad_enabled()))


class _Symmetric(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: float,
        weights: Tensor,
        relation: ByLabel,
        loss: PairSums,
        workspace: int,
        recording: bool,
    ) -> tuple[Tensor, ...]:
        n = len(x)
        recording = recording and ctx.needs_input_grad[0]
        z, p = x.new_zeros(2, n)
        kept = []
        runs = relation.runs()
        a_row = (n + _ROWS) // 2 * x.element_size() + len(runs.others) * (8 + x.element_size())  # E; columns and slopes
        keep = recording and n * a_row <= workspace
        for strip in _strips(x, scale, runs, loss):
            rows, column, e, (q, _) = strip
            # Each pair of a strip belongs to the sum of its row and, beyond the strip's own square, of its column.
            z[rows].add_(e.sum(1))
            p[rows].add_(q.sum(1))
            if rows.stop < n:
                b = len(column)
                z[rows.stop :].add_(e[:, b:].sum(0))
                if runs.reach(rows) > rows.stop:
                    p.index_add_(0, (column + rows.start).view(-1), q.masked_fill(column < b, 0.0).view(-1))
            if keep:
                kept.append(strip)
        terms, a, b = loss.finish(z, p, (runs.length - 1).to(x.dtype))
        if recording:
            # Of what is kept the short strips first: in what they leave there is room for the work on the long ones.
            strips = (kept.pop() for _ in range(len(kept))) if keep else _strips(x, scale, runs, loss)
            largest = weights.amax().clamp_min(torch.finfo(x.dtype).tiny)  # a alone may be as large as exp(80)
            share = weights * scale / largest
            ctx.save_for_backward(_derivative(x, strips, a * share, b * share), largest)
        value, *counts = (torch.stack(terms) @ weights).unbind()
        ctx.mark_non_differentiable(*counts)
        return value, *counts

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_second_derivative()
        derivative, largest = ctx.saved_tensors
        return derivative * (largest * grad), None, None, None, None, None, None


def _strips(x: Tensor, scale: float, runs: Runs, loss: PairSums) -> Iterator[_Strip]:
    for rows in chunks(len(x), _ROWS):
        column, some = runs.strip(rows)
        e = product(x[rows] if scale == 1 else x[rows] * scale, x[rows.start :])
        positives = loss.weigh(e, column, some.to(x.dtype))
        e.diagonal().zero_()
        yield _Strip(rows, column, e, positives)


def _derivative(x: Tensor, strips: Iterable[_Strip], a: Tensor, b: Tensor) -> Tensor:
    """H x, in place of the strips' E; what they add to later rows is summed with the rows for columns.

    As the right side of a product, a strip is read as it lies; turned into its left side it would be copied there.
    """
    out, later = torch.empty_like(x), x.new_zeros(x.shape[1], len(x)) if len(x) > _ROWS else None
    for rows, column, e, (_, slope) in strips:
        e.mul_(a[rows, None] + a[rows.start :])
        e.scatter_add_(1, column, (b[rows, None] + b[rows.start :].take(column)).mul_(slope))
        out[rows] = product(e, x[rows.start :].T)
        if later is not None and rows.stop < len(x):
            later[:, rows.stop :].add_(product(x[rows].T, e[:, len(column) :].contiguous().T))
    return out if later is None else out.add_(later.T)
