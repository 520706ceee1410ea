"""Rows that occur many times: only the few of each that can be answers are searched.

Equal rows are equally similar to every query, so ties among them go to the smaller ids, and no query needs more than k
of them (one more for a query that is itself a row). Under "negative" that holds for the rows of one label, and for
labels: a query can exclude one.

Letters: n rows, k neighbours.
"""

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.index.interface import Want
from legolas_metric.lookup import turns
from legolas_metric.rows import Rows

_WORTH = 0.5  # share of the rows that may be left for the reduction to pay: a self-join computes half the products


def needed_rows(rows: Rows, k: int, want: Want) -> Int64[Tensor, " m"] | None:
    """The rows that can be answers, ascending; None where leaving out the others does not pay."""
    n = len(rows)
    by_id = rows.ids.argsort()
    vector = _numbered(rows.embeddings, by_id)
    if vector is None:
        return None
    if want == "negative":
        assert rows.labels is not None
        labels = rows.labels[by_id]
        cell = _pairs(vector, labels)
        first = _rank(cell) == 0
        # the place of each cell among those of its vector, by its smallest id
        place = torch.zeros(n, dtype=torch.int64, device=cell.device)
        place[first] = _rank(vector[first])
        leader = torch.zeros(int(cell.max()) + 1, dtype=torch.int64, device=cell.device)
        leader[cell[first]] = place[first]
        kept = (_rank(cell) <= k) & (leader[cell] <= k + 1)
    else:
        kept = _rank(vector) <= k
    return by_id[kept].sort().values if int(kept.sum()) <= _WORTH * n else None


def _numbered(rows: Float32[Tensor, "n d"], by_id: Int64[Tensor, " n"]) -> Int64[Tensor, " n"] | None:
    """A number for each distinct row, found by a projection and then compared; None where few rows are equal.

    They are numbered in the order of `by_id`.
    """
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(rows.shape[1], generator=generator, dtype=torch.float32).to(rows.device) + 0.5
    ordered, order = (rows @ weights)[by_id].sort()
    if int((ordered[1:] != ordered[:-1]).sum()) + 1 > _WORTH * len(rows):
        return None
    table = rows[by_id[order]]
    new = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    new[1:] = (table[1:] != table[:-1]).any(1)
    number = torch.empty_like(order)
    number[order] = new.cumsum(0) - 1
    return number


def _pairs(a: Int64[Tensor, " n"], b: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """A number for each distinct pair."""
    dense = b.unique(return_inverse=True)[1]
    return (a * (int(dense.max()) + 1) + dense).unique(return_inverse=True)[1]


def _rank(key: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """How many entries before it have the same key."""
    ordered, order = key.sort(stable=True)
    rank = torch.empty_like(key)
    rank[order] = turns(ordered)
    return rank
