"""From a batch and a loss's terms to its mean: the one place that chooses how the similarity matrix is walked."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.losses.blockwise import Formula, Kernel, blockwise_sums, formula_sums
from legolas_metric.losses.loss_inputs import Batch
from legolas_metric.losses.pair_masks import Block, ByLabel, TripletBlock
from legolas_metric.losses.symmetric import PairSums, symmetric_sums
from legolas_metric.losses.terms import LossDetail, Sums

# Blocks that are held at once.
_COPIES = 4


class Ways(NamedTuple):
    """One loss, written down for each way of computing it.

    Attributes:
        formula: terms of a block of similarities in plain torch: differentiable twice, and what a compiler sees.
        kernel: the same terms with their derivative, in place.
        pair_sums: the loss by sums over pairs, where it has that form and its exponentials stay in range.
        scale: similarities are multiplied by this.
    """

    formula: Formula
    kernel: Kernel
    pair_sums: PairSums | None = None
    scale: float | Float[Tensor, ""] = 1.0


def mean_and_sums(batch: Batch, ways: Ways, workspace_mb: int | None) -> tuple[Float[Tensor, ""], Sums]:
    """The weighted mean over all terms of all processes; 0, still with a gradient (of zeros), where there are none.

    Args:
        batch: what is compared.
        ways: the loss.
        workspace_mb: memory for similarities; None takes the whole matrix at once, by the formula.
    """
    return mean_of(batch, _sums(batch, ways, workspace_mb))


def mean_of(batch: Batch, sums: Sums) -> tuple[Float[Tensor, ""], Sums]:
    """The mean of what this process has summed, over all processes, and the sums of all."""
    world = batch.world
    sums = Sums(*(world.reduce(part) for part in sums)) if world.size > 1 else sums
    mean = sums.value / sums.counted.masked_fill(sums.counted == 0, 1.0)
    if world.averages_gradients and world.size > 1:
        mean = world.size * mean - ((world.size - 1) * mean).detach()
    return as_given(mean, batch.dtype), sums


def as_given(value: Float[Tensor, "*b"], dtype: torch.dtype) -> Float[Tensor, "*b"]:
    """A value in the type of the rows it is of; under autocast in float32, as torch's own losses are."""
    if torch.is_autocast_enabled(value.device.type):
        dtype = torch.promote_types(dtype, torch.float32)
    return value.to(dtype)


def anchor_values(batch: Batch, ways: Ways) -> Float[Tensor, " n"]:
    """Each anchor's own loss, in the order in which they came, by the formula; 0 for those that count in no mean."""
    relation = batch.relation
    with torch.autocast(batch.x.device.type, enabled=False):
        terms = ways.formula((batch.x * ways.scale) @ batch.r.T, relation.whole())
        value = torch.where((batch.weights > 0) & (terms.counted > 0), terms.value, 0.0)
    if isinstance(relation, ByLabel) and relation.order is not None:
        value = torch.zeros_like(value).index_copy(0, relation.order, value)
    return as_given(value, batch.dtype)


def _sums(batch: Batch, ways: Ways, workspace_mb: int | None) -> Sums:
    x, r = batch.x, batch.r
    if len(x) == 0 or len(r) == 0:
        return no_sums(batch)
    with torch.autocast(x.device.type, enabled=False):
        if workspace_mb is None or torch.compiler.is_compiling():
            return formula_sums(x * ways.scale, r, batch.weights, batch.relation, ways.formula)
        if batch.symmetric and ways.pair_sums is not None:
            assert isinstance(batch.relation, ByLabel)
            return symmetric_sums(
                x, ways.scale, batch.weights, batch.relation, ways.pair_sums, workspace_mb=workspace_mb
            )
        return blockwise_sums(x * ways.scale, r, batch.weights, batch.relation, ways.kernel, workspace_mb=workspace_mb)


def no_sums(batch: Batch) -> Sums:
    """The sums of nothing, with a gradient of zeros."""
    nothing = 0 * (batch.x.sum() + batch.r.sum())
    return Sums(nothing, *nothing.detach().expand(3))


@torch.no_grad()
def loss_detail(batch: Batch, sums: Sums) -> LossDetail:
    """What the loss saw, by a second pass over the similarities."""
    x, r, world = batch.x, batch.r, batch.world
    totals = torch.zeros(5, dtype=torch.float64, device=x.device)
    size = rows_for(BLOCK, _COPIES * len(r) * x.element_size())
    with torch.autocast(x.device.type, enabled=False):
        for block in batch.relation.blocks(size) if len(x) and len(r) else ():
            totals += _seen(x[block.rows] @ r.T, block, batch.weights[block.rows] > 0)
    no_positive, positive, positives, negative, negatives = world.reduce(totals).tolist()
    return LossDetail(
        active_share=_share(float(sums.active), float(sums.possible)),
        no_positive=int(no_positive),
        mean_positive=_share(positive, positives),
        mean_negative=_share(negative, negatives),
    )


def _seen(s: Float[Tensor, "b m"], block: Block | TripletBlock, anchors: Bool[Tensor, " b"]) -> Float64[Tensor, "5"]:
    """Anchors without a positive; sum and number of positive similarities, and of negative ones."""
    if isinstance(block, TripletBlock):
        listed = block.counts & anchors[block.anchor]
        some = torch.zeros_like(anchors).index_put((block.anchor[listed],), torch.tensor(True, device=s.device))
        pairs = (s[block.anchor, column][listed] for column in (block.positive, block.negative))
        sums = [part for pair in pairs for part in (pair.double().sum(), listed.sum())]
    else:
        band, some = s[:, block.band], block.positive.any(1)
        ignored = ~block.negative & anchors[:, None]
        positive = block.positive & anchors[:, None]
        negative_sum = s[anchors].double().sum() - (band * ignored).double().sum()
        sums = [
            (band * positive).double().sum(),
            positive.sum(),
            negative_sum,
            anchors.sum() * s.shape[1] - ignored.sum(),
        ]
    return torch.stack([part.double() for part in ((anchors & ~some).sum(), *sums)])


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
