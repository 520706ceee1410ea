"""Triplet margin loss."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import softplus

from legolas_metric.checks import ArrayLike, check_choice
from legolas_metric.losses.batch import Indices, prepare
from legolas_metric.losses.blockwise import Terms, mean_of, weighted_sums
from legolas_metric.losses.relation import Block, ByLabel, ByTriplets, TripletBlock

Selection = Literal["all", "hard", "semihard"]


def triplet_loss(
    embeddings: ArrayLike,
    labels: ArrayLike | None = None,
    indices_tuple: Indices | None = None,
    ref_emb: ArrayLike | None = None,
    ref_labels: ArrayLike | None = None,
    *,
    margin: float = 0.2,
    selection: Selection = "hard",
    soft: bool = False,
    squared: bool = False,
    weights: ArrayLike | None = None,
    workspace_mb: int | None = 16,
) -> Float[Tensor, ""]:
    """Functional form of `TripletLoss`."""
    check_choice("selection", selection, get_args(Selection))
    batch = prepare(embeddings, labels, indices_tuple, ref_emb, ref_labels, weights=weights, as_triplets=True)
    if isinstance(batch.relation, ByTriplets):
        pick = _listed
    else:
        by_label = isinstance(batch.relation, ByLabel)
        pick = {"hard": _hard, "semihard": partial(_semi_hard, margin=margin)}.get(selection) if by_label else None
    terms = (
        partial(_all, margin=margin, soft=soft) if pick is None else partial(_picked, pick, margin=margin, soft=soft)
    )
    sums = weighted_sums(
        batch.x,
        batch.r,
        batch.weights,
        batch.relation,
        kernel=partial(_kernel, terms, squared=squared),
        formula=partial(_formula, terms, squared=squared),
        workspace_mb=workspace_mb,
    )
    return mean_of(sums)


class TripletLoss(nn.Module):
    """Triplet loss (Weinberger & Saul 2009, Schroff et al. 2015, Hermans et al. 2017) on distances of unit rows.

    mean over triplets with a loss of max(0, d_ap - d_an + margin), or of log(1 + exp(d_ap - d_an)) where `soft`.

    Example:
        >>> import torch
        >>> embeddings = torch.eye(4).repeat(2, 1).requires_grad_()
        >>> round(TripletLoss(margin=1.5)(embeddings, torch.arange(8) % 4).item(), 4)  # 0 - sqrt(2) + 1.5
        0.0858
    """

    def __init__(
        self,
        margin: float = 0.2,
        selection: Selection = "hard",
        soft: bool = False,
        *,
        squared: bool = False,
        workspace_mb: int | None = 16,
    ) -> None:
        super().__init__()
        check_choice("selection", selection, get_args(Selection))
        self.margin = margin
        self.selection: Selection = selection
        self.soft = soft
        self.squared = squared
        self.workspace_mb = workspace_mb

    def forward(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike | None = None,
        indices_tuple: Indices | None = None,
        ref_emb: ArrayLike | None = None,
        ref_labels: ArrayLike | None = None,
        *,
        weights: ArrayLike | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of a batch."""
        return triplet_loss(
            embeddings,
            labels,
            indices_tuple,
            ref_emb,
            ref_labels,
            margin=self.margin,
            selection=self.selection,
            soft=self.soft,
            squared=self.squared,
            weights=weights,
            workspace_mb=self.workspace_mb,
        )


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


def _formula(terms: Callable[..., Slopes], s: Float[Tensor, "b m"], block: Block, *, squared: bool) -> Terms:
    value, _, active, possible = terms(_distances(s, squared), block, derive=False)
    return Terms(value, active, active, possible)


def _kernel(terms: Callable[..., Slopes], s: Float[Tensor, "b m"], block: Block, *, squared: bool) -> Terms:
    d = _distances(s, squared)
    value, slope, active, possible = terms(d, block, derive=True)
    assert slope is not None
    if squared:
        torch.mul(slope, -2.0, out=s)
    else:
        torch.div(slope, d, out=s).neg_().masked_fill_(d == 0, 0.0)
    return Terms(value, active, active, possible)


def _distances(s: Float[Tensor, "b m"], squared: bool) -> Float[Tensor, "b m"]:
    """sqrt(2 - 2 s), with a derivative of 0 at 0."""
    square = (2 - 2 * s).clamp_min(0)
    if squared:
        return square
    zero = square == 0
    return square.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


def _picked(
    pick: Callable[..., Picked],
    d: Float[Tensor, "b m"],
    block: Block | TripletBlock,
    *,
    margin: float,
    soft: bool,
    derive: bool,
) -> Slopes:
    row, positive, negative, counts = pick(d.detach(), block)
    u = d[row, positive] - d[row, negative]
    loss = softplus(u) if soft else (u + margin).clamp_min(0)
    loss = torch.where(counts, loss, 0.0)
    empty = d.new_zeros(len(d))
    active = empty.index_add(0, row, (loss.detach() > 0).to(d.dtype))
    possible = empty.index_add(0, row, counts.to(d.dtype))
    value = empty.index_add(0, row, loss)
    if not derive:
        return Slopes(value, None, active, possible)
    by_u = torch.where(counts, torch.sigmoid(u) if soft else (u + margin > 0).to(d.dtype), 0.0)
    slope = torch.zeros_like(d)
    flat, width = slope.view(-1), d.shape[1]
    flat.index_add_(0, row * width + positive, by_u)
    flat.index_add_(0, row * width + negative, -by_u)
    return Slopes(value, slope, active, possible)


def _listed(d: Float[Tensor, "b m"], block: TripletBlock) -> Picked:
    counts = torch.ones_like(block.anchor, dtype=torch.bool) if block.counts is None else block.counts
    return Picked(block.anchor, block.positive, block.negative, counts)


def _hard(d: Float[Tensor, "b m"], block: Block) -> Picked:
    """Farthest positive and nearest negative of each anchor."""
    apart, positive = d[:, block.band].masked_fill(~block.positive, -torch.inf).max(1)
    near, negative = _negatives(d, block).min(1)
    row = torch.arange(len(d), device=d.device)
    return Picked(row, positive + block.band.start, negative, apart.isfinite() & near.isfinite())


def _semi_hard(d: Float[Tensor, "b m"], block: Block, *, margin: float) -> Picked:
    """For every positive the nearest negative with d_ap < d_an < d_ap + margin."""
    ordered, columns = _negatives(d, block).sort(1)
    d_ap = d[:, block.band].contiguous()
    place = torch.searchsorted(ordered, d_ap, right=True).clamp_max(d.shape[1] - 1)
    d_an = ordered.gather(1, place)
    counts = block.positive & (d_an > d_ap) & (d_an < d_ap + margin)
    row = torch.arange(len(d), device=d.device)[:, None].expand_as(place)
    positive = torch.arange(block.band.start, block.band.stop, device=d.device).expand_as(place)
    return Picked(*(part.reshape(-1) for part in (row, positive, columns.gather(1, place), counts)))


def _negatives(d: Float[Tensor, "b m"], block: Block) -> Float[Tensor, "b m"]:
    """Distances with inf where there is no negative."""
    out = d.clone()
    out[:, block.band].masked_fill_(~block.negative, torch.inf)
    return out


def _all(d: Float[Tensor, "b m"], block: Block, *, margin: float, soft: bool, derive: bool) -> Slopes:
    negatives = d.shape[1] - block.negative.shape[1] + block.negative.sum(1)
    possible = (block.positive.sum(1) * negatives).to(d.dtype)
    if soft:
        return _all_soft(d, block, possible, derive)
    slope, active = _all_hinge(d.detach(), block, margin)
    return Slopes((slope * d).sum(1) + margin * active, slope, active, possible)


def _all_hinge(d: Float[Tensor, "b m"], block: Block, margin: float) -> tuple[Tensor, Tensor]:
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


def _all_soft(d: Float[Tensor, "b m"], block: Block, possible: Tensor, derive: bool) -> Slopes:
    wanted = torch.ones_like(d, dtype=torch.bool)
    wanted[:, block.band] = block.negative
    if not derive:
        u = d[:, block.band, None] - d[:, None, :]
        value = torch.where(block.positive[:, :, None] & wanted[:, None, :], softplus(u), 0.0).sum((1, 2))
        return Slopes(value, None, possible, possible)
    count = block.positive.sum(1)
    columns = block.positive.to(torch.uint8).argsort(dim=1, descending=True, stable=True) + block.band.start
    value, slope = torch.zeros_like(possible), torch.zeros_like(d)
    for place in range(int(count.max())):
        column = columns[:, place : place + 1]
        there = wanted & (place < count)[:, None]
        u = d.gather(1, column) - d
        value += torch.where(there, softplus(u), 0.0).sum(1)
        by_u = torch.sigmoid(u).masked_fill_(~there, 0.0)
        slope.sub_(by_u).scatter_add_(1, column, by_u.sum(1, keepdim=True))
    return Slopes(value, slope, possible, possible)
