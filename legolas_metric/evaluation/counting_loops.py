"""Compiled loops of the evaluation. They write into what they are given."""

from typing import no_type_check

import numpy as np

from legolas_metric.compiled.jit import compiled
from legolas_metric.compiled.pointers import pointer, shifted
from legolas_metric.compiled.row_loops import reported

_CHUNK = 1024


@compiled
@no_type_check
def count_cells(scores, scale, offset, counts):
    """Add one to the cell of each score [t], rounded to float32; cells are even, and hold all scores."""
    for i in range(len(scores)):
        counts[np.uint32(np.int32(offset + scale * np.float32(scores[i])))] += 1


@compiled
@no_type_check
def levels_below(levels, scale, offset, below):
    """For each cell, and for the end [c + 1], the number of levels in the cells below it."""
    place = 0
    for cell in range(len(below)):
        while place < len(levels) and np.int32(offset + scale * levels[place]) < cell:
            place += 1
        below[cell] = place


@compiled
@no_type_check
def count_levels(scores, scale, offset, below, levels, between, tied):
    """Count each score [t], rounded to float32, by the number of levels below it; and at the level that it equals.

    Levels [m + 1] are float32 and ascend to a last one of inf. A cell of the grid tells how many are below it; it
    holds one level at most, as a rule, and one comparison tells its side. The exceptions are noted, and settled by
    halving. Each step is taken for a whole chunk, so that look-ups wait for memory together; indices are unsigned, as
    others are tested for being negative.
    """
    one = np.uint32(1)
    values, cells = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.uint32)
    places, noted = np.empty(_CHUNK, np.uint32), np.empty(_CHUNK + 1, np.uint32)
    for start in range(0, len(scores), _CHUNK):
        size = min(_CHUNK, len(scores) - start)
        for j in range(size):
            values[j] = scores[start + j]
            cells[j] = np.uint32(np.int32(offset + scale * values[j]))  # in one step it is not vectorised
        for j in range(size):
            places[j] = below[cells[j]]
        for j in range(size):
            places[j] += np.uint32(levels[places[j]] < values[j])
        exceptions = 0
        for j in range(size):
            between[places[j]] += 1
            noted[exceptions] = j
            exceptions += levels[places[j]] <= values[j]
        for i in range(exceptions):
            j = noted[i]
            low, high = places[j], below[cells[j] + one]
            between[low] -= 1
            while low < high:
                middle = (low + high) >> one
                if levels[middle] < values[j]:
                    low = middle + one
                else:
                    high = middle
            between[low] += 1
            tied[low] += levels[low] == values[j]


@compiled
@no_type_check
def own_similarities(x, y, first, count, asker, found, euclidean, best):
    """Similarities of queries [q, d] to the gallery rows of their class, rounded to float32, descending.

    The class of a query is `count` rows of the gallery [n, d] from `first` on. Those of its own id are no positives;
    nor are those of its group, where there are groups: `asker` [q, 1 or 2] and `found` [n, 1 or 2] hold ids and groups.
    Places [q, w] that are left over in `best` hold -inf.
    """
    left, right, d = pointer(x), pointer(y), x.shape[1]
    for i in range(len(x)):
        filled = 0
        for j in range(first[i], first[i] + count[i]):
            alike = False
            for c in range(asker.shape[1]):
                alike |= asker[i, c] == found[j, c]
            if alike:
                continue
            score, place = reported(shifted(left, i * d), shifted(right, j * d), d, euclidean), filled
            while place > 0 and best[i, place - 1] < score:
                best[i, place] = best[i, place - 1]
                place -= 1
            best[i, place] = score
            filled += 1
        best[i, filled:] = -np.inf


@compiled
@no_type_check
def count_above(scores, values, greater, equal):
    """For each of a row's values [q, w], how many of its scores [q, n] are greater, and how many equal it."""
    for i in range(len(scores)):
        row = scores[i]
        for j in range(values.shape[1]):
            value = values[i, j]
            more = same = np.int32(0)
            for c in range(len(row)):
                more = np.int32(more + (row[c] > value))  # in 32 bits: twice as many at a time
                same = np.int32(same + (row[c] == value))
            greater[i, j], equal[i, j] = more, same
