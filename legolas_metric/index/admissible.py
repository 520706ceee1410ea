"""Which rows may answer which query, by identity, label and group."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from legolas_metric.arrays import at_hand
from legolas_metric.checks import UNLABELLED
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
    table = at_hand(score)
    if isinstance(itself, int):
        score.diagonal(itself).fill_(-torch.inf)
    else:
        place = at_hand(itself)
        there = place >= 0
        table[there, place[there]] = -torch.inf
    queries, rows = request.own, request.rows
    if request.want == "any":
        return
    q_side = [None if values is None else at_hand(values)[:, None] for values in (queries.labels, queries.groups)]
    table[_unrelated(request.want, q_side, [at_hand(rows.labels), at_hand(rows.groups)])] = -torch.inf
    unlabelled = at_hand(queries.labels) == UNLABELLED
    if unlabelled.any():
        table[unlabelled] = -torch.inf


def admissible_pairs(
    want: Want, queries: Rows, rows: Rows, query: Int64[Tensor, " t"], row: Int64[Tensor, " t"]
) -> Bool[Tensor, " t"]:
    """Which of the pairs (query, row) are admissible: what `forbid` leaves, at these places."""
    other = queries.ids[query] != rows.ids[row]
    if want == "any":
        return other
    q_side = tuple(None if values is None else values[query] for values in (queries.labels, queries.groups))
    n_side = tuple(None if values is None else values[row] for values in (rows.labels, rows.groups))
    return other & ~_unrelated(want, q_side, n_side) & (q_side[0] != UNLABELLED)


def _unrelated(want: Want, queries: Sequence[Any], rows: Sequence[Any]) -> Any:
    """Where (labels, groups) don't stand to (labels, groups) as wanted, of queries with a label: tensors or arrays."""
    (q_labels, q_groups), (labels, groups) = queries, rows
    if want == "negative":
        return q_labels == labels
    if want == "positive":
        return q_labels != labels
    return (q_labels != labels) | (q_groups == groups)
