"""What every nearest-neighbour index answers, which rows are admissible to which query, and the shared input checks."""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.checks import (
    UNLABELLED,
    ArrayLike,
    Metric,
    as_groups,
    as_ids,
    as_integers,
    as_labels,
    check_choice,
    check_device,
    check_dimension,
    check_whole,
)
from legolas_metric.numerics import as_prepared
from legolas_metric.records import Neighbors

Want = Literal["negative", "positive", "cross_group_positive", "any"]
Window = tuple[ArrayLike, ArrayLike]

NO_ID = -1
"""Stands for "no neighbour" in an answer, and for "not one of the fitted rows" in a query."""


@runtime_checkable
class NeighborIndex(Protocol):
    """The k most (or least) similar admissible rows of each query.

    The similarity that is compared and reported is the float64 one of the prepared float32 rows, rounded to float32
    (`numerics.pair_similarity`); ties go to the smaller id, and `farthest` sorts ascending. So every exact index gives
    the same answer. `window = (low, high)` keeps low < s < high, compared in float64; NaN is no bound.
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


@dataclass(frozen=True, slots=True)
class Rows:
    """Prepared rows with what is known of them: the fitted rows of an index, or its queries.

    `ids` of queries that are none of the fitted rows are -1.
    """

    embeddings: Float32[Tensor, "n d"]
    labels: Int64[Tensor, " n"] | None
    ids: Int64[Tensor, " n"]
    groups: Int64[Tensor, " n"] | None

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def __getitem__(self, part: slice | Int64[Tensor, " m"]) -> "Rows":
        return Rows(
            self.embeddings[part],
            None if self.labels is None else self.labels[part],
            self.ids[part],
            None if self.groups is None else self.groups[part],
        )


def fitted_rows(
    embeddings: ArrayLike,
    labels: ArrayLike | None,
    *,
    ids: ArrayLike | None,
    groups: ArrayLike | None,
    metric: Metric,
) -> Rows:
    """Check and prepare the arguments of `fit`: copies, so that what the caller does to theirs changes no answer."""
    rows = as_prepared(embeddings, metric)
    n, device = len(rows), rows.device
    own_groups = as_groups(groups, n)
    return Rows(
        rows if metric == "cosine" else rows.clone(),
        None if labels is None else as_labels(labels, n).to(device, copy=True),
        as_ids(ids, n).to(device, copy=True),
        None if own_groups is None else own_groups.to(device, copy=True),
    )


def query_rows(
    queries: ArrayLike,
    fitted: Rows,
    *,
    labels: ArrayLike | None,
    ids: ArrayLike | None,
    groups: ArrayLike | None,
    metric: Metric,
) -> Rows:
    """Check and prepare the arguments of `search`; ids may repeat, and are -1 where none are given."""
    rows = as_prepared(queries, metric, name="queries")
    check_dimension(rows, fitted.embeddings, names=("queries", "the fitted rows"))
    check_device(rows, fitted.embeddings, names=("queries", "the fitted rows"))
    q, device = len(rows), rows.device
    own_ids = torch.full((q,), NO_ID) if ids is None else as_integers(ids, q, name="ids", of="queries")
    own_groups = as_groups(groups, q, of="queries")
    return Rows(
        rows,
        None if labels is None else as_labels(labels, q, of="queries").to(device),
        own_ids.to(device),
        None if own_groups is None else own_groups.to(device),
    )


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


def check_range(queries: Rows, fitted: Rows, metric: Metric) -> None:
    """Refuse rows so long that a similarity would overflow float32, in which it is reported."""
    if metric == "cosine" or not len(queries):
        return
    longest = [
        float(torch.linalg.vector_norm(rows.embeddings, dim=1, dtype=torch.float64).max()) for rows in (queries, fitted)
    ]
    if (longest[0] * longest[1] if metric == "dot" else sum(longest)) > torch.finfo(torch.float32).max:
        raise ValueError(
            f"similarities of rows of norm {longest[0]:.3g} and {longest[1]:.3g} would overflow float32 under "
            f"metric={metric!r}: scale the embeddings down"
        )


def window_bounds(
    window: Window | None, q: int, device: torch.device
) -> tuple[Float64[Tensor, " q"], Float64[Tensor, " q"]] | None:
    """The two bounds as float64, with NaN ("no bound") as -inf and +inf; None where there is no window."""
    if window is None:
        return None
    low, high = (torch.as_tensor(bound).to(device, torch.float64) for bound in window)
    for name, bound in (("low", low), ("high", high)):
        if bound.shape != (q,):
            raise ValueError(f"window {name} must have one bound for each of {q} queries, got {tuple(bound.shape)}")
    return low.nan_to_num(nan=-torch.inf), high.nan_to_num(nan=torch.inf)


def admissible(want: Want, queries: Rows, rows: Rows) -> Bool[Tensor, "q n"]:
    """Which rows may answer which query, as a dense block.

    The same id is self and never anything else. Label -1 is never an anchor and never a positive, and negative to every
    labelled row.
    """
    return _related(
        want, (queries.ids, queries.labels, queries.groups), (rows.ids, rows.labels, rows.groups), dense=True
    )


def admissible_pairs(
    want: Want, queries: Rows, rows: Rows, query: Int64[Tensor, " t"], row: Int64[Tensor, " t"]
) -> Bool[Tensor, " t"]:
    """Which of the pairs (query, row) are admissible: `admissible` at these places."""
    q_side = tuple(
        None if values is None else values[query] for values in (queries.ids, queries.labels, queries.groups)
    )
    n_side = tuple(None if values is None else values[row] for values in (rows.ids, rows.labels, rows.groups))
    return _related(want, q_side, n_side, dense=False)


def _related(
    want: Want, queries: tuple[Tensor | None, ...], rows: tuple[Tensor | None, ...], *, dense: bool
) -> Bool[Tensor, "*b"]:
    """The relation of (ids, labels, groups) with (ids, labels, groups), entry by entry or all with all."""
    if dense:
        queries = tuple(None if values is None else values[:, None] for values in queries)
    (q_ids, q_labels, q_groups), (ids, labels, groups) = queries, rows
    assert q_ids is not None
    other = q_ids != ids
    if want == "any":
        return other
    assert q_labels is not None
    anchors = other & (q_labels != UNLABELLED)
    if want == "negative":
        return anchors & (q_labels != labels)
    if want == "positive":
        return anchors & (q_labels == labels)
    assert q_groups is not None
    return anchors & (q_labels == labels) & (q_groups != groups)
