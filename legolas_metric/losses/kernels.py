"""Loops of a batch against itself, by label alone, compiled; `alone` calls them between its matrix products.

Everything is in order of label, so that a row's positives are the columns `start` to `stop`, itself left out. Sums over
pairs are taken in float64, whatever the similarities are in. N rows, B rows of a strip of the similarity matrix, which
begins at row and column `first`, and V columns of it: half of the matrix, since the other half is the same.

Loops that LLVM is to vectorise are kept plain: no branches, no sums into one variable, and no libm.
"""

import math
from typing import no_type_check

import numpy as np

from legolas_metric.compiled.jit import compiled, compiled_sum
from legolas_metric.losses.terms import IN, MULTI, OUT

_LOG2_E = np.float32(math.log2(math.e))
_ROUND = np.float32(1.5 * 2**23)  # added to a float32, it leaves the nearest integer in the low bits
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(math.log(2) - 0.693359375)
_E2, _E3, _E4 = np.float32(5.0000001201e-1), np.float32(1.6666665459e-1), np.float32(4.1665795894e-2)
_E5, _E6, _E7 = np.float32(8.3334519073e-3), np.float32(1.3981999507e-3), np.float32(1.9875691500e-4)
_ONE = np.float32(1)
_LEAST = np.float32(-87)  # below it exp is no normal float32


@compiled
@no_type_check
def _exp(t):
    """exp of a float32 between -87 and 88, or NaN, to 1e-7: 2^k times the polynomial of the Cephes library."""
    rounded = t * _LOG2_E + _ROUND
    k = rounded - _ROUND
    r = t - k * _LN2_HIGH - k * _LN2_LOW
    p = ((((_E7 * r + _E6) * r + _E5) * r + _E4) * r + _E3) * r + _E2
    power = np.int32((np.float32(rounded).view(np.int32) + 127) << 23)
    return (p * r * r + r + _ONE) * power.view(np.float32)


@compiled
@no_type_check
def _exp_of(values, shift):
    if values.itemsize == 4:
        shift32 = np.float32(shift)
        for j in range(len(values)):
            t = np.float32(values[j]) - shift32
            values[j] = _exp(_LEAST if t < _LEAST else t)  # NaN is not below it, and shows
    else:
        for j in range(len(values)):
            values[j] = math.exp(values[j] - shift)


@compiled_sum
@no_type_check
def _dot(a, b):
    total = 0.0
    for j in range(len(a)):
        total += np.float64(a[j]) * b[j]
    return total


@compiled_sum
@no_type_check
def _sum(values):
    total = 0.0
    for j in range(len(values)):
        total += values[j]
    return total


@compiled
@no_type_check
def sorted_units(x, labels, order, root, least):
    """Unit rows times `root` in order of label, what each was divided by (inf: no direction), and its class's range.

    `order` sorts the labels; an unlabelled row has an empty range.
    """
    n, d = x.shape
    y, norm = np.empty_like(x), np.empty(n)
    start, stop = np.empty(n, np.int64), np.empty(n, np.int64)
    for i in range(n):
        row = x[order[i]]
        length = math.sqrt(_dot(row, row))
        norm[i] = np.inf if length <= least else length
        factor = root / norm[i]
        for j in range(d):
            y[i, j] = row[j] * factor
        start[i] = start[i - 1] if i > 0 and labels[order[i]] == labels[order[i - 1]] else i
    for i in range(n - 1, -1, -1):
        stop[i] = stop[i + 1] if i + 1 < n and labels[order[i]] == labels[order[i + 1]] else i + 1
    for i in range(n):
        if labels[order[i]] < 0:
            start[i] = stop[i] = i
    return y, norm, start, stop


@compiled
@no_type_check
def weigh(s, first, start, stop, form, shift, slope, z, p):
    """Overwrite similarities [b, v] by what their derivatives are made of, and add them to the sums of both rows.

    To z goes E = exp(s - shift) and, of positives, to p: s (OUT), E (IN), or (MULTI, where E is then not added)
    Q = exp(-slope (s - shift)), which then takes E's place.
    """
    rows, columns = s.shape
    own = np.empty(columns, s.dtype)
    z, p = z[first:], p[first:]
    for i in range(rows):
        row, here = s[i], first + i
        low, high = max(start[here] - first, 0), stop[here] - first
        own[low:high] = row[low:high]
        _exp_of(row, shift)
        if form == MULTI:
            for j in range(low, high):
                own[j] = -slope * (own[j] - shift)
            _exp_of(own[low:high], 0.0)
            row[low:high] = 0
        elif form == IN:
            own[low:high] = row[low:high]
        row[i] = 0
        if low < high:
            own[i] = 0
        # The strip's own square is symmetric: the sums of its columns are those of its rows.
        for j in range(columns):
            z[j] += row[j]
        for j in range(low, high):
            p[j] += own[j]
        z[i] += _sum(row[rows:])
        p[i] += _sum(own[max(low, rows) : max(high, rows)])
        if form == MULTI:
            row[low:high] = own[low:high]


@compiled
@no_type_check
def finish(z, p, start, stop, form, scale, shift, slope, weights, order, a, b):
    """Mean, largest share that an anchor has in it, least z that it was made of (inf: of none, or under MULTI).

    a and b become the mean's derivatives by each z and p over that share, without which they may be below float32.
    """
    value = total = largest = 0.0
    least = np.inf
    for i in range(len(z)):
        count, w = stop[i] - start[i] - 1, weights[order[i]]
        if count < 0 or (count == 0 and form != MULTI):  # unlabelled, or without a positive
            z[i] = p[i] = 0
            continue
        if form != MULTI:
            least = min(least, z[i], p[i] if form == IN else z[i])
        if form == MULTI:
            value += w * (math.log1p(p[i]) / (slope * scale) + math.log1p(z[i]) / scale)
            z[i], p[i] = 1 / (scale * (1 + z[i])), -1 / (scale * (1 + p[i]))
        elif form == IN:
            value += w * (math.log(z[i]) - math.log(p[i] / count))
            z[i], p[i] = 1 / z[i], -1 / p[i]
        else:
            value += w * (shift + math.log(z[i]) - p[i] / count)
            z[i], p[i] = 1 / z[i], -1 / count
        total += w
        largest = max(largest, w)
    if total == 0:
        a[:] = b[:] = 0
        return 0.0, 0.0, least
    for i in range(len(z)):
        share = weights[order[i]] / largest
        a[i], b[i] = z[i] * share, p[i] * share
    return value / total, largest / total, least


@compiled
@no_type_check
def slopes(s, first, start, stop, form, a, b):
    """Overwrite what `weigh` left by the derivative of the mean by each similarity, both orders of the pair taken."""
    rows, columns = s.shape
    own = np.empty(columns, s.dtype)
    a, b = a[first:], b[first:]
    for i in range(rows):
        row, here = s[i], first + i
        low, high = max(start[here] - first, 0), stop[here] - first
        own[low:high] = row[low:high]
        a_here, b_here = a[i], b[i]
        for j in range(columns):
            row[j] *= a_here + a[j]
        for j in range(low, high):
            both = b_here + b[j]
            if form == OUT:
                row[j] += both
            elif form == IN:
                row[j] += own[j] * both
            else:
                row[j] = own[j] * both
        row[i] = 0


@compiled
@no_type_check
def through_units(g, y, norm, order, root, share, out):
    """From `share` times the gradient by `sorted_units` to that by its input, in its order; returns that by root^2."""
    by_scale = 0.0
    for i in range(len(g)):
        along = _dot(g[i], y[i]) / root**2
        by_scale += along
        row, factor = out[order[i]], share * root / norm[i]
        for j in range(len(row)):
            row[j] = factor * (g[i, j] - along * y[i, j])
    return share * by_scale / 2
