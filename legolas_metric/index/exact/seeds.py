"""First floors of a self-join: the best of the rows in the same cell of a k-d tree over the principal axes.

A pass that knows nothing yet looks at hundreds of pairs of a row before its floor is near its end.

Letters: n anchors, r rows, m axes, c cells, l rows of a cell.
"""

import math

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.compiled.jit import arrays
from legolas_metric.compiled.threads import in_threads
from legolas_metric.geometry import chunks
from legolas_metric.index.exact.job import Closer
from legolas_metric.index.exact.table import Heads
from legolas_metric.index.exact.window import Ceiling
from legolas_metric.rows import NO_ID

_CELL = 128  # rows
_TOGETHER = 1024  # anchors


def seeded_floors(
    heads: Heads,
    whole: Closer,
    sign: int,
    low: Int64[Tensor, " n"],
    high: Int64[Tensor, " n"],
    ceiling: Ceiling | None,
    k: int,
) -> Float32[Tensor, " n"]:
    """A lower bound of the k-th best true score of each anchor, -inf where its cell holds too few.

    Args:
        heads: of the rows, along axes with most energy first: by them the best of a cell are chosen.
        whole: the whole rows, by which those are scored; the anchors are the first of them.
        sign: of the scores.
        low, high: the forbidden columns low..high of each anchor.
        ceiling: of the window.
        k: neighbours.
    """
    from legolas_metric.index.exact.passes import least_of_pairs

    n, cells = len(low), _cells(heads.part)
    floors = low.new_full((n,), -math.inf, dtype=torch.float32)
    if cells.shape[1] <= k:
        return floors
    error = whole.missed[:n]
    most = torch.full_like(floors, math.inf) if ceiling is None else ceiling.sure[:n] - error
    best = low.new_full((n, k), NO_ID)
    for part in chunks(len(cells), rows_for(BLOCK, 4 * cells.shape[1] * (3 * cells.shape[1] + heads.part.shape[1]))):
        column = cells[part]
        anchor = column.clamp_max(n - 1)
        along, term = heads.part[column], heads.term[column]
        score = torch.bmm(along, along.transpose(1, 2)).add_(term[:, None]).add_(term[:, :, None]).mul_(sign)
        other = column[:, None, :]
        barred = (other >= low[anchor][:, :, None]) & (other < high[anchor][:, :, None]) | (other == NO_ID)
        score.masked_fill_(barred | (score >= most[anchor][:, :, None]), -math.inf)
        found = score.topk(k, 2)
        chosen = column.gather(1, found.indices.flatten(1)).view(found.indices.shape)
        chosen.masked_fill_(found.values == -math.inf, NO_ID)
        mine = (column >= 0) & (column < n)
        best[column[mine]] = chosen[mine]

    def work(part: slice) -> None:
        rows = whole.anchors.left[:n][part], whole.columns.right
        least_of_pairs(*arrays(*rows, best[part], most[part], floors[part]))

    in_threads(work, chunks(n, _TOGETHER))
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
