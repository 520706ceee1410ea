"""Counting millions of impostor scores where they matter: between genuine scores, or on a fine grid.

Letters: m levels (distinct scores, ascending), t scores of one block.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.compiled.jit import runs_compiled
from legolas_metric.compiled.threads import in_threads
from legolas_metric.evaluation.pairs import Scores
from legolas_metric.evaluation.roc import RocCounts

_GRID = 1 << 18
_FINEST = 22
_CELLS_A_LEVEL = 4


class Cells:
    """An even grid over more than [low, high], which holds all scores. Cells ascend with the score."""

    def __init__(self, low: float, high: float, count: int) -> None:
        margin = 1e-3 * max(high - low, 1e-30)
        self.scale = count / (high - low + 2 * margin)
        self.offset = (margin - low) * self.scale

    def of(self, scores: Float64[Tensor, " t"]) -> Int64[Tensor, " t"]:
        """Cell of each score, rounded to float32."""
        return scores.float().double().mul_(self.scale).add_(self.offset).long()

    def floor(self, cells: Int64[Tensor, " t"]) -> Float64[Tensor, " t"]:
        """Where cells begin."""
        return (cells.double() - self.offset) / self.scale


Count = Callable[[Tensor, Tensor], None]


class Counters:
    """Counts that threads add to, each for itself; only with compiled loops, as torch counts in one thread."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.compiled = runs_compiled(device)
        threads = torch.get_num_threads() if self.compiled else 1
        self._counts = torch.zeros(threads, size, dtype=torch.int64, device=device)

    def add(self, scores: Scores, count: Count) -> None:
        """Take all blocks: `count(block, counts)`."""

        def work(counts: Int64[Tensor, " s"]) -> None:
            for block in scores():
                count(block, counts)

        if len(self._counts) == 1:
            work(self._counts[0])
            return
        # Threads of torch's own would wait for one another at each block, and spin while the others count.
        in_threads(work, self._counts)

    def total(self) -> Int64[Tensor, " s"]:
        """What all threads have counted."""
        return self._counts.sum(0)


class ExactTally:
    """Counts impostors between the distinct genuine scores, and at each: nothing is lost.

    Args:
        genuine: all genuine scores.
        cuts: further levels at which to know the counts (borders of a histogram).
        low, high: where all scores lie.
    """

    def __init__(self, genuine: Float32[Tensor, " g"], cuts: Float32[Tensor, " b"], low: float, high: float) -> None:
        levels, place = torch.cat([genuine, cuts]).unique(return_inverse=True)
        self.genuine: Int64[Tensor, " m"] = torch.bincount(place[: len(genuine)], minlength=len(levels))
        self._levels: Float32[Tensor, " m1"] = torch.cat([levels, levels.new_full((1,), torch.inf)])
        self._counters = Counters(2 * len(self._levels), levels.device)
        self._count = _compiled_count(self._levels, low, high) if self._counters.compiled else self._searched

    def add(self, scores: Scores) -> None:
        """Count impostor scores, rounded to float32."""
        self._counters.add(scores, self._count)

    def _searched(self, scores: Float64[Tensor, " t"], counts: Int64[Tensor, " s"]) -> None:
        """Count scores by the number of levels below them, and those that equal a level at that level too."""
        values, (between, tied) = scores.float(), counts.view(2, -1)
        place = torch.searchsorted(self._levels, values)
        between += torch.bincount(place, minlength=len(between))
        tied += torch.bincount(place[self._levels[place] == values], minlength=len(tied))

    def counts(self) -> RocCounts:
        """What has been counted."""
        between, tied = self._counters.total().view(2, -1)
        total = int(between.sum())
        above = total - between.cumsum(0)
        return RocCounts(self._levels[:-1].double(), self.genuine, above[:-1], tied[:-1], total)


class GridTally:
    """Counts both kinds on a grid of 2^18 cells; scores of one cell count as tied, so the AUC has a known error.

    Args:
        low, high: where all scores lie.
        device: of the scores.
    """

    def __init__(self, low: float, high: float, device: torch.device) -> None:
        self._cells = Cells(low, high, _GRID)
        self._genuine, self._impostor = Counters(_GRID, device), Counters(_GRID, device)

    def add_genuine(self, scores: Scores) -> None:
        """Count genuine scores."""
        self._genuine.add(scores, self._count)

    def add(self, scores: Scores) -> None:
        """Count impostor scores, rounded to float32."""
        self._impostor.add(scores, self._count)

    def _count(self, scores: Float64[Tensor, " t"], counts: Int64[Tensor, " c"]) -> None:
        if self._impostor.compiled:
            from legolas_metric.evaluation.counting_loops import count_cells

            count_cells(scores.numpy(), self._cells.scale, self._cells.offset, counts.numpy())
        else:
            counts += torch.bincount(self._cells.of(scores), minlength=_GRID)

    def counts(self) -> RocCounts:
        """What has been counted."""
        genuine, impostor = self._genuine.total(), self._impostor.total()
        total = int(impostor.sum())
        levels = self._cells.floor(torch.arange(_GRID, device=genuine.device))
        return RocCounts(levels, genuine, total - impostor.cumsum(0), impostor, total)


def _compiled_count(levels: Float32[Tensor, " m1"], low: float, high: float) -> Callable[[Tensor, Tensor], None]:
    """What `_searched` does, compiled: a grid tells how many levels lie below a score, but for a comparison or two."""
    from legolas_metric.evaluation.counting_loops import count_levels, levels_below

    ascending = levels.numpy()
    cells = 1 << min((_CELLS_A_LEVEL * len(levels)).bit_length(), _FINEST)
    grid = Cells(low, high, cells)
    below = np.empty(cells + 1, np.uint32)
    levels_below(ascending[:-1], grid.scale, grid.offset, below)

    def count(scores: Float64[Tensor, " t"], counts: Int64[Tensor, " s"]) -> None:
        count_levels(scores.numpy(), grid.scale, grid.offset, below, ascending, *counts.view(2, -1).numpy())

    return count
