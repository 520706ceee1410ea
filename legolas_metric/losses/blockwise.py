"""A mean over anchors of terms of their similarities, with its gradient, one block of the similarity matrix at a time.

The gradient is worked out in the forward pass, while a block is at hand: three matrix products in all, and memory for
one block beside a gradient as large as the inputs.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from legolas_metric.losses.pair_masks import Relation
from legolas_metric.losses.terms import Sums, Terms, refuse_second_derivative

# More rows at once widen the band of same-label columns and fall out of the cache.
_ROWS = 256
# Blocks that a kernel holds at its peak.
_COPIES = 4

Kernel = Callable[..., Terms]
"""Takes similarities [b, m] and their block; overwrites them with the derivative of each anchor's value."""

Formula = Callable[..., Terms]
"""The same values in plain differentiable torch, which leaves its input alone."""


def formula_sums(
    x: Float[Tensor, "n d"],
    r: Float[Tensor, "m d"],
    weights: Float[Tensor, " n"],
    relation: Relation,
    formula: Formula,
) -> Sums:
    """Sum the terms of all anchors over the whole matrix at once."""
    terms = formula(x @ r.T, relation.whole())
    return Sums(*((weights * term).sum() for term in terms))


def blockwise_sums(
    x: Float[Tensor, "n d"],
    r: Float[Tensor, "m d"],
    weights: Float[Tensor, " n"],
    relation: Relation,
    kernel: Kernel,
    *,
    workspace_mb: int,
) -> Sums:
    """Sum the terms of all anchors, each times its anchor's weight (0 leaves it out); similarities are x r^T."""
    size = (workspace_mb << 20) // (_COPIES * len(r) * x.element_size())
    size = max(1, min(len(x), _ROWS, size))
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
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_second_derivative()
        back = (None if saved is None else saved * grad for saved in ctx.saved_tensors)
        return *back, None, None, None, None, None
