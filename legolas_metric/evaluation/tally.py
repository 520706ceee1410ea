"""Counting millions of impostor scores where they matter: between genuine scores, or on a fine grid.

Letters: m levels (distinct scores, ascending), t scores of one block.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.budgets import WORKSPACE, rows_for
from legolas_metric.compiled.readiness import Loops
from legolas_metric.compiled.threads import in_threads
from legolas_metric.evaluation.pairs import Scores
from legolas_metric.evaluation.progress import bar
from legolas_metric.evaluation.roc import RocCounts
from legolas_metric.evaluation.scores import Ties

_GRID = 2**18
_FINEST = 22
_CELLS_A_LEVEL = 4
_PLAIN_S = 1e-7
"""About how long torch takes on one thread to count a pair."""
_NARROWEST = 2.0**-42
"""Cell, as a share of the largest score: some times wider than the noise of the scores."""

Count = Callable[[Tensor, Tensor], None]


def _load() -> Sequence[Any]:
    from legolas_metric.evaluation.counting_loops import count_levels, levels_below

    return levels_below, count_levels


COUNTING = Loops("the counting loops", 1.0, _load)


def warm_up() -> dict[str, float]:
    """Compile the counting loops, or load them where they are kept: seconds, by what they do."""
    start = time.perf_counter()
    if not COUNTING.worth(torch.device("cpu"), math.inf):
        return {}
    scores = torch.tensor([0.0, 1.0], dtype=torch.float64)
    _compiled_count(scores, scores)(scores, torch.zeros(5, dtype=torch.int64))
    return {"counting": time.perf_counter() - start}


class Cells:
    """An even grid over [low, high]; the outer cells hold all that lies beyond. Cells ascend with the score."""

    def __init__(self, low: float, high: float, count: int) -> None:
        width = max(high - low, count * _NARROWEST * max(abs(low), abs(high)), 1e-300)
        self.count, self.scale = count, count / width
        self.offset = -(high - width) * self.scale

    def of(self, scores: Float64[Tensor, " t"]) -> Int64[Tensor, " t"]:
        """Cell of each score."""
        return scores.mul(self.scale).add_(self.offset).clamp_(0, self.count - 1).long()

    def floor(self, cells: Int64[Tensor, " t"]) -> Float64[Tensor, " t"]:
        """Where cells begin."""
        return (cells.double() - self.offset) / self.scale


class Counters:
    """Counts that threads add to, each for itself: as many threads as the budget has room for tables of counts."""

    def __init__(self, size: int, device: torch.device) -> None:
        threads = min(torch.get_num_threads(), rows_for(WORKSPACE, 8 * size)) if device.type == "cpu" else 1
        self._counts = torch.zeros(threads, size, dtype=torch.int64, device=device)

    def add(self, scores: Scores, count: Count, *, pairs: int = 0) -> None:
        """Take all blocks: `count(block, counts)`; of so many pairs a bar is shown where they take long."""
        with bar(pairs, "verify", "pairs") as told:

            def work(counts: Int64[Tensor, " s"]) -> None:
                for block in scores():
                    count(block, counts)
                    told.update(len(block))

            if len(self._counts) == 1:
                work(self._counts[0])
            else:
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
        ties: which scores are one level.
        pairs: how many scores are to be counted; small jobs don't wait for a compiler.
    """

    def __init__(self, genuine: Float64[Tensor, " g"], cuts: Float64[Tensor, " b"], ties: Ties, pairs: int) -> None:
        values, order = torch.cat([genuine, cuts]).sort()
        low, high = ties.bounds(values)
        # Values of one level reach into each other's bounds.
        begins = torch.cat([values.new_ones(1).bool(), values[1:] > high[:-1]])
        ends = torch.cat([begins[1:], begins[:1]])
        place = begins.cumsum(0) - 1
        self._levels: Float64[Tensor, " m"] = values[ends]
        self._low: Float64[Tensor, " m"] = low[begins]
        self._high: Float64[Tensor, " m"] = high[ends]
        self.genuine: Int64[Tensor, " m"] = torch.bincount(place[order < len(genuine)], minlength=len(self._levels))
        self._pairs = pairs
        self._counters = Counters(2 * len(self._levels) + 1, genuine.device)
        worth = COUNTING.worth(genuine.device, pairs * _PLAIN_S / torch.get_num_threads())
        self._count = _compiled_count(self._low, self._high) if worth else self._searched

    def add(self, scores: Scores) -> None:
        """Count impostor scores."""
        self._counters.add(scores, self._count, pairs=self._pairs)

    def _searched(self, scores: Float64[Tensor, " t"], counts: Int64[Tensor, " s"]) -> None:
        """Count scores by the number of levels that begin at them or below, and those that a level holds there too."""
        between, tied = counts[: len(self._low) + 1], counts[len(self._low) + 1 :]
        place = torch.searchsorted(self._low, scores, right=True)
        between += torch.bincount(place, minlength=len(between))
        held = (place - 1).clamp_min(0)
        tied += torch.bincount(held[(place > 0) & (scores <= self._high[held])], minlength=len(tied))

    def counts(self) -> RocCounts:
        """What has been counted."""
        counts = self._counters.total()
        between, tied = counts[: len(self._low) + 1], counts[len(self._low) + 1 :]
        total = int(between.sum())
        above = total - between.cumsum(0)[:-1] - tied
        return RocCounts(self._levels, self.genuine, above, tied, total)


class GridTally:
    """Counts both kinds on a grid of 2^18 cells; scores of one cell count as tied, so the AUC has a known error.

    Args:
        low, high: where all scores lie.
        device: of the scores.
        pairs: how many scores are to be counted.
    """

    def __init__(self, low: float, high: float, device: torch.device, pairs: int) -> None:
        self._pairs = pairs
        self._cells = Cells(low, high, _GRID)
        self._genuine, self._impostor = Counters(_GRID, device), Counters(_GRID, device)

    def add_genuine(self, scores: Scores) -> None:
        """Count genuine scores."""
        self._genuine.add(scores, self._count)

    def add(self, scores: Scores) -> None:
        """Count impostor scores."""
        self._impostor.add(scores, self._count, pairs=self._pairs)

    def _count(self, scores: Float64[Tensor, " t"], counts: Int64[Tensor, " c"]) -> None:
        counts += torch.bincount(self._cells.of(scores), minlength=_GRID)

    def counts(self) -> RocCounts:
        """What has been counted."""
        genuine, impostor = self._genuine.total(), self._impostor.total()
        total = int(impostor.sum())
        levels = self._cells.floor(torch.arange(_GRID, device=genuine.device))
        return RocCounts(levels, genuine, total - impostor.cumsum(0), impostor, total)


def _compiled_count(low: Float64[Tensor, " m"], high: Float64[Tensor, " m"]) -> Count:
    """What `_searched` does, compiled: a grid tells how many levels begin below, but for a comparison or two."""
    levels_below, count_levels = _load()
    m = len(low)
    beyond = low.new_tensor([torch.inf])
    levels = torch.cat([-beyond, torch.stack([low, high], 1).flatten(), beyond]).numpy()
    cells = 1 << min((_CELLS_A_LEVEL * m).bit_length(), _FINEST)
    grid = Cells(float(low[0]), float(low[-1]), cells)
    below = np.empty(cells + 1, np.uint32)
    levels_below(low.numpy(), grid.scale, grid.offset, below)

    def count(scores: Float64[Tensor, " t"], counts: Int64[Tensor, " s"]) -> None:
        own = counts.numpy()
        count_levels(scores.numpy(), grid.scale, grid.offset, below, levels, own[: m + 1], own[m + 1 :])

    return count
