"""What the compiled loops work on: a table of anchors, one of their candidates, and small tuples of numbers.

A row is an anchor: float64 [n, ANCHOR] with the columns that follow, and float32 [n, 3 c] with c slots of three. What
is read for a candidate lies side by side in the first, which stays in cache; the second is written, and seldom read.

Plain arrays and tuples: loops that are kept on disk name the classes of their arguments, and would not load once one of
them is gone.
"""

import numpy as np

FLOOR = 0
"""A lower bound of the k-th best true score; inf for anchors that take no more candidates."""
FILL = 1
"""How many candidates there are."""
LOOKED = 2
"""How many scores were looked at."""
SURE, POSSIBLE = 3, 4
"""See `Ceiling`; inf without a window."""
FIRST, LAST = 5, 6
"""The forbidden columns FIRST..LAST."""
OWN = 7
"""One more forbidden column, -1 for none."""
REACHED = 8
"""The floor of anchors before they were closed, because too many candidates remained; else -inf."""
DECIDED = 9
"""How many candidates were decided before the end, because the slots were full."""
ANCHOR = 10
HIGH, LOW, AT = 0, 1, 2
"""A slot: the upper and the lower bound of the candidate's true score, and the bits of its column's number."""

ROW, COLUMN, ANCHORS, WIDTH = 0, 1, 2, 3
"""Where a tile lies: its first row, of so many anchors, and its first column, of so many."""

UNIT, RELATIVE, WINDOWED, SOUGHT = 0, 1, 2, 3
"""What the scores of a tile are: unit and relative error, whether windows bound them, and how many are sought."""

NO_DECIDER = (
    *(np.empty((0, 0), np.float32), np.empty((0, 0), np.float32), np.empty(0, np.int64), np.empty(0), np.empty(0)),
    (1, 0, 0, 0.0, 0.0),
)
"""By what candidates are decided: anchors, columns and their ids, the window of each anchor (empty: none); then the
order's sign, the metric's number, how many may be decided, and factor and shift of the scores (`Frame.line`)."""

NO_CLOSER = (
    (np.empty((0, 0), np.int16), np.empty((0, 0), np.int16), np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0)),
    (np.empty((0, 0), np.float32), np.empty((0, 0), np.float32), np.empty(0)),
    NO_DECIDER,
)
"""Longer heads of both sides, by which heads are scored again, their terms, and what scores of anchors miss at most;
then the same of whole rows, which hold their terms; then what decides."""
