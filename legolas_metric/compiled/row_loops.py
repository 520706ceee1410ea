"""Compiled passes over rows, one after the other; see `rows`."""

import math
from typing import no_type_check

import numpy as np

from legolas_metric.compiled.jit import compiled, compiled_sum
from legolas_metric.compiled.pointers import fetch, shifted
from legolas_metric.compiled.row_metrics import DOT, EUCLIDEAN

AHEAD = 4  # pairs whose rows are brought from memory meanwhile
_SPLIT = 2.0**20 + 1  # as in `geometry.settled`
_TIE = 2.0**-42  # the square of `geometry.tie_distance` of float32
_LINE = 16  # floats of a line of the processor's cache


@compiled_sum
@no_type_check
def _total(x, y, d, products):
    """The sum of products, or of squared differences."""
    total = 0.0
    if products:
        for j in range(d):
            total += np.float64(x[j]) * np.float64(y[j])
        return total
    for j in range(d):
        gap = np.float64(x[j]) - np.float64(y[j])
        total += gap * gap
    return total


@compiled_sum
@no_type_check
def product(x, y, d):
    """<x, y> of float32 rows, given by pointers, in float32."""
    total = np.float32(0)
    for j in range(d):
        total += x[j] * y[j]
    return np.float64(total)


@compiled
@no_type_check
def whole_product(x, y, d):
    """<x, y> of int16 rows, given by pointers; it must fit int32."""
    total = np.int32(0)
    for j in range(d):
        total = np.int32(total + x[j] * y[j])  # numba's integers have 64 bits otherwise
    return np.int64(total)


@compiled
@no_type_check
def decisive(x, y, d, metric):
    """`geometry.exact_similarity` of two rows, given by pointers; of a metric by its number."""
    total = _total(x, y, d, metric == DOT)
    wide = _SPLIT * total
    total = wide - (wide - total)
    if metric == DOT:
        return total
    if metric == EUCLIDEAN:
        return -math.sqrt(total)
    return 1.0 if total <= _TIE else max(1 - total / 2, -1.0)


@compiled
@no_type_check
def fetch_row(rows, row, d):
    """Have a row brought from memory, of a pointer to all of them."""
    for j in range(0, d, _LINE):
        fetch(shifted(rows, row * d + j))
