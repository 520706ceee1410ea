"""The inner loops of a pass on a processor: which scores of a tile are candidates of which anchor.

Letters: n anchors, t rows or columns of a tile, w parts of the bound.
"""

import math
from typing import no_type_check

import numpy as np

from legolas_metric.compiled import compiled, inlined
from legolas_metric.index.exact import microtile
from legolas_metric.index.exact.layout import (
    ANCHORS,
    AT,
    COLUMN,
    FILL,
    FIRST,
    FLOOR,
    HIGH,
    LAST,
    LOOKED,
    LOW,
    OWN,
    PANELS,
    POSSIBLE,
    REACHED,
    RELATIVE,
    ROW,
    SOUGHT,
    START,
    SURE,
    UNIT,
    WIDTH,
    WINDOWED,
)

ROWS, COLUMNS = PANELS
GROUP = 48  # float scores that are compared with what is needed before any is looked at
_LARGEST = 2.0**31 - 1


@compiled
@no_type_check
def open_anchors(anchors, floor, sure, possible, first, last, own):
    """Fill the table of `layout`."""
    for anchor in range(anchors.shape[0]):
        anchors[anchor, FLOOR] = floor[anchor]
        anchors[anchor, FILL] = anchors[anchor, LOOKED] = 0
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
        return moved + math.copysign(2.0**-22 * abs(moved) + 2.0**-126, shift)
    return np.floor(moved / scale[UNIT]) + math.copysign(1.0, shift)


@inlined
@no_type_check
def _set(levels, side, place, value, scale):
    if scale[UNIT] != 1.0:
        value = min(max(value, -_LARGEST - 1), _LARGEST)
    levels[side, place] = value


@compiled
@no_type_check
def open_side(anchors, first, n, bounds, block, levels, errors, scale):
    """Say which scores matter to each anchor of one side of a tile: none to those past the last.

    Args:
        anchors: the table of `layout`.
        first: the anchor of the first place.
        n: anchors.
        bounds, block: [n, w] and [w], whose product is the error of each anchor's scores.
        levels, errors: [2, t] and [t], written.
        scale: of the scores.
    """
    for place in range(errors.shape[0]):
        anchor = first + place
        if anchor >= n:
            _set(levels, 0, place, math.inf, scale)
            continue
        error = 0.0
        for part in range(block.shape[0]):
            error += float(bounds[anchor, part]) * float(block[part])
        errors[place] = error
        _set(levels, 0, place, _level(anchors[anchor, FLOOR], -error, scale), scale)
        _set(levels, 1, place, _level(anchors[anchor, POSSIBLE], error, scale), scale)


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
def _settle(anchors, anchor, k):
    """Raise the floor of an anchor to its k-th best lower bound, drop what lies below, and close it if much is left."""
    slots = (anchors.shape[1] - START) // 3
    end = START + 3 * int(anchors[anchor, FILL])
    if anchors[anchor, FILL] >= k:
        least = _select(anchors[anchor, START + LOW : end : 3].copy(), k)
        anchors[anchor, FLOOR] = max(anchors[anchor, FLOOR], least)
    kept = START
    for slot in range(START, end, 3):
        if anchors[anchor, slot + HIGH] >= anchors[anchor, FLOOR]:
            for part in range(3):
                anchors[anchor, kept + part] = anchors[anchor, slot + part]
            kept += 3
    fill = (kept - START) // 3
    anchors[anchor, FILL] = fill
    if fill > slots - slots // 8:
        anchors[anchor, REACHED] = anchors[anchor, FLOOR]
        anchors[anchor, FLOOR] = math.inf
        anchors[anchor, FILL] = 0


@inlined
@no_type_check
def _take(anchors, anchor, column, score, levels, errors, place, scale):
    """A score that may matter to an anchor."""
    value = score * scale[UNIT]
    error = errors[place] + scale[RELATIVE] * abs(value)
    high = value + error
    low = value - error
    anchors[anchor, LOOKED] += 1
    if low < anchors[anchor, POSSIBLE] and high >= anchors[anchor, FLOOR]:
        if high >= anchors[anchor, SURE]:
            low = -math.inf
        slot = START + 3 * int(anchors[anchor, FILL])
        anchors[anchor, slot + HIGH] = high
        anchors[anchor, slot + LOW] = low
        anchors[anchor, slot + AT] = column
        anchors[anchor, FILL] += 1
        raised = scale[SOUGHT] == 1 and low > anchors[anchor, FLOOR]
        if raised:
            anchors[anchor, FLOOR] = low
        if slot + 3 == anchors.shape[1]:
            _settle(anchors, anchor, scale[SOUGHT])
            raised = True
        if raised:
            _set(levels, 0, place, _level(anchors[anchor, FLOOR], -errors[place], scale), scale)


@inlined
@no_type_check
def _matters(score, low, high, least, most, windowed):
    """Whether a score lies between the bounds of its row, or of its column."""
    if windowed:
        return ((low < score) & (score < high)) | ((least < score) & (score < most))
    return (low < score) | (least < score)


@inlined
@no_type_check
def _look(anchors, row, column, score, place, rows, row_errors, columns, column_errors, scale):
    """Take one score where it matters to its row or to its column. (A call costs as much as a dozen comparisons.)"""
    if column >= place[WIDTH] or row >= place[ANCHORS]:
        return
    if anchors[row, FIRST] <= column < anchors[row, LAST] or column == anchors[row, OWN]:
        return
    own, other = row - place[ROW], column - place[COLUMN]
    if rows[0, own] < score:
        _take(anchors, row, column, score, rows, row_errors, own, scale)
    if columns[0, other] < score:
        _take(anchors, column, row, score, columns, column_errors, other, scale)


@compiled
@no_type_check
def look_at_strip(scores, top, anchors, place, rows, row_errors, columns, column_errors, scale):
    """Candidates among float32 scores of the rows from `top` on with all columns of a tile; groups looked at."""
    windowed = scale[WINDOWED]
    groups = 0
    for line in range(scores.shape[0]):
        own = top + line - place[ROW]
        low, high = rows[0, own], rows[1, own]
        for edge in range(0, scores.shape[1], GROUP):
            hits = 0
            if windowed:
                for one in range(edge, edge + GROUP):
                    hits += _matters(scores[line, one], low, high, columns[0, one], columns[1, one], True)
            else:
                for one in range(edge, edge + GROUP):
                    hits += (low < scores[line, one]) | (columns[0, one] < scores[line, one])
            if hits == 0:
                continue
            groups += 1
            for one in range(edge, edge + GROUP):
                score = scores[line, one]
                if _matters(score, rows[0, own], high, columns[0, one], columns[1, one], windowed):
                    at = place[COLUMN] + one
                    _look(anchors, top + line, at, score, place, rows, row_errors, columns, column_errors, scale)
            low = rows[0, own]
    return groups


@compiled
@no_type_check
def sweep_tile(left, right, row_terms, column_terms, anchors, place, rows, row_errors, columns, column_errors, scale):
    """Candidates among the integer scores of a tile, rows packed by sixes, columns by sixteens; groups looked at."""
    windowed = scale[WINDOWED]
    groups = 0
    found, masks = np.empty((ROWS, COLUMNS), np.int32), np.empty(ROWS, np.uint16)
    pairs = left.shape[1]
    panels = row_errors.shape[0] // ROWS
    covered = np.empty((panels, 2), np.int64)  # columns that are forbidden to all rows of a panel
    for panel in range(panels):
        covered[panel, 0], covered[panel, 1] = 0, place[WIDTH]
        for row in range(place[ROW] + panel * ROWS, min(place[ANCHORS], place[ROW] + (panel + 1) * ROWS)):
            covered[panel, 0] = max(covered[panel, 0], int(anchors[row, FIRST]))
            covered[panel, 1] = min(covered[panel, 1], int(anchors[row, LAST]))
    for other in range(0, column_errors.shape[0], COLUMNS):
        column = place[COLUMN] + other
        for panel in range(panels):
            if covered[panel, 0] <= column and column + COLUMNS <= covered[panel, 1]:
                continue
            own = panel * ROWS
            row = place[ROW] + own
            where = (
                left.ctypes.data + row * 4 * pairs,
                right.ctypes.data + column * 4 * pairs,
                pairs,
                row_terms.ctypes.data + 4 * row,
                column_terms.ctypes.data + 4 * column,
                rows.ctypes.data + 4 * own,
                rows.ctypes.data + 4 * (row_errors.shape[0] + own),
                columns.ctypes.data + 4 * other,
                columns.ctypes.data + 4 * (column_errors.shape[0] + other),
                found.ctypes.data,
                masks.ctypes.data,
            )
            if not (microtile.windowed(where) if windowed else microtile.plain(where)):
                continue
            for line in range(ROWS):
                mask = int(masks[line])
                groups += mask > 0
                while mask:
                    one = microtile.lowest(mask)
                    mask &= mask - 1
                    at, score = column + one, found[line, one]
                    _look(anchors, row + line, at, score, place, rows, row_errors, columns, column_errors, scale)
    return groups


@compiled
@no_type_check
def settle_all(anchors, k):
    """Bring all floors to their end; returns how many candidates can still be answers."""
    count = 0
    for anchor in range(anchors.shape[0]):
        _settle(anchors, anchor, k)
        count += int(anchors[anchor, FILL])
    return count


@compiled
@no_type_check
def survivors(anchors, anchor, column):
    """Write those candidates."""
    count = 0
    for row in range(anchors.shape[0]):
        for slot in range(START, START + 3 * int(anchors[row, FILL]), 3):
            anchor[count], column[count] = row, int(anchors[row, slot + AT])
            count += 1
