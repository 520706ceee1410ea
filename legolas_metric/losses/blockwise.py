"""A mean over anchors of terms of their similarities, with its gradient, one block of the similarity matrix at a time.

The gradient is worked out in the forward pass, while a block is at hand: three matrix products in all, and memory for
one block beside a gradient as large as the inputs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from legolas_metric.losses.relation import Relation


class Terms(NamedTuple):
    """What each anchor of a block contributes.

    Attributes:
        value: [b], sum of the anchor's terms; exactly 0 where it has none.
        counted: [b], how many of them the mean is taken over.
        active: [b], how many of them are greater than 0.
        possible: [b], how many there are.
    """

    value: Float[Tensor, " b"]
    counted: Float[Tensor, " b"]
    active: Float[Tensor, " b"]
    possible: Float[Tensor, " b"]


Kernel = Callable[..., Terms]
"""Takes similarities [b, m] and their block; overwrites them with the derivative of each anchor's value."""

Formula = Callable[..., Terms]
"""The same values in plain differentiable torch, which leaves its input alone."""


class Sums(NamedTuple):
    """Weighted sums over all anchors: of the terms' values, and of their counts."""

    value: Float[Tensor, ""]
    counted: Float[Tensor, ""]
    active: Float[Tensor, ""]
    possible: Float[Tensor, ""]


def weighted_sums(
    x: Float[Tensor, "n d"],
    r: Float[Tensor, "m d"],
    weights: Float[Tensor, " n"],
    relation: Relation,
    *,
    kernel: Kernel,
    formula: Formula,
    workspace_mb: int | None,
) -> Sums:
    """Sum the terms of all anchors, each times its anchor's weight.

    Args:
        x, r: the anchors and the reference rows in the relation's order; similarities are x r^T.
        weights: 0 leaves an anchor out.
        kernel: the terms with their derivative, in place.
        formula: the terms in plain torch.
        workspace_mb: memory of a block; None takes the whole matrix at once by the formula, which is differentiable
            twice, and is what a compiler sees.
    """
    if len(x) == 0 or len(r) == 0:
        nothing = 0 * (x.sum() + r.sum())
        return Sums(nothing, *nothing.detach().expand(3))
    if workspace_mb is None or torch.compiler.is_compiling():
        with torch.autocast(x.device.type, enabled=False):
            terms = formula(x @ r.T, relation.whole())
            return Sums(*((weights * term).sum() for term in terms))
    bytes_of_row = max(1, len(r)) * x.element_size()
    size = max(1, min(len(x), (workspace_mb << 20) // bytes_of_row))
    return Sums(*_Blockwise.apply(x, r, weights, relation, kernel, size, torch.is_grad_enabled()))


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        r: Tensor,
        weights: Tensor,
        relation: Relation,
        kernel: Kernel,
        size: int,
        recording: bool,
    ) -> tuple[Tensor, ...]:
        need_x, need_r = (need and recording for need in ctx.needs_input_grad[:2])
        grad_x = torch.empty_like(x) if need_x else None
        grad_r = torch.zeros_like(r) if need_r else None
        sums = x.new_zeros(4)
        workspace = x.new_empty(size, len(r))
        with torch.autocast(x.device.type, enabled=False):
            for block in relation.blocks(size):
                rows = x[block.rows]
                weight = weights[block.rows]
                scores = torch.mm(rows, r.T, out=workspace[: len(rows)])
                terms = kernel(scores, block)
                sums += torch.stack(terms) @ weight
                if grad_x is not None:
                    torch.mm(scores, r, out=grad_x[block.rows]).mul_(weight[:, None])
                if grad_r is not None:
                    grad_r.addmm_(scores.T, rows * weight[:, None])
        ctx.save_for_backward(grad_x, grad_r)
        value, *counts = sums.unbind()
        ctx.mark_non_differentiable(*counts)
        return value, *counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        back = (None if grad is None else grad * grads[0] for grad in ctx.saved_tensors)
        return *back, None, None, None, None, None


def mean_of(sums: Sums) -> Float[Tensor, ""]:
    """Sum of the values over the number that is counted; 0, still with a gradient of zeros, where nothing is."""
    return sums.value / sums.counted.masked_fill(sums.counted == 0, 1.0)
