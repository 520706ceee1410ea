"""Compiled loops over the candidates of anchors: what is needed, what is taken, and what remains.

Letters: n anchors, t rows or columns of a tile, w parts of the bound, c slots.
"""

import math
from typing import no_type_check

import numpy as np

from legolas_metric.compiled.jit import compiled, inlined
from legolas_metric.compiled.pointers import fetch, pointer, shifted, to_float, to_int
from legolas_metric.compiled.row_loops import AHEAD, decisive, fetch_row
from legolas_metric.compiled.row_metrics import EUCLIDEAN
from legolas_metric.index.exact.layout import (
    ANCHOR,
    ANCHORS,
    AT,
    COLUMN,
    DECIDED,
    FILL,
    FIRST,
    FLOOR,
    HIGH,
    LAST,
    LOOKED,
    LOW,
    OWN,
    POSSIBLE,
    REACHED,
    RELATIVE,
    ROW,
    SOUGHT,
    SURE,
    UNIT,
    WIDTH,
    WINDOWED,
)

_LARGEST = 2.0**31 - 1
_ROUNDED, _LEAST = 2.0**-22, 2.0**-126  # relative and absolute: bounds are kept as float32


@compiled
@no_type_check
def open_anchors(anchors, floor, sure, possible, first, last, own):
    """Fill the table of `layout`."""
    for anchor in range(anchors.shape[0]):
        anchors[anchor, FLOOR] = floor[anchor]
        anchors[anchor, FILL] = anchors[anchor, LOOKED] = anchors[anchor, DECIDED] = 0
        anchors[anchor, SURE], anchors[anchor, POSSIBLE] = sure[anchor], possible[anchor]
        anchors[anchor, FIRST], anchors[anchor, LAST] = first[anchor], last[anchor]
        anchors[anchor, OWN] = own[anchor]
        anchors[anchor, REACHED] = -math.inf


@inlined
@no_type_check
def _level(score, shift, scale):
    """A true score, moved by what it is uncertain by, as a score of the tile; never nearer to the true one."""
    if abs(score) == math.inf:
        return score
    moved = score + shift + math.copysign(scale[RELATIVE] * (1 + 2 * scale[RELATIVE]) * abs(score + shift), shift)
    if scale[UNIT] == 1.0:
        return moved + math.copysign(_ROUNDED * abs(moved) + _LEAST, shift)
    return np.floor(moved / scale[UNIT]) + math.copysign(1.0, shift)


@inlined
@no_type_check
def _bounded(level, scale):
    """A level that a score of the tile can be compared with."""
    return level if scale[UNIT] == 1.0 else min(max(level, -_LARGEST - 1), _LARGEST)


@compiled
@no_type_check
def open_side(anchors, slots, first, n, bounds, block, levels, errors, scale):
    """Say which scores matter to each anchor of one side of a tile: none to those past the last.

    Args:
        anchors, slots: the tables of `layout`.
        first: the anchor of the first place.
        n: anchors.
        bounds, block: [n, w] and [w], whose product is the error of each anchor's scores; its last part only of scores
            that are too large.
        levels, errors: [2, t] and [t], written.
        scale: of the scores.
    """
    base = pointer(slots)
    for place in range(errors.shape[0]):
        anchor = first + place
        if anchor >= n:
            levels[0, place] = _bounded(math.inf, scale)
            continue
        error = 0.0
        last = block.shape[0] - 1
        for part in range(last):
            error += float(bounds[anchor, part]) * float(block[part])
        above = error + float(bounds[anchor, last]) * float(block[last])
        errors[place] = error
        levels[0, place] = _bounded(_level(anchors[anchor, FLOOR], -error, scale), scale)
        levels[1, place] = _bounded(_level(anchors[anchor, POSSIBLE], above, scale), scale)
        if scale[SOUGHT] > 1 or scale[WINDOWED]:  # its next candidate goes where nothing was for long
            fetch(shifted(base, slots.shape[1] * anchor + 3 * int(anchors[anchor, FILL])))


@compiled
@no_type_check
def raise_floors(scores, top, anchors, place, rows, row_errors, lanes, lowest, scale):
    """Floors from the first scores of the rows from `top` on, so that fewer of them and of later ones matter.

    The columns of a row are dealt out to lanes; the k-th largest of the lanes' maxima is no more than the k-th largest
    score, and seldom much less. Scores of forbidden columns become the `lowest`.
    """
    best = np.empty(lanes, scores.dtype)
    flat, most = pointer(scores), pointer(best)
    for line in range(min(scores.shape[0], place[ANCHORS] - top)):
        row, own = top + line, top + line - place[ROW]
        first, last = int(anchors[row, FIRST]) - place[COLUMN], int(anchors[row, LAST]) - place[COLUMN]
        scores[line, max(first, 0) : max(last, 0)] = lowest
        scores[line, max(place[WIDTH] - place[COLUMN], 0) :] = lowest
        itself = int(anchors[row, OWN]) - place[COLUMN]
        if 0 <= itself < scores.shape[1]:
            scores[line, itself] = lowest
        below = scores.dtype.type(min(_level(anchors[row, SURE], -row_errors[own], scale), _LARGEST))
        best[:] = lowest
        for begin in range(0, scores.shape[1] - lanes + 1, lanes):
            part = shifted(flat, line * scores.shape[1] + begin)
            for lane in range(lanes):  # without branches, and of pointers: vector instructions
                score = part[lane] if part[lane] < below else lowest
                most[lane] = score if score > most[lane] else most[lane]
        least = _select(best, scale[SOUGHT])
        if least > lowest:
            value = least * scale[UNIT]
            floor = value - row_errors[own] - scale[RELATIVE] * abs(value)
            anchors[row, FLOOR] = max(anchors[row, FLOOR], floor)
            rows[0, own] = _bounded(_level(anchors[row, FLOOR], -row_errors[own], scale), scale)


@compiled
@no_type_check
def _select(values, k):
    """The k-th largest of some values, which it puts in another order (Hoare's selection)."""
    first, last = 0, len(values) - 1
    while first < last:
        pivot = values[(first + last) // 2]
        left, right = first, last
        while left <= right:
            while values[left] > pivot:
                left += 1
            while values[right] < pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                left += 1
                right -= 1
        if k - 1 <= right:
            last = right
        elif k - 1 >= left:
            first = left
        else:
            break
    return values[k - 1]


@compiled
@no_type_check
def _settle(head, slots, k):
    """Raise the floor of an anchor to its k-th best lower bound, and drop what lies below.

    Args:
        head, slots: pointers to what the tables hold of the anchor.
        k: neighbours.
    """
    fill = int(head[FILL])
    if fill >= k:
        lows = np.empty(fill)
        for slot in range(fill):
            lows[slot] = slots[3 * slot + LOW]
        head[FLOOR] = max(head[FLOOR], _select(lows, k))
    kept = 0
    for slot in range(0, 3 * fill, 3):
        if slots[slot + HIGH] >= head[FLOOR]:
            for part in range(3):
                slots[kept + part] = slots[slot + part]
            kept += 3
    head[FILL] = kept // 3


@compiled
@no_type_check
def _decide(head, slots, anchor, k, decider):
    """Keep the k best candidates of an anchor, by the similarity that decides and the id; close it after too many."""
    left, right, d, ids, (windowed, bottom, top), (sign, metric, most, factor, shift) = decider
    own, fill = shifted(left, anchor * d), int(head[FILL])
    values, names = np.empty(fill), np.empty(fill, np.int64)
    for slot in range(fill):
        if slot + AHEAD < fill:
            fetch_row(right, to_int(slots[3 * (slot + AHEAD) + AT]), d)
        column = to_int(slots[3 * slot + AT])
        value = decisive(own, shifted(right, column * d), d, metric)
        if windowed and not bottom[anchor] < value < top[anchor]:
            values[slot] = -math.inf
            continue
        score = value * factor
        score = sign * (-score * score / 2 if metric == EUCLIDEAN else score - shift)
        low = score - _ROUNDED * (abs(score) + abs(shift)) - _LEAST
        slots[3 * slot + LOW] = max(slots[3 * slot + LOW], low)
        values[slot], names[slot] = sign * value, -ids[column]
    least = _select(values.copy(), min(k, fill))
    above, ties = 0, 0
    equal = np.empty(fill, np.int64)
    for slot in range(fill):
        above += values[slot] > least
        if values[slot] == least:
            equal[ties] = names[slot]
            ties += 1
    last = _select(equal[:ties], min(k - above, ties)) if least > -math.inf else 0
    kept = 0
    for slot in range(fill):
        if values[slot] > least or (values[slot] == least and values[slot] > -math.inf and names[slot] >= last):
            for part in range(3):
                slots[3 * kept + part] = slots[3 * slot + part]
            kept += 1
    head[FILL] = kept
    _settle(head, slots, k)
    head[DECIDED] += fill
    if head[DECIDED] > most:
        head[REACHED] = head[FLOOR]
        head[FLOOR] = math.inf
        head[FILL] = 0


@compiled
@no_type_check
def take(anchors, slots, most, anchor, column, value, error, levels, errors, place, scale, decider):
    """A score that may matter to an anchor, by its value and what that errs by; the errors are those of levels."""
    head = shifted(anchors, anchor * ANCHOR)
    error += _ROUNDED * (abs(value) + error) + _LEAST
    high = value + error
    low = value - error
    head[LOOKED] += 1
    if low < head[POSSIBLE] and high >= head[FLOOR]:
        if high >= head[SURE]:
            low = -math.inf
        fill = int(head[FILL])
        slot = 3 * (anchor * most + fill)
        slots[slot + HIGH] = high
        slots[slot + LOW] = low
        slots[slot + AT] = to_float(column)
        head[FILL] = fill + 1
        raised = scale[SOUGHT] == 1 and low > head[FLOOR]
        if raised:
            head[FLOOR] = low
        if fill + 1 == most:
            own = shifted(slots, 3 * anchor * most)
            _settle(head, own, scale[SOUGHT])
            if head[FILL] > most - most // 8:
                _decide(head, own, anchor, scale[SOUGHT], decider)
            raised = True
        if raised:
            levels[place] = _bounded(_level(head[FLOOR], -errors[place], scale), scale)


@compiled
@no_type_check
def settle_all(anchors, slots, k):
    """Bring all floors to their end; returns how many candidates can still be answers."""
    count = 0
    heads, most = pointer(anchors), slots.shape[1] // 3
    for anchor in range(anchors.shape[0]):
        _settle(shifted(heads, anchor * ANCHOR), shifted(pointer(slots), 3 * anchor * most), k)
        count += int(anchors[anchor, FILL])
    return count


@compiled
@no_type_check
def survivors(anchors, slots, anchor, column):
    """Write those candidates."""
    count = 0
    for row in range(anchors.shape[0]):
        for slot in range(0, 3 * int(anchors[row, FILL]), 3):
            anchor[count], column[count] = row, to_int(slots[row, slot + AT])
            count += 1
