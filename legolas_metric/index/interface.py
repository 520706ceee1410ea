"""What every nearest-neighbour index answers, and the checks of what it is asked."""

from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike, Metric, as_tensor, check_choice, check_whole, shown
from legolas_metric.records import Neighbors
from legolas_metric.rows import Rows

Want = Literal["negative", "positive", "cross_group_positive", "any"]
Window = tuple[ArrayLike, ArrayLike]


@runtime_checkable
class NeighborIndex(Protocol):
    """The k most (or least) similar admissible rows of each query.

    Order, windows and ties are decided by `geometry.exact_similarity`, the float64 similarity of the prepared float32
    rows; what is reported is that, rounded to float32. Ties go to the smaller id, and `farthest` sorts ascending. So
    every exact index gives the same answer. `window = (low, high)` keeps low < s < high; NaN is no bound.
    """

    metric: Metric

    def clone(self) -> "NeighborIndex":
        """An unfitted index with the same settings."""
        ...

    def fit(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> "NeighborIndex":
        """Take the rows to be searched; returns self."""
        ...

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        labels: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        want: Want = "any",
        farthest: bool = False,
        window: Window | None = None,
    ) -> Neighbors:
        """The k best admissible rows of each query; labels, ids and groups [q] are the queries' own."""
        ...

    def self_join(
        self, k: int, *, want: Want = "negative", farthest: bool = False, window: Window | None = None
    ) -> Neighbors:
        """`search` with the fitted rows as queries, in the order of `fit`."""
        ...


@runtime_checkable
class StoredRows(NeighborIndex, Protocol):
    """An index whose rows live in it, on disk or elsewhere, and are read where they are needed.

    Miners take one in place of a bank, and go through its rows in blocks.

    Attributes:
        table: what is known of the rows but their embeddings, which are a stand-in of their shape.
        longest: the largest norm of a row.
    """

    @property
    def table(self) -> Rows:
        """See above; a row's number is its place here."""
        ...

    @property
    def longest(self) -> float:
        """See above."""
        ...

    def read(self, number: Int64[Tensor, " m"]) -> Rows:
        """Rows by number, prepared, with their embeddings."""
        ...

    def answer(self, own: Rows, k: int, want: Want, farthest: bool, window: Window | None) -> Neighbors:
        """`search` of queries whose labels and groups are numbered as those of `table`."""
        ...


def check_request(queries: Rows, fitted: Rows, k: int, want: Want) -> None:
    """Refuse a search that cannot be answered: k, the relation's name, or labels and groups that it needs."""
    check_whole("k", k, 1)
    check_choice("want", want, get_args(Want))
    if want == "any":
        return
    for side, rows in (("fit", fitted), ("search", queries)):
        if rows.labels is None:
            raise ValueError(f"want={want!r} compares labels: pass labels to {side}()")
        if want == "cross_group_positive" and rows.groups is None:
            raise ValueError(f"want={want!r} compares groups: pass groups to {side}()")


def window_bounds(
    window: Window | None, q: int, device: torch.device
) -> tuple[Float64[Tensor, " q"], Float64[Tensor, " q"]] | None:
    """The two bounds as float64, with NaN ("no bound") as -inf and +inf; None where there is no window."""
    if window is None:
        return None
    if not isinstance(window, list | tuple | Tensor) or len(window) != 2:
        raise TypeError(f"window must be (low, high), similarities [q] each, got {shown(window)}")
    low, high = (as_tensor(bound, name="window").to(device, torch.float64) for bound in window)
    for name, bound in (("low", low), ("high", high)):
        if bound.shape != (q,):
            raise ValueError(f"window {name} must have one bound for each of {q} queries, got {tuple(bound.shape)}")
    return low.nan_to_num(nan=-torch.inf), high.nan_to_num(nan=torch.inf)
