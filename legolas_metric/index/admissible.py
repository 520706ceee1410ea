"""Which rows may answer which query, by identity, label and group."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED
from legolas_metric.index.interface import Want
from legolas_metric.rows import Rows


def admissible(want: Want, queries: Rows, rows: Rows, itself: Int64[Tensor, " q"]) -> Bool[Tensor, "q n"]:
    """Which rows may answer which query, as a dense block; `itself` is the row that each query is (-1: none).

    The same id is self and never anything else. Label -1 is never an anchor and never a positive, and negative to every
    labelled row.
    """
    columns = tuple(None if values is None else values[:, None] for values in (queries.labels, queries.groups))
    out = _related(want, columns, (rows.labels, rows.groups))
    if out is None:
        out = torch.ones(len(queries), len(rows), dtype=torch.bool, device=rows.ids.device)
    elif queries.labels is not None:
        out[(queries.labels == UNLABELLED).nonzero()[:, 0]] = False
    there = (itself >= 0).nonzero()[:, 0]
    out[there, itself[there]] = False
    return out


def admissible_pairs(
    want: Want, queries: Rows, rows: Rows, query: Int64[Tensor, " t"], row: Int64[Tensor, " t"]
) -> Bool[Tensor, " t"]:
    """Which of the pairs (query, row) are admissible: `admissible` at these places."""
    q_side = tuple(None if values is None else values[query] for values in (queries.labels, queries.groups))
    n_side = tuple(None if values is None else values[row] for values in (rows.labels, rows.groups))
    other, related = queries.ids[query] != rows.ids[row], _related(want, q_side, n_side)
    if related is None or queries.labels is None:
        return other
    return other & related & (queries.labels[query] != UNLABELLED)


def _related(
    want: Want, queries: tuple[Tensor | None, ...], rows: tuple[Tensor | None, ...]
) -> Bool[Tensor, "*b"] | None:
    """The relation of (labels, groups) with (labels, groups), where the query has a label; None: all are related."""
    (q_labels, q_groups), (labels, groups) = queries, rows
    if want == "any":
        return None
    assert q_labels is not None
    assert labels is not None
    if want == "negative":
        return q_labels != labels
    if want == "positive":
        return q_labels == labels
    assert q_groups is not None
    assert groups is not None
    return (q_labels == labels).logical_and_(q_groups != groups)
