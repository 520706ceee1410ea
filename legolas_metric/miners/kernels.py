"""Compiled passes over a screened product, one for each rule; see `fused.py`.

Rows of `score` hold -inf but for the negatives of their anchor; `row` and `kept` list its positives, -1 and -inf in
other places. Scores are off by less than `error`; what they leave open is compared by the reported similarity.

Letters: q anchors, n rows, m positives of an anchor, or anchors in any order, d dimensions.
"""

import math
from typing import no_type_check

import numpy as np

from legolas_metric.compiled.jit import compiled
from legolas_metric.compiled.pointers import pointer, shifted
from legolas_metric.compiled.row_loops import reported
from legolas_metric.miners.gram import gram

_STRIP, _LANES = 64, 16  # scores that are looked at together: loops without branches become vector instructions
_LEAST = np.float32(np.finfo(np.float32).min)
_NONE = np.float32(-np.inf)
_NO_KEY = np.int32(np.array(-np.inf, np.float32).view(np.int32)[()] ^ np.int32(0x7FFFFFFF))


@compiled
@no_type_check
def plain(x, labels, sign, semi_hard, margin, score):
    """Triplets of unit rows in one pass: each anchor's positive by `sign`, and its nearest negative.

    Args:
        x, labels: [n, d] and [n].
        sign: 1 for the nearest positive, -1 for the farthest.
        semi_hard, margin: whether the negative must lie in the window d_ap < d_an < d_ap + margin.
        score: of the shape that `gram` takes, overwritten.

    Returns:
        Whether they could be chosen: not where some labels are -1, or the rows too much alike; and (a, p, n).
    """
    n = len(x)
    found = np.empty((3, n), np.int64)
    order, start, size = ordered_runs(labels, labels)
    error = np.inf if labels[order[0]] < 0 else gram(x, score)
    if error == np.inf:
        return False, found[0], found[1], found[2]
    row, kept = split(score, order, start, size, np.arange(n), order[:0], order[:0])
    positive, s_ap = extreme_positive(row, kept, x, x, error, sign)
    low = np.empty(n if semi_hard else 0)
    high = np.empty(len(low))
    for i in range(len(low)):
        high[i] = np.float64(s_ap[i, 0])
        far = math.sqrt(max(2 - 2 * high[i], 0.0)) + margin
        low[i] = 1 - far * far / 2
    negative, _ = nearest_negative(score[:n], np.arange(n), low, high, x, x, error)
    count = 0
    for i in range(n):
        if positive[i, 0] >= 0 and negative[i, 0] >= 0:
            found[0, count], found[1, count], found[2, count] = i, positive[i, 0], negative[i, 0]
            count += 1
    return True, found[0, :count], found[1, :count], found[2, :count]


@compiled
@no_type_check
def ordered_runs(labels, values):
    """The stable order of labels, and where in it each value's run starts, and how long it is."""
    order = np.argsort(labels, kind="mergesort")
    ordered = labels[order]
    start, size = np.empty(len(values), np.int64), np.empty(len(values), np.int64)
    begin = end = 0
    for i in range(len(values)):
        if i == 0 or values[i] != values[i - 1]:
            begin = np.searchsorted(ordered, values[i])
            end = np.searchsorted(ordered, values[i], side="right")
        start[i], size[i] = begin, end - begin
    return order, start, size


@compiled
@no_type_check
def split(score, order, start, size, self_row, skip, skipped):
    """List the positives of each anchor, and set the scores of its whole class to -inf; see `Classes.split_`."""
    shape = len(size), size.max()
    row, kept = np.full(shape, -1), np.full(shape, _NONE)
    for i in range(len(start)):
        for j in range(size[i]):
            place = start[i] + j
            member = order[place]
            apart = len(skip) == 0 or not skip[i] <= place < skip[i] + skipped[i]
            if apart and member != self_row[i]:
                row[i, j], kept[i, j] = member, score[i, member]
            score[i, member] = _NONE
    return row, kept


@compiled
@no_type_check
def extreme_positive(row, kept, x, y, error, sign):
    """The positive of the largest (sign 1) or least (sign -1) similarity; ties to the smaller row."""
    found, value = _answer(len(row))
    left, right, d = pointer(x), pointer(y), x.shape[1]
    for i in range(len(row)):
        best, top, at = _NONE, _NONE, -1
        for j in range(row.shape[1]):
            if row[i, j] >= 0 and sign * kept[i, j] > best:
                best = sign * kept[i, j]
        for j in range(row.shape[1]):
            r = row[i, j]
            if r >= 0 and sign * kept[i, j] >= best - 2 * error:
                s = sign * reported(shifted(left, i * d), shifted(right, r * d), d, False)
                if s > top or (s == top and r < at):
                    top, at = s, r
        found[i, 0], value[i, 0] = at, sign * top
    return found, value


@compiled
@no_type_check
def nearest_negative(score, anchor, low, high, x, y, error):
    """The negative of the largest similarity below `high`, if that is above `low`; ties to the smaller row.

    Without bounds these two are empty.
    """
    n, flat = score.shape[1], pointer(score)
    found, value = _answer(len(anchor))
    bits, scratch = score.view(np.int32), np.empty(1, np.float32)
    left, right, d = pointer(x), pointer(y), x.shape[1]
    for i in range(len(anchor)):
        a = anchor[i]
        under, over = (low[i], high[i]) if len(high) else (-np.inf, np.inf)
        line = shifted(flat, a * n)
        best = _largest_below(bits[a], np.float32(over - error), scratch)
        least, most = max(np.float32(best - 2 * error), _LEAST), np.float32(over + error)
        top, at = _NONE, -1
        j = _next_inside(line, 0, n, least, most)
        while j < n:
            if line[j] + error > top:
                s = reported(shifted(left, a * d), shifted(right, j * d), d, False)
                if top < s < over:
                    top, at = s, j
            j = _next_inside(line, j + 1, n, least, most)
        found[i, 0], value[i, 0] = (at, top) if top > under else (-1, _NONE)
    return found, value


@compiled
@no_type_check
def settle(score, row, kept, x, y, nearest, farthest, epsilon, error, over, under, positives, negatives):
    """Bounds of each anchor's informative pairs, and how many there are; scores near a bound are made exact.

    A negative is informative from `over` up (itself excluded), a positive from `under` down.
    """
    n = score.shape[1]
    left, right, d = pointer(x), pointer(y), x.shape[1]
    for i in range(len(score)):
        line = score[i]
        over[i], under[i] = _floor(farthest[i, 0] - epsilon), -_floor(-(nearest[i, 0] + epsilon))
        least, most = max(np.float32(over[i] - 2 * error), _LEAST), np.float32(over[i] + 2 * error)
        j = _next_inside(pointer(line), 0, n, least, most)
        while j < n:
            line[j] = reported(shifted(left, i * d), shifted(right, j * d), d, False)
            j = _next_inside(pointer(line), j + 1, n, least, most)
        total = 0
        for j in range(n):
            total += line[j] > over[i]
        negatives[i] = total
        total = 0
        for j in range(row.shape[1]):
            if row[i, j] >= 0:
                if abs(kept[i, j] - under[i]) <= 2 * error:
                    kept[i, j] = reported(shifted(left, i * d), shifted(right, row[i, j] * d), d, False)
                total += kept[i, j] < under[i]
        positives[i] = total


@compiled
@no_type_check
def informative(score, row, kept, over, under, a1, p, a2, n):
    """The pairs that `settle` counted; the last four have a place to spare."""
    at = 0
    for i in range(len(row)):
        for j in range(row.shape[1]):
            a1[at], p[at] = i, row[i, j]
            at += (row[i, j] >= 0) & (kept[i, j] < under[i])
    at = 0
    for i in range(len(score)):
        line, begin = score[i], at
        for j in range(len(line)):
            n[at] = j
            at += line[j] > over[i]
        a2[begin:at] = i


@compiled
@no_type_check
def similarities(x, y, anchor, row, value):
    """The reported similarity of anchors and rows; -inf where the row is -1."""
    left, right, d = pointer(x), pointer(y), x.shape[1]
    for i in range(len(anchor)):
        for j in range(row.shape[1]):
            own, other = shifted(left, anchor[i] * d), shifted(right, row[i, j] * d)
            value[i, j] = reported(own, other, d, False) if row[i, j] >= 0 else _NONE


@compiled
@no_type_check
def _answer(m):
    """Room for the row and the similarity of each anchor."""
    return np.empty((m, 1), np.int64), np.empty((m, 1), np.float32)


@compiled
@no_type_check
def _next_inside(scores, j, n, least, most):
    """The next place, from j on, of a score within bounds, of a pointer to n of them; n where there is none."""
    while j < n:
        if j % _STRIP == 0 and not _some_inside(shifted(scores, j), min(_STRIP, n - j), least, most):
            j += _STRIP
        elif j % _LANES == 0 and not _some_inside(shifted(scores, j), min(_LANES, n - j), least, most):
            j += _LANES
        elif least <= scores[j] <= most:
            return j
        else:
            j += 1
    return n


@compiled
@no_type_check
def _some_inside(scores, size, least, most):
    """Whether any of some scores, given by a pointer, lies within bounds."""
    inside = False
    for j in range(size):
        inside |= (scores[j] >= least) & (scores[j] <= most)
    return inside


@compiled
@no_type_check
def _largest_below(bits, bound, scratch):
    """The largest of float32 numbers below a bound, given as bits; -inf where there are none.

    As integers in the order of the numbers: their maximum becomes vector instructions, that of floats does not.
    """
    key = scratch.view(np.int32)  # one number's bits
    scratch[0] = bound
    limit = _ordered(key[0])
    best = _NO_KEY
    for j in range(len(bits)):
        own = _ordered(bits[j])
        below = own if own < limit else _NO_KEY
        best = below if below > best else best
    key[0] = _ordered(best)
    return scratch[0]


@compiled
@no_type_check
def _ordered(bits):
    """Bits of a float32 as an integer in the order of the numbers, and back; numba widens what is not cast."""
    return np.int32(bits ^ np.int32(np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@compiled
@no_type_check
def _floor(value):
    """The largest float32 that is not above."""
    near = np.float32(value)
    return np.nextafter(near, _NONE) if near > value else near
