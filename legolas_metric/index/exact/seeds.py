"""First floors of a self-join: the best of the rows in the same cell of a k-d tree over the principal axes.

A pass that knows nothing yet looks at hundreds of pairs of a row before its floor is near its end.

Letters: n anchors, r rows, m axes, c cells, l rows of a cell.
"""

import math

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.geometry import chunks
from legolas_metric.index.exact.job import Whole
from legolas_metric.index.exact.window import Ceiling
from legolas_metric.rows import NO_ID

_CELL = 128  # rows


def seeded_floors(
    heads: Float32[Tensor, "r m"],
    whole: Whole,
    low: Int64[Tensor, " n"],
    high: Int64[Tensor, " n"],
    ceiling: Ceiling | None,
    k: int,
) -> Float32[Tensor, " n"]:
    """A lower bound of the k-th best true score of each anchor, -inf where its cell holds too few.

    Args:
        heads: the rows along the axes, most energy first.
        whole: the whole rows; the anchors are the first of them.
        low, high: the forbidden columns low..high of each anchor.
        ceiling: of the window.
        k: neighbours.
    """
    n = len(low)
    cells = _cells(heads)
    floors = low.new_full((n,), -math.inf, dtype=torch.float32)
    if cells.shape[1] <= k:
        return floors
    certificate = whole.certificate
    error = certificate.weights[:n] @ certificate.bounds.amax(0) * (1 + 2.0**-16)
    for part in chunks(
        len(cells), rows_for(BLOCK, 4 * cells.shape[1] * (3 * cells.shape[1] + whole.columns.left.shape[1]))
    ):
        column = cells[part]
        anchor = column.clamp_max(n - 1)
        score = torch.bmm(whole.anchors.left[column], whole.columns.right[column].transpose(1, 2))
        other = column[:, None, :]
        barred = (other >= low[anchor][:, :, None]) & (other < high[anchor][:, :, None]) | (other == NO_ID)
        score.masked_fill_(barred, -math.inf)
        if ceiling is not None:
            score.masked_fill_(score >= (ceiling.sure[:n] - error)[anchor][:, :, None], -math.inf)
        best = score.amax(2) if k == 1 else score.topk(k, 2).values[:, :, -1]
        mine = (column >= 0) & (column < n)
        floors[column[mine]] = best[mine]
    floors -= error
    return floors - 2.0**-20 * floors.abs()


def _cells(heads: Float32[Tensor, "r m"]) -> Int64[Tensor, "c l"]:
    """Rows by cells of one size, halved along one axis after the other; -1 fills up."""
    r = len(heads)
    halvings = min(heads.shape[1], max(0, math.ceil(math.log2(max(1, r / _CELL)))))
    size = math.ceil(r / 2**halvings)
    cells = torch.full((1, size << halvings), NO_ID, device=heads.device)
    cells[0, :r] = torch.arange(r, device=heads.device)
    for axis in range(halvings):
        along = torch.where(cells == NO_ID, math.inf, heads[cells, axis])
        cells = cells.gather(1, along.argsort(1)).view(2 * len(cells), -1)
    return cells
