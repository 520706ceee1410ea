"""Which rows may answer which query, by identity, label and group."""

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED
from legolas_metric.index.blocks import lower
from legolas_metric.index.interface import Want
from legolas_metric.index.request import Request
from legolas_metric.rows import Rows


def forbid(score: Float32[Tensor, "q n"], request: Request, itself: Int64[Tensor, " q"] | int) -> None:
    """Set the scores of rows that may not answer a query to -inf.

    The same id is self and never anything else. Label -1 is never an anchor and never a positive, and negative to every
    labelled row.

    Args:
        score: written.
        itself: the row that each query is (-1: none); or the row that the first is, where the others follow it.
    """
    if isinstance(itself, int):
        score.diagonal(itself).fill_(-torch.inf)
    else:
        there = (itself >= 0).nonzero()[:, 0]
        score[there, itself[there]] = -torch.inf
    queries, rows = request.own, request.rows
    columns = tuple(None if values is None else values[:, None] for values in (queries.labels, queries.groups))
    unrelated = _unrelated(request.want, columns, (rows.labels, rows.groups))
    if unrelated is None or queries.labels is None:
        return
    lower(score, unrelated)
    unlabelled = queries.labels == UNLABELLED
    if bool(unlabelled.any()):
        score[unlabelled] = -torch.inf


def admissible_pairs(
    want: Want, queries: Rows, rows: Rows, query: Int64[Tensor, " t"], row: Int64[Tensor, " t"]
) -> Bool[Tensor, " t"]:
    """Which of the pairs (query, row) are admissible: `admissible` at these places."""
    q_side = tuple(None if values is None else values[query] for values in (queries.labels, queries.groups))
    n_side = tuple(None if values is None else values[row] for values in (rows.labels, rows.groups))
    other, unrelated = queries.ids[query] != rows.ids[row], _unrelated(want, q_side, n_side)
    if unrelated is None or queries.labels is None:
        return other
    return other & ~unrelated & (queries.labels[query] != UNLABELLED)


def _unrelated(
    want: Want, queries: tuple[Tensor | None, ...], rows: tuple[Tensor | None, ...]
) -> Bool[Tensor, "*b"] | None:
    """Where (labels, groups) don't stand to (labels, groups) as wanted, of queries with a label; None: nowhere."""
    (q_labels, q_groups), (labels, groups) = queries, rows
    if want == "any":
        return None
    assert q_labels is not None
    assert labels is not None
    if want == "negative":
        return q_labels == labels
    if want == "positive":
        return q_labels != labels
    assert q_groups is not None
    assert groups is not None
    return (q_labels != labels).logical_or_(q_groups == groups)
