"""Counting millions of impostor scores where they matter: between genuine scores, or on a fine grid.

Letters: m levels (distinct scores, ascending), t scores of one block.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32, Int64
from torch import Tensor

from legolas_metric.evaluation.roc import RocCounts
from legolas_metric.numerics import chunks

T = TypeVar("T")

_CELLS = 1 << 21
_GRID = 1 << 18
_CHUNK = 1 << 18
"""Scores that are placed at a time, on a CPU: few enough to stay in the cache, and so many that threads rarely meet."""
_STEPS = 8


class Workers:
    """Threads that count: on a CPU torch counts in one. Kept for many blocks, since starting them costs as much."""

    def __init__(self, device: torch.device) -> None:
        self.threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(self.threads)

    def map(self, function: Callable[[Tensor], T], scores: Float32[Tensor, " t"]) -> Iterator[T]:
        """The function of equal parts of the scores."""
        return self._pool.map(function, scores.tensor_split(self.threads))


class Cells:
    """An even grid over more than [low, high], which holds all scores. Cells ascend with the score."""

    def __init__(self, low: float, high: float, count: int) -> None:
        margin = 1e-3 * max(high - low, 1e-30)
        self.scale = count / (high - low + 2 * margin)
        self.offset = torch.tensor((margin - low) * self.scale)

    def of(self, scores: Float32[Tensor, " t"]) -> Int32[Tensor, " t"]:
        """Cell of each score."""
        return torch.add(self.offset.to(scores.device), scores, alpha=self.scale).to(torch.int32)

    def floor(self, cells: Int64[Tensor, " t"]) -> Float64[Tensor, " t"]:
        """Where cells begin."""
        return (cells.double() - float(self.offset)) / self.scale


class ExactTally:
    """Counts impostors between the distinct genuine scores, and at each: nothing is lost.

    A grid cell says how many levels lie below it; only scores in cells that hold a level are compared with it.

    Args:
        genuine: all genuine scores.
        cuts: further levels at which to know the counts (borders of a histogram).
        low, high: where most scores lie.
    """

    def __init__(self, genuine: Float32[Tensor, " g"], cuts: Float32[Tensor, " b"], low: float, high: float) -> None:
        self.levels: Float32[Tensor, " m"] = torch.cat([genuine, cuts]).unique()
        m, device = len(self.levels), self.levels.device
        self._workers = Workers(device)
        self.genuine: Int64[Tensor, " m"] = torch.bincount(torch.searchsorted(self.levels, genuine), minlength=m)
        self._cells = Cells(low, high, _CELLS)
        held = torch.bincount(self._cells.of(self.levels), minlength=_CELLS)
        below = held.cumsum(0) - held
        # Negative where the cell holds a level, so that one look-up tells both.
        self._below: Int32[Tensor, " c"] = torch.where(held > 0, -1 - below, below).int()
        self._between = torch.zeros(m + 1, dtype=torch.int64, device=device)
        self._tied = torch.zeros(m + 1, dtype=torch.int64, device=device)
        self._sentinel = torch.cat([self.levels, self.levels.new_full((1,), torch.inf)])

    def add(self, scores: Float32[Tensor, " t"]) -> None:
        """Count impostor scores."""
        for between, tied in self._workers.map(self._count, scores):
            self._between += between
            self._tied.index_add_(0, tied, torch.ones_like(tied))

    def _count(self, scores: Float32[Tensor, " t"]) -> tuple[Int64[Tensor, " m1"], Int64[Tensor, " u"]]:
        """How many of the scores come after each number of levels, and the levels that some of them equal."""
        if scores.device.type == "cpu":
            place = self._cells.of(scores)
            tied = [self._place(scores[part], place[part].numpy()) for part in chunks(len(scores), _CHUNK)]
            equal = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *tied]))
        else:
            place = torch.searchsorted(self._sentinel, scores)
            equal = place[scores == self._sentinel[place]]
        return torch.bincount(place, minlength=len(self._between)), equal

    def _place(self, scores: Float32[Tensor, " t"], place: np.ndarray) -> np.ndarray:
        """Put the number of levels below each score in the place of its cell; returns the levels that scores equal.

        In NumPy, whose selections take a third of the time of torch's.
        """
        self._below.numpy().take(place, out=place, mode="clip")
        levels, near, tied = self._sentinel.numpy(), np.flatnonzero(place < 0), []
        at, close = -1 - place.take(near), scores.numpy().take(near)
        for _ in range(_STEPS):
            level = levels.take(at)
            tied.append(at[close == level])
            place[near] = at
            further = np.flatnonzero(close > level)
            if len(further) == 0:
                break
            near, close, at = near.take(further), close.take(further), at.take(further) + 1
        else:  # a cell of more levels than that
            at = np.searchsorted(levels, close)
            tied.append(at[close == levels.take(at)])
            place[near] = at
        return np.concatenate(tied)

    def counts(self) -> RocCounts:
        """What has been counted."""
        total = int(self._between.sum())
        return RocCounts(
            self.levels.double(), self.genuine, total - self._between.cumsum(0)[:-1], self._tied[:-1], total
        )


class GridTally:
    """Counts both kinds on a grid of 2^18 cells; scores of one cell count as tied, so the AUC has a known error.

    Args:
        low, high: where all scores lie.
        device: of the scores.
    """

    def __init__(self, low: float, high: float, device: torch.device) -> None:
        self._workers = Workers(device)
        self._cells = Cells(low, high, _GRID)
        self._genuine = torch.zeros(_GRID, dtype=torch.int64, device=device)
        self._impostor = torch.zeros(_GRID, dtype=torch.int64, device=device)

    def add_genuine(self, scores: Float32[Tensor, " t"]) -> None:
        """Count genuine scores."""
        self._genuine += torch.bincount(self._cells.of(scores), minlength=_GRID)

    def add(self, scores: Float32[Tensor, " t"]) -> None:
        """Count impostor scores."""
        for counted in self._workers.map(self._count, scores):
            self._impostor += counted

    def _count(self, scores: Float32[Tensor, " t"]) -> Int64[Tensor, " c"]:
        return torch.bincount(self._cells.of(scores), minlength=_GRID)

    def counts(self) -> RocCounts:
        """What has been counted."""
        total = int(self._impostor.sum())
        levels = self._cells.floor(torch.arange(_GRID, device=self._genuine.device))
        return RocCounts(levels, self._genuine, total - self._impostor.cumsum(0), self._impostor, total)
