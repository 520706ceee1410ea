"""What a pass over the tiles is to find, and what it found.

Letters: n anchors, t pairs.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from legolas_metric.index.exact.certificate import Certificate
from legolas_metric.index.exact.table import Frame, Table
from legolas_metric.index.exact.window import Ceiling
from legolas_metric.index.request import Request


@dataclass(frozen=True, slots=True)
class Closer:
    """Rows by which pairs are scored again that the tables cannot rule out: longer heads, or whole in float32.

    Attributes:
        anchors, columns: the two sides.
        missed: by how much a score of each anchor may be too small; one of the whole rows too large, too.
    """

    anchors: Table
    columns: Table
    missed: Float32[Tensor, " p"]


@dataclass(frozen=True, slots=True)
class Job:
    """What a sweep is to find.

    Attributes:
        anchors, columns: the two sides, one and the same table in a self-join.
        n: anchors; the first n rows of their table.
        low, high: [n], the columns low..high of an anchor are forbidden (its class, or itself).
        self_column: [n], one more forbidden column of each anchor, -1 for none; None for no such column at all.
        certificate: of anchors against blocks of `tile` columns.
        ceiling: the window's upper end; None for none. (Its lower end is where the floors start.)
        asked: the search, by which candidates are decided where many remain.
        frame: units.
        tile: rows and columns of a tile.
        symmetric: whether a tile also serves its columns.
        closer: where the tables are of heads, longer heads, and what they are heads of.
    """

    anchors: Table
    columns: Table
    n: int
    low: Int64[Tensor, " n"]
    high: Int64[Tensor, " n"]
    self_column: Int64[Tensor, " n"] | None
    certificate: Certificate
    ceiling: Ceiling | None
    asked: Request
    frame: Frame
    tile: int
    symmetric: bool
    closer: tuple[Closer, Closer] | None = None


@dataclass(frozen=True, slots=True)
class Screened:
    """What is left after a pass.

    Attributes:
        anchor, column: [t], the pairs that can still be answers, anchors ascending.
        overflowed: [n], anchors with more candidates than slots, which have no pairs: their answer must be found
            otherwise.
        reached: [n], a lower bound of the k-th best true score of those.
        tiles, groups, scores, decided: how many were worked on, found to hold something, looked at, and decided early.
    """

    anchor: Int64[Tensor, " t"]
    column: Int64[Tensor, " t"]
    overflowed: Bool[Tensor, " n"]
    reached: Float32[Tensor, " n"]
    tiles: int
    groups: int
    scores: int
    decided: int
