"""The products of a batch's unit rows with each other: half of them, from int16 factors, in compiled loops.

Letters: n rows, d dimensions.
"""

import math
from typing import no_type_check

import numpy as np

from legolas_metric.compiled import avx2 as microtile
from legolas_metric.compiled.jit import compiled, compiled_sum
from legolas_metric.compiled.panels import PANELS
from legolas_metric.compiled.pointers import pointer, shifted

ROWS, COLUMNS = PANELS
_LARGEST_FACTOR, _LARGEST_SCORE = 2.0**15 - 1, 0.99 * 2.0**31  # in int16 and in int32, with room for rounding
_NEAREST = np.float32(1.5 * 2.0**23)  # added to and taken from a smaller float32, it rounds to a whole number
_COLLAPSED = 0.3  # squared length of the mean of unit rows from which int16 tells too few of their scores apart
_NONE = np.float32(-np.inf)


@compiled
@no_type_check
def gram(x, score):
    """The products of unit rows with each other, from factors rounded to int16; -inf in the columns past them.

    Args:
        x: [n, d].
        score: [w, w], w a multiple of COLUMNS and at least n + COLUMNS; the first n rows are written.

    Returns:
        By how much a score lies off at most; infinite, and nothing is written, where the rows are too much alike.
    """
    n, d = x.shape
    pairs = (d + 1) // 2
    steps, mean = _steps(x)
    if mean > _COLLAPSED:
        return np.inf
    left = np.zeros((len(score), 2 * pairs), np.int16)
    right = np.empty((len(score) // COLUMNS, pairs, COLUMNS), np.int32)
    _round(pointer(x), n, d, np.float32(steps), pointer(left), 2 * pairs)
    lost = _most_lost(pointer(x), n, d, np.float32(steps), pointer(left), 2 * pairs) / steps
    _pack(pointer(left.view(np.int32)), len(right), pairs, pointer(right))
    width, unit = score.shape[1], np.float32(1 / (steps * steps))
    a, b, out = left.ctypes.data, right.ctypes.data, score.ctypes.data
    for column in range(0, n, COLUMNS):
        for row in range(0, min(n, column + COLUMNS), ROWS):
            place, mirrored = out + 4 * (row * width + column), out + 4 * (column * width + row)
            microtile.gram_tile((a + 4 * row * pairs, b + 4 * column * pairs, pairs, place, mirrored, width), unit)
    score[:n, n:] = _NONE
    return lost * (2 + lost) + 8 * 2.0**-24 + 0 * (left[0, 0] + right[0, 0, 0])  # which must live so long


@compiled
@no_type_check
def _steps(x):
    """What 1 becomes in int16, so that no product of unit rows leaves int32; and the squared length of their mean."""
    n, d = x.shape
    flat, bits, total = pointer(x), pointer(x.view(np.int32)), np.zeros(d, np.float32)
    most, sums, scratch = np.int32(0), pointer(total), np.empty(1, np.float32)
    for i in range(n):
        row, own = shifted(flat, i * d), shifted(bits, i * d)
        for j in range(d):
            sums[j] += row[j]
            size = np.int32(own[j] & np.int32(0x7FFFFFFF))
            most = size if size > most else most
    scratch.view(np.int32)[0] = most
    length = 0.0
    for j in range(d):
        length += (np.float64(total[j]) / n) ** 2
    return min(_LARGEST_FACTOR / scratch[0], math.sqrt(_LARGEST_SCORE) - math.sqrt(d)), length


@compiled
@no_type_check
def _round(x, n, d, steps, out, width):
    """Rows in whole steps, of a pointer to them."""
    for i in range(n):
        row, own = shifted(x, i * d), shifted(out, i * width)
        for j in range(d):
            own[j] = np.int16(np.int32(np.float32(np.float32(row[j] * steps + _NEAREST) - _NEAREST)))


@compiled_sum
@no_type_check
def _most_lost(x, n, d, steps, rounded, width):
    """The longest difference, in steps, of a row and what it is rounded to, with room for its own float32."""
    most = np.float32(0)
    for i in range(n):
        row, own, total = shifted(x, i * d), shifted(rounded, i * width), np.float32(0)
        for j in range(d):
            gap = np.float32(row[j] * steps - np.float32(own[j]))
            total += gap * gap
        most = max(most, total)
    return 1.001 * math.sqrt(most) + 0.005 * math.sqrt(d)


@compiled
@no_type_check
def _pack(rows, panels, pairs, out):
    """Panels of COLUMNS rows, of pointers to pairs of factors: each pair of all its rows side by side."""
    for panel in range(panels):
        own, packed = shifted(rows, panel * pairs * COLUMNS), shifted(out, panel * pairs * COLUMNS)
        for pair in range(pairs):
            for row in range(COLUMNS):
                packed[pair * COLUMNS + row] = own[row * pairs + pair]
