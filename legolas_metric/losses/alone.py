"""A batch against itself, by label alone, on the processor: few calls of torch, and compiled loops between them.

The mathematics is that of `symmetric`, from the rows as they come to their gradient: normalising, sorting by label and
the mean over anchors are inside. At a few hundred rows the number of calls is what costs, not the products.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from legolas_metric.compiled.jit import runs_compiled
from legolas_metric.losses.loss_inputs import Given, as_rows, as_weights, least_norm
from legolas_metric.losses.terms import refuse_second_derivative
from legolas_metric.rows import as_labels

# A strip of so many rows of 2,048 similarities stays in a core's cache.
_ROWS = 256
# Of exponentials, for each row: exp(-87), the least that `kernels` makes, is then some 1e-8 of their sum.
_LEAST_SUM = 1e-30


class PairForm(NamedTuple):
    """A loss made of sums over pairs.

    Attributes:
        kind: OUT, IN or MULTI of `terms`.
        scale: similarities are multiplied by this.
        shift: what comes off the scaled similarities before they are exponentiated.
        slope: of the exponents of positives under MULTI.
    """

    kind: int
    scale: float
    shift: float
    slope: float = 1.0


def lone_rows(given: Given, workspace_mb: int | None) -> Tensor | None:
    """The rows, where `lone_mean` serves: on the processor, nothing to compare them with but themselves."""
    if torch.compiler.is_compiling() or workspace_mb is None or given.labels is None:
        return None
    if any(other is not None for other in (given.indices_tuple, given.ref_emb, given.ids, given.gather)):
        return None
    rows = as_rows(given.embeddings, "embeddings")
    return rows if runs_compiled(rows.device) else None


def lone_mean(
    rows: Float[Tensor, "n d"],
    given: Given,
    form: PairForm,
    workspace_mb: int,
    learned: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""] | None:
    """The weighted mean over all anchors, differentiable once; `learned` is the scale where it wants a gradient.

    None where exponentials of an anchor's similarities are all so small that float32 does not hold them.
    """
    assert given.labels is not None
    n = len(rows)
    labels = as_labels(given.labels, n).to(rows.device)
    if given.weights is None:
        weights = np.ones(n)
    else:
        one = torch.ones((), dtype=torch.float64)
        weights = as_weights(given.weights, one, n, "weights", "rows of embeddings").numpy()
    wants = rows.requires_grad or (learned is not None and learned.requires_grad)
    done = _work_out(rows.detach(), labels, weights, form, workspace_mb << 20, wants and torch.is_grad_enabled())
    return None if done is None else _Alone.apply(rows, learned, *done)


@dataclass(frozen=True, slots=True)
class _Sorted:
    """A batch in order of label.

    Attributes:
        y: [n, d], unit rows times the root of the scale.
        norm: [n], what they were divided by.
        order: [n], where they come from.
        start, stop: [n], the range of each one's class; empty for an unlabelled row.
    """

    y: Tensor
    norm: np.ndarray
    order: np.ndarray
    start: np.ndarray
    stop: np.ndarray


class _Alone(torch.autograd.Function):
    """A mean whose gradient is known already."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, learned: Tensor | None, mean: Tensor, by_rows: Tensor | None, by_scale: float
    ) -> Tensor:
        ctx.save_for_backward(by_rows)
        ctx.by_scale, ctx.shape, ctx.dtype = by_scale, () if learned is None else learned.shape, rows.dtype
        return mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_second_derivative()
        (by_rows,) = ctx.saved_tensors
        by_scale = (grads[0] * ctx.by_scale).expand(ctx.shape) if ctx.needs_input_grad[1] else None
        return (by_rows * grads[0]).to(ctx.dtype), by_scale, None, None, None


def _work_out(
    rows: Tensor, labels: Tensor, weights: np.ndarray, form: PairForm, workspace: int, recording: bool
) -> tuple[Tensor, Tensor | None, float] | None:
    """The mean, its gradient and its derivative by the scale, where they are recorded; None: see `lone_mean`."""
    from legolas_metric.losses import kernels

    batch = _sorted(rows, labels, form.scale**0.5)
    n, size = batch.y.shape[0], batch.y.element_size()
    height = max(1, min(n, _ROWS, workspace // max(1, n * size)))
    half = n * (n + height) // 2
    keep = recording and half * size <= workspace
    room = batch.y.new_empty(half if keep else height * n)
    sums = np.zeros((2, n))
    strips = [strip for strip in _strips(batch, form, height, room, sums) if keep]
    by_sums = np.empty((2, n), batch.y.numpy().dtype)
    mean, share, least = kernels.finish(*sums, batch.start, batch.stop, *form, weights, batch.order, *by_sums)
    if least < n * _LEAST_SUM:
        return None
    value = torch.from_numpy(np.array(mean, by_sums.dtype))  # half the time of torch.tensor
    if not recording:
        return value, None, 0.0
    # What the strips add to the sums the second time is not looked at.
    again = strips if keep else _strips(batch, form, height, room, sums)
    g = _gradient(batch, form, again, by_sums)
    out = torch.empty_like(g)
    by_scale = kernels.through_units(
        g.numpy(), batch.y.numpy(), batch.norm, batch.order, form.scale**0.5, share, out.numpy()
    )
    return value, out, by_scale


def _sorted(rows: Tensor, labels: Tensor, root: float) -> _Sorted:
    from legolas_metric.losses import kernels

    wide = rows.contiguous() if rows.dtype == torch.float64 else rows.float().contiguous()
    order = labels.numpy().argsort(kind="stable")
    y, norm, start, stop = kernels.sorted_units(wide.numpy(), labels.numpy(), order, root, least_norm(rows.dtype))
    return _Sorted(torch.from_numpy(y), norm, order, start, stop)


def _strips(
    batch: _Sorted, form: PairForm, height: int, room: Tensor, sums: np.ndarray
) -> Iterator[tuple[int, Tensor]]:
    """Strips of y y^T from their first row's own column on, as `kernels.weigh` leaves them, with that row's number.

    They lie in `room` one behind the other, or where it holds but one, each in place of the last.
    """
    from legolas_metric.losses import kernels

    y, n, used = batch.y, batch.y.shape[0], 0
    for first in range(0, n, height):
        rows, columns = min(height, n - first), n - first
        used = used if used + rows * columns <= room.shape[0] else 0
        strip = room[used : used + rows * columns].view(rows, columns)
        used += rows * columns
        torch.mm(y[first : first + rows], y[first:].T, out=strip)  # with `out`, autocast leaves it alone
        kernels.weigh(strip.numpy(), first, batch.start, batch.stop, form.kind, form.shift, form.slope, *sums)
        yield first, strip


def _gradient(
    batch: _Sorted, form: PairForm, strips: Iterable[tuple[int, Tensor]], by_sums: np.ndarray
) -> Float[Tensor, "n d"]:
    """The derivative of the mean by y, but for a factor."""
    from legolas_metric.losses import kernels

    y, n = batch.y, batch.y.shape[0]
    g = torch.zeros_like(y)
    for first, strip in strips:
        kernels.slopes(strip.numpy(), first, batch.start, batch.stop, form.kind, *by_sums)
        last = first + strip.shape[0]
        g[first:last].addmm_(strip, y[first:])
        if last < n:
            g[last:].addmm_(strip[:, last - first :].T, y[first:last])
    return g
