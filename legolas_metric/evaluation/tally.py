"""Counting millions of impostor scores where they matter: between genuine scores, or on a fine grid.

Letters: m levels (distinct scores, ascending), t scores of one block.
"""

import torch
from jaxtyping import Float32, Float64, Int32, Int64
from torch import Tensor

from legolas_metric.evaluation.roc import RocCounts

_CELLS = 1 << 21
_GRID = 1 << 20
_CHUNK = 1 << 19


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
        self.genuine: Int64[Tensor, " m"] = torch.bincount(torch.searchsorted(self.levels, genuine), minlength=m)
        self._cells = Cells(low, high, _CELLS)
        held = torch.bincount(self._cells.of(self.levels), minlength=_CELLS)
        below = held.cumsum(0) - held
        self._most = int(held.max())
        # Negative where the cell holds a level, so that one look-up tells both.
        self._below: Int32[Tensor, " c"] = torch.where(held > 0, -1 - below, below).int()
        self._between = torch.zeros(m + 1, dtype=torch.int64, device=device)
        self._tied = torch.zeros(m + 1, dtype=torch.int64, device=device)
        self._sentinel = torch.cat([self.levels, self.levels.new_full((1,), torch.inf)])

    def add(self, scores: Float32[Tensor, " t"]) -> None:
        """Count impostor scores."""
        for part in scores.split(_CHUNK):
            self._add(part)

    def _add(self, scores: Float32[Tensor, " t"]) -> None:
        below = self._below.index_select(0, self._cells.of(scores))
        near = (below < 0).nonzero().flatten()
        place = (-1 - below.index_select(0, near)).long()
        close = scores.index_select(0, near)
        for _ in range(self._most):
            further = close > self._sentinel.index_select(0, place)
            if not bool(further.any()):
                break
            place += further
        self._tied += torch.bincount(place[close == self._sentinel.index_select(0, place)], minlength=len(self._tied))
        below.index_copy_(0, near, place.int())
        self._between += torch.bincount(below, minlength=len(self._between))

    def counts(self) -> RocCounts:
        """What has been counted."""
        total = int(self._between.sum())
        return RocCounts(
            self.levels.double(), self.genuine, total - self._between.cumsum(0)[:-1], self._tied[:-1], total
        )


class GridTally:
    """Counts both kinds on a grid of 2^20 cells; scores of one cell count as tied, so the AUC has a known error.

    Args:
        low, high: where all scores lie.
        device: of the scores.
    """

    def __init__(self, low: float, high: float, device: torch.device) -> None:
        self._cells = Cells(low, high, _GRID)
        self._genuine = torch.zeros(_GRID, dtype=torch.int64, device=device)
        self._impostor = torch.zeros(_GRID, dtype=torch.int64, device=device)

    def add_genuine(self, scores: Float32[Tensor, " t"]) -> None:
        """Count genuine scores."""
        self._genuine += torch.bincount(self._cells.of(scores), minlength=_GRID)

    def add(self, scores: Float32[Tensor, " t"]) -> None:
        """Count impostor scores."""
        for part in scores.split(_CHUNK):
            self._impostor += torch.bincount(self._cells.of(part), minlength=_GRID)

    def counts(self) -> RocCounts:
        """What has been counted."""
        total = int(self._impostor.sum())
        levels = self._cells.floor(torch.arange(_GRID, device=self._genuine.device))
        return RocCounts(levels, self._genuine, total - self._impostor.cumsum(0), self._impostor, total)
