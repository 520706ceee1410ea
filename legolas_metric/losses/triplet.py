"""Triplet loss."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import softplus

from legolas_metric.checks import ArrayLike, check_choice
from legolas_metric.distributed import World
from legolas_metric.losses.loss_inputs import Batch, Given, Indices, prepare
from legolas_metric.losses.means import Ways, loss_detail, mean_and_sums
from legolas_metric.losses.pair_masks import Block, ByLabel, ByTriplets, TripletBlock
from legolas_metric.losses.terms import LossDetail, Sums, Terms

Selection = Literal["all", "hard", "semihard"]


def triplet_loss(
    embeddings: ArrayLike,
    labels: ArrayLike | None = None,
    indices_tuple: Indices | None = None,
    ref_emb: ArrayLike | None = None,
    ref_labels: ArrayLike | None = None,
    *,
    margin: int | float = 0.2,
    selection: Selection = "hard",
    soft: bool = False,
    squared: bool = False,
    weights: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    ref_ids: ArrayLike | None = None,
    gather: World | None = None,
    workspace_mb: int | None = 64,
) -> Float[Tensor, ""]:
    """`TripletLoss` as a pure function.

    Example:
        >>> import torch
        >>> embeddings = torch.ones(8, 4)  # collapsed: the margin
        >>> round(triplet_loss(embeddings, torch.arange(8) // 2, margin=0.3).item(), 4)
        0.3
    """
    check_choice("selection", selection, get_args(Selection))
    given = Given(embeddings, labels, indices_tuple, ref_emb, ref_labels, weights, ids, ref_ids, gather)
    batch = prepare(given, keep_triplets=True)
    return _mean(batch, margin, selection, soft, squared, workspace_mb)[0]


class TripletLoss(nn.Module):
    """Triplet loss on distances of unit rows, d = sqrt(2 - 2 s).

    hinge: max(0, d_ap - d_an + margin);  soft: log(1 + exp(d_ap - d_an)), without a margin

    The hinge's mean is taken over the triplets whose loss is not 0, as in PML: triplets that are won do not dilute
    those that are not. Collapsed embeddings have the value `margin` (hinge) or ln 2 (soft).

    `selection` says which triplets of a batch count:
        "hard": each anchor's farthest positive with its nearest negative (batch-hard).
        "semihard": each positive with the nearest negative of d_ap < d_an < d_ap + margin; a positive without one is
            left out, and nothing is put in its place.
        "all": every anchor, positive and negative, by counting and never by listing (hinge), or one positive of each
            anchor at a time (soft).
    An `indices_tuple` takes its place: a 3-tuple is taken as it is, each triplet as often as it is listed; of a
    4-tuple, each anchor's positives with each of its negatives, a pair that is listed twice once.

    Equal to PML's `TripletMarginLoss` ("all"; "hard" under its `BatchHardMiner`; `squared` with `LpDistance(power=2)`)
    but for `soft`, where PML adds the margin inside the softplus (pass margin=0 there), the repeated pairs above, and
    label -1, a class like any other to PML. Where d = 0 the derivative of d is taken as 0.

    Args:
        margin: in d (in d^2 where `squared`).
        selection: see above.
        soft: the soft margin instead of the hinge.
        squared: d^2 instead of d.
        gather: processes whose rows are reference rows of every anchor, see `World`.
        workspace_mb: memory for similarities; None holds all of them at once in plain torch, differentiable twice.

    Raises:
        ValueError: another selection.

    Example:
        >>> import torch
        >>> embeddings = torch.eye(4).repeat(2, 1).requires_grad_()
        >>> round(TripletLoss(margin=1.5)(embeddings, torch.arange(8) % 4).item(), 4)  # 0 - sqrt(2) + 1.5
        0.0858

    Weinberger & Saul, JMLR 2009; Schroff et al., FaceNet, CVPR 2015; Hermans et al., In Defense of the Triplet Loss for
    Person Re-Identification, 2017.
    """

    def __init__(
        self,
        margin: int | float = 0.2,
        selection: Selection = "hard",
        soft: bool = False,
        *,
        squared: bool = False,
        gather: World | None = None,
        workspace_mb: int | None = 64,
    ) -> None:
        super().__init__()
        check_choice("selection", selection, get_args(Selection))
        self.margin = margin
        self.selection: Selection = selection
        self.soft = soft
        self.squared = squared
        self.gather = gather
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
        ids: ArrayLike | None = None,
        ref_ids: ArrayLike | None = None,
        detail: bool = False,
    ) -> Float[Tensor, ""] | tuple[Float[Tensor, ""], LossDetail]:
        """The loss of a batch; arguments as those of `SupConLoss.forward`, `weights` being the anchors'."""
        given = Given(embeddings, labels, indices_tuple, ref_emb, ref_labels, weights, ids, ref_ids, self.gather)
        batch = prepare(given, keep_triplets=True)
        mean, sums = _mean(batch, self.margin, self.selection, self.soft, self.squared, self.workspace_mb)
        return (mean, loss_detail(batch, sums)) if detail else mean


def _mean(
    batch: Batch, margin: int | float, selection: Selection, soft: bool, squared: bool, workspace_mb: int | None
) -> tuple[Float[Tensor, ""], Sums]:
    shape = {"margin": margin, "soft": soft}
    if isinstance(batch.relation, ByTriplets):
        terms = partial(_picked, _listed, **shape)
    elif selection == "all" or not isinstance(batch.relation, ByLabel):
        terms = partial(_all, **shape)
    else:
        terms = partial(_picked, _hard if selection == "hard" else partial(_semi_hard, margin=margin), **shape)
    ways = Ways(partial(_formula, terms, squared=squared), partial(_kernel, terms, squared=squared))
    return mean_and_sums(batch, ways, workspace_mb)


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


def _formula(
    terms: Callable[..., Slopes], s: Float[Tensor, "b m"], block: Block | TripletBlock, *, squared: bool
) -> Terms:
    value, _, active, possible = terms(_distances(s, squared), block, derive=False)
    return Terms(value, active, active, possible)


def _kernel(
    terms: Callable[..., Slopes], s: Float[Tensor, "b m"], block: Block | TripletBlock, *, squared: bool
) -> Terms:
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
    margin: int | float,
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
    return Picked(block.anchor, block.positive, block.negative, block.counts)


def _hard(d: Float[Tensor, "b m"], block: Block) -> Picked:
    """Farthest positive and nearest negative of each anchor."""
    apart, positive = d[:, block.band].masked_fill(~block.positive, -torch.inf).max(1)
    near, negative = _negatives(d, block).min(1)
    row = torch.arange(len(d), device=d.device)
    return Picked(row, positive + block.band.start, negative, (apart != -torch.inf) & (near != torch.inf))


def _semi_hard(d: Float[Tensor, "b m"], block: Block, *, margin: int | float) -> Picked:
    """For every positive the nearest negative with d_ap < d_an < d_ap + margin."""
    ordered, columns = _negatives(d, block).sort(1)
    d_ap = d[:, block.band].contiguous()
    place = torch.searchsorted(ordered, d_ap, right=True).clamp_max(d.shape[1] - 1)
    d_an = ordered.gather(1, place)
    counts = block.positive & ~((d_an <= d_ap) | (d_an >= d_ap + margin))  # NaN counts, and shows
    row = torch.arange(len(d), device=d.device)[:, None].expand_as(place)
    positive = torch.arange(block.band.start, block.band.stop, device=d.device).expand_as(place)
    return Picked(*(part.reshape(-1) for part in (row, positive, columns.gather(1, place), counts)))


def _negatives(d: Float[Tensor, "b m"], block: Block) -> Float[Tensor, "b m"]:
    """Distances with inf where there is no negative."""
    out = d.clone()
    out[:, block.band].masked_fill_(~block.negative, torch.inf)
    return out


def _all(d: Float[Tensor, "b m"], block: Block, *, margin: int | float, soft: bool, derive: bool) -> Slopes:
    negatives = d.shape[1] - block.negative.shape[1] + block.negative.sum(1)
    possible = (block.positive.sum(1) * negatives).to(d.dtype)
    if soft:
        return _all_soft(d, block, possible, derive)
    slope, active = _all_hinge(d.detach(), block, margin)
    return Slopes((slope * d).sum(1) + margin * active, slope, active, possible)


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
