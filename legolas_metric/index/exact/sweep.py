"""One pass over the tiles of the score matrix, each of which serves its rows and, in a self-join, its columns.

Letters: n anchors, h x w tile.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from legolas_metric.index.exact.candidates import Candidates
from legolas_metric.index.exact.certificate import Certificate
from legolas_metric.index.exact.side import GROUP, Side, Work, collect
from legolas_metric.index.exact.table import Table
from legolas_metric.index.exact.window import Ceiling

_BAND_ROWS = 128  # rows whose forbidden columns are blanked at once


@dataclass(frozen=True, slots=True)
class Job:
    """What a sweep is to find.

    Attributes:
        anchors, columns: the two sides, one and the same table in a self-join.
        n: anchors; the first n rows of their table.
        low, high: [n], the columns low..high of an anchor are forbidden (its class, or itself).
        self_column: [n], one more forbidden column of each anchor, -1 for none; None for no such column at all.
        certificate: of anchors against blocks of `tile` columns.
        ceiling: the window's upper end; None for none. (Its lower end is where the floors start.)
        k: neighbours.
        tile: rows and columns of a tile, a multiple of 128.
        symmetric: whether a tile also serves its columns.
    """

    anchors: Table
    columns: Table
    n: int
    low: Int64[Tensor, " n"]
    high: Int64[Tensor, " n"]
    self_column: Int64[Tensor, " n"] | None
    certificate: Certificate
    ceiling: Ceiling | None
    k: int
    tile: int
    symmetric: bool


def sweep(job: Job, candidates: Candidates) -> Work:
    """Collect every candidate that the certificate cannot rule out."""
    work = Work()
    n, m, tile = job.n, job.columns.rows, job.tile
    left, right = job.anchors.left, job.columns.right
    buffer = left.new_empty(min(tile, len(left)) * min(tile, len(right)))
    shifted = buffer if job.ceiling is None else torch.empty_like(buffer)
    bands = _Bands(job)
    for first in range(0, n, tile):
        last = min(first + tile, len(left))
        for start in range(first if job.symmetric else 0, m, tile):
            stop = min(start + tile, len(right))
            if bands.cover(first, min(last, n), start, min(stop, m)):
                continue
            scores = buffer[: (last - first) * (stop - start)].view(last - first, stop - start)
            torch.mm(left[first:last], right[start:stop].T, out=scores)
            bands.blank(scores, first, start)
            work.tiles += 1
            collect(_row_side(scores, shifted, job, first, start), job.k, candidates, work)
            if job.symmetric and first < start < n:
                collect(_column_side(scores, shifted, job, start, first), job.k, candidates, work)
    return work


def _row_side(scores: Float[Tensor, "h w"], shifted: Float[Tensor, " s"], job: Job, first: int, start: int) -> Side:
    """The tile as its rows see it: groups of columns a fixed stride apart, which reduce fastest."""
    last, groups = min(first + len(scores), job.n), scores.shape[1] // GROUP
    scores = scores[: last - first]
    ceiling = None if job.ceiling is None else job.ceiling.part(first, last)
    if ceiling is not None:
        scores = torch.sub(scores, ceiling.shift[:, None], out=shifted[: scores.numel()].view(scores.shape))
    grouped = scores.view(last - first, GROUP, groups)
    error = job.certificate.errors(slice(first, last), start // job.tile)
    return Side(first, last, grouped, True, start, 1, groups, error, job.certificate.relative, ceiling)


def _column_side(scores: Float[Tensor, "h w"], shifted: Float[Tensor, " s"], job: Job, first: int, start: int) -> Side:
    """The tile as its columns see it: groups of adjacent rows."""
    h, w = scores.shape
    last = min(first + w, job.n)
    ceiling = None if job.ceiling is None else job.ceiling.part(first, last)
    if ceiling is not None:
        out = shifted[: h * (last - first)].view(h, last - first)
        scores = torch.sub(scores[:, : last - first], ceiling.shift, out=out)
    grouped = scores.view(h // GROUP, GROUP, -1)[:, :, : last - first]
    error = job.certificate.errors(slice(first, last), start // job.tile)
    return Side(first, last, grouped, False, start, GROUP, 1, error, job.certificate.relative, ceiling)


class _Bands:
    """The forbidden columns of each anchor: a band, and perhaps one more column."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.parts = [slice(start, min(start + _BAND_ROWS, job.n)) for start in range(0, job.n, _BAND_ROWS)]
        self.low = [(int(job.low[rows].min()), int(job.low[rows].max())) for rows in self.parts]
        self.high = [(int(job.high[rows].min()), int(job.high[rows].max())) for rows in self.parts]

    def cover(self, first: int, last: int, start: int, stop: int) -> bool:
        """Whether a whole tile is forbidden."""
        parts = range(first // _BAND_ROWS, -(-last // _BAND_ROWS))
        return all(self.low[part][1] <= start and self.high[part][0] >= stop for part in parts)

    def blank(self, scores: Float[Tensor, "h w"], first: int, start: int) -> None:
        """-inf wherever a pair is forbidden, or padding."""
        h, w = scores.shape
        job = self.job
        scores[max(0, job.n - first) :] = -torch.inf
        scores[:, max(0, job.columns.rows - start) :] = -torch.inf
        for number in range(first // _BAND_ROWS, min(len(self.parts), -(-(first + h) // _BAND_ROWS))):
            low, high = max(self.low[number][0], start) - start, min(self.high[number][1], start + w) - start
            if low >= high:
                continue
            rows = self.parts[number]
            columns = torch.arange(start + low, start + high, device=scores.device)
            forbidden = (columns >= job.low[rows, None]) & (columns < job.high[rows, None])
            scores[rows.start - first : rows.stop - first, low:high].masked_fill_(forbidden, -torch.inf)
        if job.self_column is not None:
            own = job.self_column[first : first + h]
            row = ((own >= start) & (own < start + w)).nonzero().flatten()
            scores[row, own[row] - start] = -torch.inf
