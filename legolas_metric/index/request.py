"""A search whose queries and rows are checked and prepared.

Letters: q queries, m of them.
"""

from dataclasses import dataclass, replace

from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.index.interface import Want
from legolas_metric.rows import Rows

Bounds = tuple[Float64[Tensor, " q"], Float64[Tensor, " q"]]
"""A window: the bounds low < s < high of each query, infinite where there is none."""


@dataclass(frozen=True, slots=True)
class Request:
    """The k best admissible rows of each query are asked for, inside its window.

    Attributes:
        own: the queries; the rows themselves in a self-join.
        rows: that are searched.
    """

    own: Rows
    rows: Rows
    k: int
    want: Want
    metric: Metric
    farthest: bool = False
    bounds: Bounds | None = None

    @property
    def joined(self) -> bool:
        """Whether the queries are the rows."""
        return self.own is self.rows

    def part(self, queries: slice | Int64[Tensor, " m"]) -> "Request":
        """The same for some of the queries."""
        return replace(self, own=self.own[queries], bounds=part_of(self.bounds, queries))


def part_of(
    bounds: Bounds | None, part: slice | Int64[Tensor, " m"]
) -> tuple[Float64[Tensor, " s"], Float64[Tensor, " s"]] | None:
    """The windows of some queries."""
    return None if bounds is None else (bounds[0][part], bounds[1][part])
