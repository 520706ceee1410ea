"""Which rows may answer which query, by identity, label and group."""

from jaxtyping import Bool, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED
from legolas_metric.index.interface import Want
from legolas_metric.rows import Rows


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
