"""Compiled passes over rows, one after the other; see `rows`."""

import math
from typing import no_type_check

import numpy as np

from legolas_metric.compiled.jit import compiled, compiled_sum
from legolas_metric.compiled.pointers import fetch, pointer, shifted

AHEAD = 4  # pairs whose rows are brought from memory meanwhile
_LINE = 16  # floats of a line of the processor's cache


@compiled_sum
@no_type_check
def norm_range(rows):
    """The least and the largest norm of rows, in float64; the latter is infinite if an entry is not finite."""
    least, most = math.inf, 0.0
    for i in range(len(rows)):
        row, total = rows[i], 0.0
        for j in range(len(row)):
            wide = np.float64(row[j])
            total += wide * wide
        least, most = min(least, total), max(most, total if total < math.inf else math.inf)
    return math.sqrt(least), math.sqrt(most)


@compiled_sum
@no_type_check
def unit_rows(rows, tolerance, out):
    """Rows divided by their norm, which is taken in float64, unless it is 1 to a tolerance; and its range, as above."""
    least, most = math.inf, 0.0
    for i in range(len(rows)):
        row, unit, total = rows[i], out[i], 0.0
        for j in range(len(row)):
            wide = np.float64(row[j])
            total += wide * wide
        least, most = min(least, total), max(most, total if total < math.inf else math.inf)
        norm = math.sqrt(total)
        if abs(norm - 1) <= tolerance:
            norm = 1.0
        for j in range(len(row)):
            unit[j] = np.float64(row[j]) / norm
    return math.sqrt(least), math.sqrt(most)


@compiled_sum
@no_type_check
def reported(x, y, d, euclidean):
    """The similarity of two rows, given by pointers, that is reported: in float64, rounded to float32."""
    total = 0.0
    if euclidean:
        for j in range(d):
            gap = np.float64(x[j]) - np.float64(y[j])
            total += gap * gap
        return np.float32(-math.sqrt(total))
    for j in range(d):
        total += np.float64(x[j]) * np.float64(y[j])
    return np.float32(total)


@compiled
@no_type_check
def fetch_row(rows, row, d):
    """Have a row brought from memory, of a pointer to all of them."""
    for j in range(0, d, _LINE):
        fetch(shifted(rows, row * d + j))


@compiled
@no_type_check
def pair_similarities(x, y, query, row, euclidean, out):
    """The reported similarity of each pair (query, row)."""
    left, right, d = pointer(x), pointer(y), x.shape[1]
    for pair in range(len(query)):
        if pair + AHEAD < len(query):
            fetch_row(right, row[pair + AHEAD], d)
        out[pair] = reported(shifted(left, query[pair] * d), shifted(right, row[pair] * d), d, euclidean)
