"""Compiled loops of the evaluation. They write into what they are given."""

from typing import no_type_check

import numpy as np

from legolas_metric.compiled.jit import compiled

_TOGETHER = 1024


@compiled
@no_type_check
def count_cells(scores, scale, offset, counts):
    """Add one to the cell of each score [t]; cells are even, and the outer ones hold all that lies beyond."""
    last = np.float64(len(counts) - 1)
    for i in range(len(scores)):
        place = offset + scale * scores[i]
        place = place if place > 0.0 else 0.0
        counts[np.uint32(np.int32(place if place < last else last))] += 1


@compiled
@no_type_check
def levels_below(low, scale, offset, below):
    """For each cell, and for the end [c + 1], the number of levels that begin in the cells below it."""
    place, last = 0, np.float64(len(below) - 2)
    for cell in range(len(below)):
        while place < len(low):
            own = offset + scale * low[place]
            own = own if own > 0.0 else 0.0
            if np.int32(own if own < last else last) >= cell:
                break
            place += 1
        below[cell] = place


@compiled
@no_type_check
def count_levels(scores, scale, offset, below, levels, between, tied):
    """Count each score [t] by the number of levels that begin at it or below; and at the level that holds it.

    Levels ascend, and do not overlap; `levels` [2 m + 2] holds -inf, where each begins and ends, and inf.
    A cell of the grid tells how many begin below it; one begins in it at most, as a rule, and one comparison tells the
    score's side. The exceptions are noted, and settled by halving. Each step is taken for a whole chunk, so that
    look-ups wait for memory together; indices are unsigned, as others are tested for being negative.
    """
    one, two = np.uint32(1), np.uint32(2)
    last = np.float64(len(below) - 2)
    values, cells = np.empty(_TOGETHER, np.float64), np.empty(_TOGETHER, np.uint32)
    places, noted = np.empty(_TOGETHER, np.uint32), np.empty(_TOGETHER + 1, np.uint32)
    for start in range(0, len(scores), _TOGETHER):
        size = min(_TOGETHER, len(scores) - start)
        for j in range(size):
            values[j] = scores[start + j]
            place = offset + scale * values[j]
            place = place if place > 0.0 else 0.0
            cells[j] = np.uint32(np.int32(place if place < last else last))
        for j in range(size):
            places[j] = below[cells[j]]
        for j in range(size):
            places[j] += np.uint32(levels[two * places[j] + one] <= values[j])
        exceptions = 0
        for j in range(size):
            between[places[j]] += 1
            noted[exceptions] = j
            at = two * places[j]
            exceptions += (levels[at] >= values[j]) | (levels[at + one] <= values[j])
        for i in range(exceptions):
            j = noted[i]
            lowest, highest = places[j], below[cells[j] + one]
            between[lowest] -= 1
            while lowest < highest:
                middle = (lowest + highest) >> one
                if levels[two * middle + one] <= values[j]:
                    lowest = middle + one
                else:
                    highest = middle
            between[lowest] += 1
            if lowest > 0:
                tied[lowest - one] += levels[two * lowest] >= values[j]


@compiled
@no_type_check
def count_intervals(scores, low, high, above, inside):
    """For each of a row's intervals [q, w], how many of its scores [q, n] lie above it, and how many inside."""
    for i in range(len(scores)):
        row = scores[i]
        for j in range(low.shape[1]):
            least, most = low[i, j], high[i, j]
            more = reached = np.int64(0)
            for c in range(len(row)):
                more += row[c] > most
                reached += row[c] >= least
            above[i, j], inside[i, j] = more, reached - more
