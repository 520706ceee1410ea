"""Every `want` as forbidden bands of columns, once the rows are in the right order.

    negative: rows sorted by label, unlabelled last; forbidden is the anchor's own class.
    any: rows as they are; forbidden is the anchor itself.
    positive, cross_group_positive of a large class: the same two among the rows of the class, with groups as labels.

Letters: q queries, n rows, k neighbours.
"""

from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED
from legolas_metric.index.exact.solve import Problem
from legolas_metric.index.request import Request, part_of
from legolas_metric.lookup import lookup, runs_of
from legolas_metric.rows import NO_ID


def arrange(request: Request) -> tuple[Problem, Int64[Tensor, " a"]]:
    """The problem to solve, and which query each of its anchors is; queries that have no answer are left out."""
    if request.want == "any":
        return _arrange_any(request)
    assert request.want in ("negative", "cross_group_positive")
    if request.want == "cross_group_positive":  # of one class: another group is then what another label is otherwise
        own_keys, keys = request.own.groups, request.rows.groups
        assert own_keys is not None
        assert keys is not None
        query = own_keys.argsort(stable=True)
        order = keys.argsort(stable=True)
    else:
        own_keys, keys = request.own.labels, request.rows.labels
        assert own_keys is not None
        assert keys is not None
        order = _labelled_first(keys)
        query = order if request.joined else _labelled_first(own_keys)
        query = query[own_keys[query] != UNLABELLED]
    columns = request.rows[order]
    ordered = keys[order]
    if request.want == "negative":  # unlabelled rows come last and are in nobody's band
        ordered = ordered.masked_fill(ordered == UNLABELLED, torch.iinfo(torch.int64).max)
    low, size = runs_of(own_keys[query], ordered)
    anchors = columns[: len(query)] if request.joined else request.own[query]  # without a copy
    self_column = None if request.joined else _column_of(anchors.ids, columns.ids)
    bounds = part_of(request.bounds, query)
    arranged = replace(request, own=anchors, rows=columns, bounds=bounds)
    return Problem(arranged, low, low + size, self_column, symmetric=request.joined), query


def _arrange_any(request: Request) -> tuple[Problem, Int64[Tensor, " a"]]:
    query = torch.arange(len(request.own), device=request.own.ids.device)
    column = query if request.joined else _column_of(request.own.ids, request.rows.ids)
    high = torch.where(column == NO_ID, NO_ID, column + 1)
    return Problem(request, column, high, None, symmetric=request.joined), query


def _labelled_first(labels: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Rows by label, unlabelled last."""
    if bool((labels == torch.iinfo(torch.int64).max).any()):
        raise ValueError("labels must be below 2^63 - 1, where unlabelled rows are sorted to: number the classes anew")
    return labels.masked_fill(labels == UNLABELLED, torch.iinfo(torch.int64).max).argsort(stable=True)


def _column_of(ids: Int64[Tensor, " q"], columns: Int64[Tensor, " n"]) -> Int64[Tensor, " q"]:
    """Where each id is among the columns, -1 where it is not."""
    place, found = lookup(ids, columns)
    return torch.where(found, place, NO_ID)
