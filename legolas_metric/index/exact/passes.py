"""The inner loops of a pass on a processor: which scores of a tile are candidates of which anchor.

Letters: h x w tile.
"""

from typing import no_type_check

import numpy as np

from legolas_metric.compiled import avx2 as microtile
from legolas_metric.compiled.avx2 import COLUMNS, ROWS
from legolas_metric.compiled.jit import compiled, inlined
from legolas_metric.compiled.pointers import pointer, shifted
from legolas_metric.compiled.row_loops import AHEAD, decisive, fetch_row, product, whole_product
from legolas_metric.index.exact.buffers import raise_floors, take
from legolas_metric.index.exact.layout import (
    ANCHOR,
    ANCHORS,
    COLUMN,
    FIRST,
    FLOOR,
    LAST,
    OWN,
    RELATIVE,
    ROW,
    UNIT,
    WIDTH,
    WINDOWED,
)

GROUP = 48  # float scores that are compared with what is needed before any is looked at
_LOWEST = np.int32(-(2**31))


@inlined
@no_type_check
def _matters(score, low, high, least, most, windowed):
    """Whether a score lies between the bounds of its row, or of its column."""
    if windowed:
        return ((low < score) & (score < high)) | ((least < score) & (score < most))
    return (low < score) | (least < score)


@compiled
@no_type_check
def _look(tables, row, column, score, place, sides, scale, closer):
    """Take one score where it matters to its row or to its column; of heads, the score of the whole rows.

    Before those, longer heads may rule the pair out: their score is too small by no more than what they miss.
    """
    anchors, slots, most = tables
    rows, row_errors, columns, column_errors = sides
    if column >= place[WIDTH] or row >= place[ANCHORS]:
        return
    head = shifted(anchors, row * ANCHOR)
    if head[FIRST] <= column < head[LAST] or column == head[OWN]:
        return
    own, other = row - place[ROW], column - place[COLUMN]
    by_row, by_column = rows[own] < score, columns[other] < score
    if not (by_row or by_column):
        return
    left, right, d, row_terms, column_terms, missed = closer[0]
    if d == 0:
        value = score * scale[UNIT]
        error = scale[RELATIVE] * abs(value)
        row_error, column_error = row_errors[own] + error, column_errors[other] + error
    else:
        whole = whole_product(shifted(left, row * d), shifted(right, column * d), d)
        value = (whole + row_terms[row] + column_terms[column]) * scale[UNIT]
        by_row = by_row and value + missed[row] >= head[FLOOR]
        by_column = by_column and value + missed[column] >= anchors[column * ANCHOR + FLOOR]
        if not (by_row or by_column):
            return
        left, right, d, missed = closer[1]
        value = product(shifted(left, row * d), shifted(right, column * d), d)
        row_error, column_error = missed[row], missed[column]
    if by_row:
        take(anchors, slots, most, row, column, value, row_error, rows, row_errors, own, scale, closer[2])
    if by_column:
        take(anchors, slots, most, column, row, value, column_error, columns, column_errors, other, scale, closer[2])


@inlined
@no_type_check
def _pointers(closer):
    """What `_look` takes of closer rows (none, where their length is 0), and of what decides."""
    (left, right, row_terms, column_terms, missed), (wholes, others, errors), (x, y, ids, low, high, numbers) = closer
    heads = pointer(left), pointer(right), left.shape[1], pointer(row_terms), pointer(column_terms), pointer(missed)
    windows = len(low) > 0, pointer(low), pointer(high)
    decider = pointer(x), pointer(y), x.shape[1], pointer(ids), windows, numbers
    return heads, (pointer(wholes), pointer(others), wholes.shape[1], pointer(errors)), decider


@compiled
@no_type_check
def look_at_strip(scores, top, anchors, slots, place, rows, row_errors, columns, column_errors, scale, closer):
    """Candidates among the scores of the rows from `top` on with all columns of a tile; groups looked at."""
    windowed = scale[WINDOWED]
    tables = pointer(anchors), pointer(slots), slots.shape[1] // 3
    sides = pointer(rows), pointer(row_errors), pointer(columns), pointer(column_errors)
    looks = _pointers(closer)
    groups, flat = 0, pointer(scores)
    for line in range(scores.shape[0]):
        own = top + line - place[ROW]
        low, high = rows[0, own], rows[1, own]
        for edge in range(0, scores.shape[1], GROUP):
            part = shifted(flat, line * scores.shape[1] + edge)
            least, most = shifted(pointer(columns), edge), shifted(pointer(columns), columns.shape[1] + edge)
            some = False
            if windowed:
                for one in range(GROUP):
                    some |= _matters(part[one], low, high, least[one], most[one], True)
            else:
                for one in range(GROUP):
                    some |= (low < part[one]) | (least[one] < part[one])
            if not some:
                continue
            groups += 1
            for one in range(edge, edge + GROUP):
                score = scores[line, one]
                if _matters(score, rows[0, own], high, columns[0, one], columns[1, one], windowed):
                    _look(tables, top + line, place[COLUMN] + one, score, place, sides, scale, looks)
            low = rows[0, own]
    return groups


@inlined
@no_type_check
def _where(bases, pairs, row, column, own, height, other, width):
    """What a micro-tile works on, as it takes it: addresses, but for the number of pairs of factors."""
    left, right, row_terms, column_terms, rows, columns, found, masks = bases
    return (
        left + row * 4 * pairs,
        right + column * 4 * pairs,
        pairs,
        row_terms + 4 * row,
        column_terms + 4 * column,
        rows + 4 * own,
        rows + 4 * (height + own),
        columns + 4 * other,
        columns + 4 * (width + other),
        found,
        masks,
    )


@compiled
@no_type_check
def sweep_first_tile(
    left,
    right,
    row_terms,
    column_terms,
    anchors,
    slots,
    place,
    rows,
    row_errors,
    columns,
    column_errors,
    scale,
    closer,
    lanes,
):
    """The same as `sweep_tile` for the first tile of its rows: raises their floors before any score is looked at."""
    groups = 0
    pairs, height, width = left.shape[1], row_errors.shape[0], column_errors.shape[0]
    found, masks = np.empty((ROWS, COLUMNS), np.int32), np.empty(ROWS, np.int64)
    bases = (
        *(left.ctypes.data, right.ctypes.data, row_terms.ctypes.data, column_terms.ctypes.data),
        *(rows.ctypes.data, columns.ctypes.data, found.ctypes.data, masks.ctypes.data),
    )
    strip = np.empty((ROWS, width), np.int32)
    for own in range(0, height, ROWS):
        row = place[ROW] + own
        for other in range(0, width, COLUMNS):
            some = microtile.plain(_where(bases, pairs, row, place[COLUMN] + other, own, height, other, width))
            for line in range(ROWS):
                for one in range(COLUMNS):
                    strip[line, other + one] = found[line, one] if some else _LOWEST
        raise_floors(strip, row, anchors, place, rows, row_errors, lanes, _LOWEST, scale)
        groups += look_at_strip(
            strip, row, anchors, slots, place, rows, row_errors, columns, column_errors, scale, closer
        )
    return groups + 0 * masks[0]  # which must live so long


@compiled
@no_type_check
def sweep_tile(
    left, right, row_terms, column_terms, anchors, slots, place, rows, row_errors, columns, column_errors, scale, closer
):
    """Candidates among the integer scores of a tile, packed for its micro-tiles; groups looked at."""
    windowed = scale[WINDOWED]
    groups = 0
    pairs, height, width = left.shape[1], row_errors.shape[0], column_errors.shape[0]
    found, masks = np.empty((ROWS, COLUMNS), np.int32), np.empty(ROWS, np.int64)
    bases = (
        *(left.ctypes.data, right.ctypes.data, row_terms.ctypes.data, column_terms.ctypes.data),
        *(rows.ctypes.data, columns.ctypes.data, found.ctypes.data, masks.ctypes.data),
    )
    tables = pointer(anchors), pointer(slots), slots.shape[1] // 3
    sides = pointer(rows), pointer(row_errors), pointer(columns), pointer(column_errors)
    looks = _pointers(closer)
    covered = np.empty((height // ROWS, 2), np.int64)  # columns that are forbidden to all rows of a panel
    for panel in range(height // ROWS):
        covered[panel, 0], covered[panel, 1] = 0, place[WIDTH]
        for row in range(place[ROW] + panel * ROWS, min(place[ANCHORS], place[ROW] + (panel + 1) * ROWS)):
            covered[panel, 0] = max(covered[panel, 0], int(anchors[row, FIRST]))
            covered[panel, 1] = min(covered[panel, 1], int(anchors[row, LAST]))
    for other in range(0, width, COLUMNS):
        column = place[COLUMN] + other
        for panel in range(height // ROWS):
            if covered[panel, 0] <= column and column + COLUMNS <= covered[panel, 1]:
                continue
            own = panel * ROWS
            row = place[ROW] + own
            where = _where(bases, pairs, row, column, own, height, other, width)
            if not (microtile.windowed(where) if windowed else microtile.plain(where)):
                continue
            for line in range(ROWS):
                mask = masks[line]
                groups += mask != 0
                while mask:
                    one = microtile.lowest(mask)
                    mask &= mask - 1
                    _look(tables, row + line, column + one, found[line, one], place, sides, scale, looks)
    return groups


@compiled
@no_type_check
def least_of_pairs(left, right, columns, most, least):
    """The least score of each row with some columns, -inf where one is none of at least `most`; written to `least`."""
    base, d = pointer(right), left.shape[1]
    for row in range(len(columns)):
        own, least[row] = shifted(pointer(left), row * d), np.inf
        for column in columns[row]:
            score = product(own, shifted(base, column * d), d) if column >= 0 else -np.inf
            least[row] = min(least[row], score if score < most[row] else -np.inf)


@compiled
@no_type_check
def best_of_pairs(x, y, ids, query, column, start, low, high, sign, metric, found, value):
    """The k best columns of each anchor, by the similarity that decides, ties to the smaller id; -1 past the last.

    Args:
        x, y, ids: anchors, columns, and what the latter are called.
        query, column: [t], which pairs there are; anchors ascend, from `start` on.
        low, high: [n], the window of each anchor; empty for none.
        sign: 1 for the largest similarities, -1 for the least.
        metric: its number.
        found, value: [n, k], written; values rounded to float32.
    """
    left, right, d, k = pointer(x), pointer(y), x.shape[1], found.shape[1]
    best, pair = np.empty(k), 0
    for anchor in range(len(found)):
        own, count = shifted(left, anchor * d), 0
        while pair < len(column) and query[pair] - start == anchor:
            if pair + AHEAD < len(column):
                fetch_row(right, column[pair + AHEAD], d)
            row, pair = column[pair], pair + 1
            score = decisive(own, shifted(right, row * d), d, metric)
            if len(low) and not low[anchor] < score < high[anchor]:
                continue
            name, place, score = ids[row], count, sign * score
            while place > 0 and (
                score > best[place - 1] or (score == best[place - 1] and name < found[anchor, place - 1])
            ):
                place -= 1
            count = min(count + 1, k)
            for at in range(count - 1, place, -1):
                found[anchor, at], best[at] = found[anchor, at - 1], best[at - 1]
            if place < k:
                found[anchor, place], best[place] = name, score
        for at in range(k):
            value[anchor, at] = sign * best[at] if at < count else -np.inf
            if at >= count:
                found[anchor, at] = -1
