"""One pass over the tiles of the score matrix, each of which serves its rows and, in a self-join, its columns.

A tile is filled piece by piece, and each piece is reduced to group maxima while it is in cache; candidates are then
looked for once in the whole tile, so that the cost of a look is spread over many scores.

Letters: n anchors, h x w tile or piece.
"""

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from legolas_metric.index.exact.candidates import Candidates
from legolas_metric.index.exact.job import Job, Screened, Work
from legolas_metric.index.exact.side import GROUP, PIECE, Side, collect

_BAND_ROWS = 128  # rows whose forbidden columns are blanked at once
_PIECE_BYTES = 2 << 20  # of a piece: it stays in cache while it is reduced


def sweep(job: Job, floors: Float32[Tensor, " n"]) -> Screened:
    """Collect every candidate that the certificate cannot rule out."""
    work = Work()
    candidates = Candidates(job.n, job.k, floors, windowed=job.ceiling is not None)
    n, tile = job.n, job.tile
    height, width = min(tile, len(job.anchors.left)), min(tile, len(job.columns.right))
    buffer = job.anchors.left.new_empty(height * width)
    scratch = None if job.ceiling is None else buffer.new_empty(_piece_rows(buffer) * PIECE)
    bands = _Bands(job)
    for first in range(0, n, tile):
        for start in range(first if job.symmetric else 0, job.columns.rows, tile):
            if bands.cover(first, start):
                continue
            h, w = min(tile, len(job.anchors.left) - first), min(tile, len(job.columns.right) - start)
            scores = buffer[: h * w].view(h, w)
            sides = [_side(scores, scratch, job, candidates, first, start, by_row=True)]
            if job.symmetric and start < n and (first < start or job.halved):
                sides.append(_side(scores, scratch, job, candidates, start, first, by_row=False))
            _fill(scores, sides, job, bands, first, start)
            work.tiles += 1
            for side in sides:
                collect(side, job.k, candidates, work)
    return Screened(*candidates.survivors(), candidates.overflowed, candidates.reached, work)


def _fill(scores: Float[Tensor, "h w"], sides: list[Side], job: Job, bands: "_Bands", first: int, start: int) -> None:
    """The scores of a tile, -inf where they are forbidden, and their group maxima."""
    h, w = scores.shape
    left, right = job.anchors.left, job.columns.right
    rows = _piece_rows(scores)
    for top in range(0, h, rows):
        for edge in range(0, w, PIECE):
            piece = scores[top : top + rows, edge : edge + PIECE]
            if not any(side.takes(top, edge) for side in sides):
                piece.fill_(-torch.inf)
                continue
            row, column = first + top, start + edge
            torch.mm(left[row : row + len(piece)], right[column : column + piece.shape[1]].T, out=piece)
            bands.blank(piece, row, column)
            for side in sides:
                side.reduce(piece, top, edge)


def _piece_rows(scores: Tensor) -> int:
    return min(PIECE, _PIECE_BYTES // (PIECE * scores.element_size()))


def _side(
    scores: Float[Tensor, "h w"],
    scratch: Float[Tensor, " s"] | None,
    job: Job,
    candidates: Candidates,
    first: int,
    start: int,
    *,
    by_row: bool,
) -> Side:
    """The tile as its rows see it, or as its columns do."""
    h, w = scores.shape
    last = min(first + (h if by_row else w), job.n)
    floor = candidates.floor[first:last]
    error = job.certificate.errors(slice(first, last), start // job.tile)
    diagonal = job.halved and first == start
    shape = (last - first, w // GROUP) if by_row else (h // GROUP, last - first)
    return Side(
        first=first,
        last=last,
        start=start,
        by_row=by_row,
        diagonal=diagonal,
        tile=scores,
        maxima=scores.new_full(shape, -torch.inf) if diagonal else scores.new_empty(shape),
        bits=job.ceiling is not None or bool(((floor > error) | (floor == -torch.inf)).all()),
        scratch=scratch,
        error=error,
        relative=job.certificate.relative,
        ceiling=None if job.ceiling is None else job.ceiling.part(first, last),
    )


class _Bands:
    """The forbidden columns of each anchor: a band, and perhaps one more column."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.parts = [slice(start, min(start + _BAND_ROWS, job.n)) for start in range(0, job.n, _BAND_ROWS)]
        self.low = [(int(job.low[rows].min()), int(job.low[rows].max())) for rows in self.parts]
        self.high = [(int(job.high[rows].min()), int(job.high[rows].max())) for rows in self.parts]

    def cover(self, first: int, start: int) -> bool:
        """Whether the whole tile of these first rows and columns is forbidden."""
        job = self.job
        last, stop = min(first + job.tile, job.n), min(start + job.tile, job.columns.rows)
        parts = range(first // _BAND_ROWS, -(-last // _BAND_ROWS))
        return all(self.low[part][1] <= start and self.high[part][0] >= stop for part in parts)

    def blank(self, scores: Float[Tensor, "h w"], first: int, start: int) -> None:
        """-inf wherever a pair is forbidden, or padding."""
        h, w = scores.shape
        job = self.job
        if first + h > job.n:
            scores[max(0, job.n - first) :] = -torch.inf
        if start + w > job.columns.rows:
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
