"""A pass over the tiles on a processor: compiled loops, in threads that never meet in a block of rows.

Letters: n anchors, m columns, h x w strip.
"""

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from legolas_metric.budgets import CACHE, WORKSPACE
from legolas_metric.compiled.jit import arrays
from legolas_metric.compiled.row_metrics import METRICS
from legolas_metric.compiled.threads import in_threads
from legolas_metric.geometry import chunks
from legolas_metric.index.exact.job import Job, Screened
from legolas_metric.index.exact.layout import ANCHOR, DECIDED, FLOOR, LOOKED, NO_CLOSER, NO_DECIDER, REACHED
from legolas_metric.rows import NO_ID

_TILES = (960, 480, 240, 96, 48)  # rows of a tile: of micro-tiles
_SIDE = CACHE // 8  # bytes of one side of a tile
_SHARES = 4  # of rows for each thread, at least
_ROOM, _WINDOWED_ROOM = 32, 384  # slots beside two for each neighbour: whatever lies near a ceiling is a candidate
_SLOT = 12  # bytes
_STRIP = 240  # rows whose float scores are computed together
_IN_ONE_THREAD = 2**27  # factors, whose products take two milliseconds: threads would cost a fourth of that
_SETTLED = 4096  # anchors that are brought to their end together
_DECIDED = 8  # one of so many columns may be decided for an anchor: a float32 scan takes as long
_LANES = 16  # among which the first scores of a row are dealt out, and multiples of it


def tile_size(rows: int, width: int) -> int:
    """Rows and columns of a tile, for so many rows of so many bytes."""
    for tile in _TILES:
        if tile * width <= _SIDE and tile * _SHARES * torch.get_num_threads() <= rows:
            return tile
    return _TILES[-1]


def slots_for(n: int, k: int, *, windowed: bool) -> int:
    """Candidates that each of n anchors can hold: in a window many, as long as all their slots fit the workspace."""
    room = min(_WINDOWED_ROOM, WORKSPACE // (_SLOT * n) - 2 * k) if windowed else _ROOM
    return 2 * k + max(_ROOM, room)


def sweep(job: Job, floors: Float32[Tensor, " n"]) -> Screened:
    """Collect every candidate that the certificate cannot rule out."""
    from legolas_metric.index.exact import buffers

    anchors = _anchors(job, floors)
    slots = np.empty((job.n, 3 * slots_for(job.n, job.asked.k, windowed=job.ceiling is not None)), np.float32)
    sweep = _Sweep(job, anchors, slots)
    width = job.columns.left.numel() // job.columns.padded
    run = map if job.n * job.columns.rows * width < _IN_ONE_THREAD else in_threads
    groups = [count for count in run(sweep.run, sweep.tiles()) if count is not None]
    parts = chunks(job.n, _SETTLED)
    count = sum(run(lambda part: buffers.settle_all(anchors[part], slots[part], job.asked.k), parts))
    anchor, column = np.empty(count, np.int64), np.empty(count, np.int64)
    buffers.survivors(anchors, slots, anchor, column)
    reached = torch.from_numpy(anchors[:, REACHED].astype(np.float32))
    closed = torch.from_numpy(np.isinf(anchors[:, FLOOR]) & (anchors[:, FLOOR] > 0))
    counts = len(groups), sum(groups), int(anchors[:, LOOKED].sum()), int(anchors[:, DECIDED].sum())
    return Screened(torch.from_numpy(anchor), torch.from_numpy(column), closed, reached, *counts)


def _anchors(job: Job, floors: Float32[Tensor, " n"]) -> np.ndarray:
    """The table of `layout`."""
    from legolas_metric.index.exact import buffers

    table = np.empty((job.n, ANCHOR))
    none = torch.full_like(floors, torch.inf)
    sure, possible = (none, none) if job.ceiling is None else (job.ceiling.sure, job.ceiling.possible)
    own = torch.full_like(job.low, NO_ID) if job.self_column is None else job.self_column
    columns = (floors, sure, possible, job.low, job.high, own)
    buffers.open_anchors(table, *(column.numpy() for column in columns))
    return table


def _decider(job: Job) -> tuple[Any, ...]:
    """By what candidates are decided when the slots are full, as `NO_DECIDER` has it."""
    asked = job.asked
    bounds = NO_DECIDER[3:5] if asked.bounds is None else arrays(*asked.bounds)
    tables = arrays(asked.own.embeddings, asked.rows.embeddings, asked.rows.ids)
    most = len(asked.rows) // _DECIDED
    return (*tables, *bounds, (job.frame.sign, METRICS.index(asked.metric), most, *job.frame.line))


class _Sweep:
    """The tiles of a job, and the work on each."""

    def __init__(self, job: Job, anchors: np.ndarray, slots: np.ndarray) -> None:
        from legolas_metric.index.exact import buffers
        from legolas_metric.index.exact import passes as kernels

        self.job, self.anchors, self.slots = job, anchors, slots
        self.buffers, self.kernels = buffers, kernels
        self.whole = job.columns.left.dtype == torch.int16
        self.scale = (job.columns.unit, float(job.certificate.relative), job.ceiling is not None, job.asked.k)
        self.closer = (*NO_CLOSER[:2], _decider(job))
        if job.closer is not None:
            heads, wholes = job.closer
            terms = heads.anchors.offset, heads.columns.offset
            self.closer = (
                arrays(heads.anchors.left, heads.columns.right, *terms, heads.missed.double()),
                arrays(wholes.anchors.left, wholes.columns.right, wholes.missed.double()),
                self.closer[2],
            )
        self.locks = [threading.Lock() for _ in range(-(-max(job.n, job.columns.rows) // job.tile))]
        self.local = threading.local()

    def tiles(self) -> Iterator[tuple[int, int, bool]]:
        """Numbers of blocks of rows and of columns, such that neighbours share none; and whether the rows' first.

        The first tiles are those on the diagonal: no other serves its rows alone in a self-join.
        """
        down, across = (-(-rows // self.job.tile) for rows in (self.job.n, self.job.columns.rows))
        for row in range(down):
            yield row, row % across, True
        for shift in range(across):
            for row in range(down):
                column = (shift - row) % across
                if column != row % across and (not self.job.symmetric or row < column):
                    yield row, column, False

    def run(self, tile: tuple[int, int, bool]) -> int | None:
        """Work on one tile, alone with its rows and, where it serves them too, its columns; groups looked at.

        None where all of it is forbidden.
        """
        row, column, first = tile
        both = self.job.symmetric and row < column
        if self._covered(row, column):
            return None
        with self.locks[row], self.locks[column] if both else nullcontext():
            return self._work(row, column, both, first)

    def _work(self, row: int, column: int, both: bool, first: bool) -> int:
        job, kernels = self.job, self.kernels
        begin, start = row * job.tile, column * job.tile
        end, stop = min(begin + job.tile, job.anchors.padded), min(start + job.tile, job.columns.padded)
        rows = self._side(begin, end, column, job.n)
        columns = self._side(start, stop, row, job.n) if both else self._side(start, stop, 0, 0)
        place = (begin, start, job.n, job.columns.rows)
        shared = (self.anchors, self.slots, place, *rows, *columns, self.scale, self.closer)
        lanes = _LANES * -(-2 * job.asked.k // _LANES)
        seeded = first and job.closer is None and 2 * lanes <= stop - start
        if self.whole:
            sides = (job.anchors.left, job.columns.right, job.anchors.offset, job.columns.offset)
            tables = [side.numpy() for side in sides]
            if seeded:
                return kernels.sweep_first_tile(*tables, *shared, lanes)
            return kernels.sweep_tile(*tables, *shared)
        left, right = job.anchors.left, job.columns.right[start:stop].T
        groups = 0
        for top in range(begin, end, _STRIP):
            scores = self._scores(left[top : min(top + _STRIP, end)], right).numpy()
            if seeded:
                self.buffers.raise_floors(scores, top, self.anchors, place, *rows, lanes, -np.inf, self.scale)
            groups += kernels.look_at_strip(scores, top, *shared)
        return groups

    def _side(self, first: int, last: int, block: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """What matters to the anchors of one side, whose scores are with a block of the other; nothing past n."""
        levels = np.empty((2, last - first), np.int32 if self.whole else np.float32)
        errors = np.empty(last - first)
        certificate = self.job.certificate
        bounds = certificate.weights.numpy(), certificate.bounds[block].numpy()
        self.buffers.open_side(self.anchors, self.slots, first, n, *bounds, levels, errors, self.scale)
        return levels, errors

    def _scores(self, left: Tensor, right: Tensor) -> Float32[Tensor, "h w"]:
        """A strip of scores, in memory that is used again."""
        h, w = len(left), right.shape[1]
        if not hasattr(self.local, "strip"):
            self.local.strip = left.new_empty(_STRIP * self.job.tile)
            self.local.wide = self.local.strip.float()
        scores = torch.mm(left, right, out=self.local.strip[: h * w].view(h, w))
        return scores if scores.dtype == torch.float32 else self.local.wide[: h * w].view(h, w).copy_(scores)

    def _covered(self, row: int, column: int) -> bool:
        """Whether the whole tile is forbidden."""
        tile, job = self.job.tile, self.job
        rows, start = slice(row * tile, min((row + 1) * tile, job.n)), column * tile
        stop = min(start + tile, job.columns.rows)
        return bool((job.low[rows] <= start).all() and (job.high[rows] >= stop).all())
