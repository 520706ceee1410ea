"""What the triplets of an anchor contribute, and its derivative by the anchor's similarities.

B anchors of a block, M reference rows, T triplets.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import softplus

from legolas_metric.budgets import rows_for
from legolas_metric.checks import check_choice, check_number
from legolas_metric.geometry import semi_hard_window
from legolas_metric.losses.loss_inputs import Batch
from legolas_metric.losses.loss_rows import settled
from legolas_metric.losses.means import Ways, mean_and_sums, mean_of, no_sums
from legolas_metric.losses.pair_masks import Block, ByLabel, ByTriplets, TripletBlock
from legolas_metric.losses.terms import Sums, Terms

Selection = Literal["all", "violating", "hard", "semihard"]
Reduction = Literal["active", "mean"]
Measure = Literal["d", "d^2", "1 - s"]

# Blocks of similarities that a choice holds at its peak.
_COPIES = 4


@dataclass(frozen=True, slots=True)
class TripletRule:
    """The settings of a triplet loss, checked; see `TripletLoss`."""

    margin: int | float
    selection: Selection
    soft: bool
    squared: bool
    cosine: bool
    soft_margin: int | float
    reduction: Reduction

    def __post_init__(self) -> None:
        check_choice("selection", self.selection, get_args(Selection))
        check_choice("reduction", self.reduction, get_args(Reduction))
        check_number("margin", self.margin, least=0.0)
        check_number("soft_margin", self.soft_margin)
        if self.squared and self.cosine:
            raise ValueError("squared=True has margins in d^2, cosine=True in s = 1 - d^2 / 2: choose one")
        if self.soft_margin and not self.soft:
            raise ValueError("soft_margin belongs to soft=True; the hinge has margin")

    @property
    def measure(self) -> Measure:
        """What distances and margins are in."""
        return "d^2" if self.squared else "1 - s" if self.cosine else "d"

    @property
    def inside(self) -> int | float:
        """What is added to d_ap - d_an."""
        return self.soft_margin if self.soft else self.margin


class Picked(NamedTuple):
    """Triplets as places of a block: row, column of the positive, column of the negative, and whether it counts."""

    row: Int64[Tensor, " t"]
    positive: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]
    counts: Bool[Tensor, " t"]


class Slopes(NamedTuple):
    """Value of each anchor, its derivative by each distance, active triplets, and all triplets."""

    value: Float[Tensor, " b"]
    slope: Float[Tensor, "b m"] | None
    active: Float[Tensor, " b"]
    possible: Float[Tensor, " b"]


def mean_by_rule(batch: Batch, rule: TripletRule, workspace_mb: int | None) -> tuple[Float[Tensor, ""], Sums]:
    """The loss of a batch, and its sums; the batch's rows are float64, since they choose."""
    if rule.selection == "hard" and isinstance(batch.relation, ByLabel):
        return mean_of(batch, _hard_sums(batch, batch.relation, rule, workspace_mb))
    return mean_and_sums(batch, _ways(batch, rule), workspace_mb)


def _ways(batch: Batch, rule: TripletRule) -> Ways:
    if isinstance(batch.relation, ByTriplets):
        terms = partial(_picked, _listed)
    elif rule.selection == "semihard" and isinstance(batch.relation, ByLabel):
        terms = partial(_picked, partial(_semi_hard, margin=rule.margin))
    else:
        terms = _all
    of_batch = partial(terms, rule=rule)
    formula, kernel = (partial(way, of_batch, rule=rule, dtype=batch.dtype) for way in (_formula, _kernel))
    return Ways(formula, kernel)


def _hard_sums(batch: Batch, relation: ByLabel, rule: TripletRule, workspace_mb: int | None) -> Sums:
    """One triplet an anchor: chosen block by block without a gradient, and computed from its three rows alone."""
    x, r = batch.x, batch.r
    if len(x) == 0 or len(r) == 0:
        return no_sums(batch)
    with torch.autocast(x.device.type, enabled=False):
        with torch.no_grad():
            if workspace_mb is None or torch.compiler.is_compiling():
                parts = [_hard(settled(x @ r.T, batch.dtype), relation.whole())]
            else:
                size = rows_for(workspace_mb << 20, _COPIES * len(r) * x.element_size())
                parts = [
                    _hard(settled(x[block.rows] @ r.T, batch.dtype), block)
                    for block in relation.blocks(min(len(x), size))
                ]
            positive, negative, counts = (torch.cat(part) for part in zip(*parts))
        s = ((x * r.index_select(0, place)).sum(1) for place in (positive, negative))
        d_ap, d_an = (_distances(settled(pair, batch.dtype), rule.measure) for pair in s)
        u = d_ap - d_an + rule.inside
        loss = torch.where(counts, softplus(u) if rule.soft else u.clamp_min(0), 0.0)
        active, possible = ((batch.weights * term).sum() for term in (loss.detach() > 0, counts))
        return Sums((batch.weights * loss).sum(), active if rule.reduction == "active" else possible, active, possible)


def _hard(s: Float[Tensor, "b m"], block: Block) -> tuple[Int64[Tensor, " b"], Int64[Tensor, " b"], Bool[Tensor, " b"]]:
    """Columns of each anchor's farthest positive and nearest negative, and whether it has both."""
    least, positive = s[:, block.band].masked_fill(~block.positive, torch.inf).min(1)
    s[:, block.band].masked_fill_(~block.negative, -torch.inf)
    most, negative = s.max(1)
    return positive + block.band.start, negative, (least != torch.inf) & (most != -torch.inf)


def _formula(
    terms: Callable[..., Slopes],
    s: Float[Tensor, "b m"],
    block: Block | TripletBlock,
    *,
    rule: TripletRule,
    dtype: torch.dtype,
) -> Terms:
    value, _, active, possible = terms(_distances(settled(s, dtype), rule.measure), block, derive=False)
    return Terms(value, active if rule.reduction == "active" else possible, active, possible)


def _kernel(
    terms: Callable[..., Slopes],
    s: Float[Tensor, "b m"],
    block: Block | TripletBlock,
    *,
    rule: TripletRule,
    dtype: torch.dtype,
) -> Terms:
    d = _distances(settled(s, dtype), rule.measure)
    value, slope, active, possible = terms(d, block, derive=True)
    assert slope is not None
    if rule.measure == "d":
        torch.div(slope, d, out=s).neg_().masked_fill_(d == 0, 0.0)
    else:
        torch.mul(slope, -2.0 if rule.measure == "d^2" else -1.0, out=s)
    return Terms(value, active if rule.reduction == "active" else possible, active, possible)


def _distances(s: Float[Tensor, "*b"], measure: Measure) -> Float[Tensor, "*b"]:
    """In what margins are given: d = sqrt(2 - 2 s), with a derivative of 0 at 0, or d^2, or 1 - s."""
    if measure == "1 - s":
        return 1 - s
    square = (2 - 2 * s).clamp_min(0)
    if measure == "d^2":
        return square
    zero = square == 0
    return square.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


def _picked(
    pick: Callable[..., Picked],
    d: Float[Tensor, "b m"],
    block: Block | TripletBlock,
    *,
    rule: TripletRule,
    derive: bool,
) -> Slopes:
    row, positive, negative, counts = pick(d.detach(), block)
    u = d[row, positive] - d[row, negative] + rule.inside
    loss = torch.where(counts, softplus(u) if rule.soft else u.clamp_min(0), 0.0)
    empty = d.new_zeros(len(d))
    active = empty.index_add(0, row, (loss.detach() > 0).to(d.dtype))
    possible = empty.index_add(0, row, counts.to(d.dtype))
    value = empty.index_add(0, row, loss)
    if not derive:
        return Slopes(value, None, active, possible)
    by_u = torch.where(counts, torch.sigmoid(u) if rule.soft else (u > 0).to(d.dtype), 0.0)
    slope = torch.zeros_like(d)
    flat, width = slope.view(-1), d.shape[1]
    flat.index_add_(0, row * width + positive, by_u)
    flat.index_add_(0, row * width + negative, -by_u)
    return Slopes(value, slope, active, possible)


def _listed(d: Float[Tensor, "b m"], block: TripletBlock) -> Picked:
    return Picked(block.anchor, block.positive, block.negative, block.counts)


def _semi_hard(d: Float[Tensor, "b m"], block: Block, *, margin: int | float) -> Picked:
    """For every positive the nearest negative with d_ap < d_an < d_ap + margin."""
    ordered, columns = _negatives(d, block).sort(1)
    d_ap = d[:, block.band].contiguous()
    place = torch.searchsorted(ordered, d_ap, right=True).clamp_max(d.shape[1] - 1)
    s_an = -ordered.gather(1, place)
    low, high = semi_hard_window(-d_ap, margin, "euclidean")  # whatever d is in, -d grows as rows come closer
    counts = block.positive & ~((s_an >= high) | (s_an <= low))  # NaN counts, and shows
    row = torch.arange(len(d), device=d.device)[:, None].expand_as(place)
    positive = torch.arange(block.band.start, block.band.stop, device=d.device).expand_as(place)
    return Picked(*(part.reshape(-1) for part in (row, positive, columns.gather(1, place), counts)))


def _negatives(d: Float[Tensor, "b m"], block: Block) -> Float[Tensor, "b m"]:
    """Distances with inf where there is no negative."""
    out = d.clone()
    out[:, block.band].masked_fill_(~block.negative, torch.inf)
    return out


def _all(d: Float[Tensor, "b m"], block: Block, *, rule: TripletRule, derive: bool) -> Slopes:
    if rule.soft:
        return _all_soft(d, block, rule, derive)
    slope, active = _all_hinge(d.detach(), block, rule.margin)
    negatives = d.shape[1] - block.negative.shape[1] + block.negative.sum(1)
    possible = active if rule.selection == "violating" else (block.positive.sum(1) * negatives).to(d.dtype)
    return Slopes((slope * d).sum(1) + rule.margin * active, slope, active, possible)


def _all_hinge(d: Float[Tensor, "b m"], block: Block, margin: int | float) -> tuple[Tensor, Tensor]:
    """The hinge is linear between its kinks: in how many active triplets is each row the positive or the negative?

    A triplet is active where d_an < d_ap + margin = t. With each anchor's t sorted, the rank of d_an among them counts
    the active triplets of a negative, and the ranks' histogram those of a positive: no triplet is ever listed.
    """
    limits = (d[:, block.band] + margin).masked_fill(~block.positive, -torch.inf)
    if not torch.compiler.is_compiling():
        limits, columns = limits.topk(int(block.positive.sum(1).max()), dim=1)
        limits, columns = limits.flip(1), columns.flip(1)
    else:
        limits, columns = limits.sort(1)
    width = limits.shape[1]
    rank = torch.searchsorted(limits.contiguous(), d, right=True)
    rank[:, block.band].masked_fill_(~block.negative, width)
    slope = (rank - width).to(d.dtype)
    histogram = d.new_zeros(len(d), width + 1).scatter_add_(1, rank, torch.ones_like(d))
    as_positive = histogram.cumsum(1)[:, :width]
    slope[:, block.band].scatter_add_(1, columns, as_positive.masked_fill(limits == -torch.inf, 0.0))
    return slope, as_positive.masked_fill(limits == -torch.inf, 0.0).sum(1)


def _all_soft(d: Float[Tensor, "b m"], block: Block, rule: TripletRule, derive: bool) -> Slopes:
    wanted = torch.ones_like(d, dtype=torch.bool)
    wanted[:, block.band] = block.negative
    # Which triplets count is decided by their distances, and they by nothing else.
    least = -rule.margin if rule.selection == "violating" else -math.inf
    if not derive:
        u = d[:, block.band, None] - d[:, None, :]
        there = block.positive[:, :, None] & wanted[:, None, :] & ~(u.detach() < least)
        possible = there.sum((1, 2)).to(d.dtype)
        return Slopes(torch.where(there, softplus(u + rule.inside), 0.0).sum((1, 2)), None, possible, possible)
    count = block.positive.sum(1)
    columns = block.positive.to(torch.uint8).argsort(dim=1, descending=True, stable=True) + block.band.start
    value, possible, slope = d.new_zeros(len(d)), d.new_zeros(len(d)), torch.zeros_like(d)
    for place in range(int(count.max())):
        column = columns[:, place : place + 1]
        u = d.gather(1, column) - d
        there = wanted & (place < count)[:, None] & ~(u < least)
        u += rule.inside
        value += torch.where(there, softplus(u), 0.0).sum(1)
        possible += there.sum(1)
        by_u = torch.sigmoid(u).masked_fill_(~there, 0.0)
        slope.sub_(by_u).scatter_add_(1, column, by_u.sum(1, keepdim=True))
    return Slopes(value, slope, possible, possible)
