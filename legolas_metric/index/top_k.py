"""From flat lists of (query, row) pairs to the k best rows of each query, by the similarity that decides.

Letters: t pairs, q queries, n rows, d dimensions.
"""

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import CACHE, rows_for
from legolas_metric.checks import Metric
from legolas_metric.geometry import chunks, exact_similarity
from legolas_metric.lookup import turns
from legolas_metric.rows import NO_ID

Bounds = tuple[Float64[Tensor, " q"], Float64[Tensor, " q"]]
"""A window: the bounds low < s < high of each query, infinite where there is none."""


def exact_similarities(
    x: Float32[Tensor, "q d"],
    y: Float32[Tensor, "n d"],
    query: Int64[Tensor, " t"],
    row: Int64[Tensor, " t"],
    metric: Metric,
) -> Float64[Tensor, " t"]:
    """`exact_similarity` of each pair (query, row), a cache's worth of them at a time."""
    out = torch.empty(len(query), dtype=torch.float64, device=x.device)
    for part in chunks(len(query), rows_for(CACHE, 24 * x.shape[1])):
        out[part] = exact_similarity(x.index_select(0, query[part]), y.index_select(0, row[part]), metric)
    return out


def inside_window(
    similarity: Float64[Tensor, " t"], query: Int64[Tensor, " t"], bounds: Bounds | None
) -> Bool[Tensor, " t"]:
    """Which pairs lie inside their query's window."""
    if bounds is None:
        return torch.ones_like(similarity, dtype=torch.bool)
    return (similarity > bounds[0][query]) & (similarity < bounds[1][query])


def best_of(
    query: Int64[Tensor, " t"],
    ids: Int64[Tensor, " t"],
    similarity: Float[Tensor, " t"],
    *,
    q: int,
    k: int,
    farthest: bool,
) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]:
    """The k best pairs of each query: largest similarity first (smallest if `farthest`), ties to the smaller id."""
    order = ids.argsort()
    order = order[similarity[order].argsort(stable=True, descending=not farthest)]
    order = order[query[order].argsort(stable=True)]
    query = query[order]
    place = turns(query)
    kept = place < k
    query, place, order = query[kept], place[kept], order[kept]
    best = torch.full((q, k), NO_ID, dtype=torch.int64, device=query.device)
    values = torch.full((q, k), -torch.inf, dtype=torch.float32, device=query.device)
    best[query, place], values[query, place] = ids[order], similarity[order].float()
    return best, values


def recall_of(found: Int64[Tensor, "q k"], true: Int64[Tensor, "q k"]) -> float:
    """Share of the true neighbours that were found; NaN where there are none, and nothing was measured."""
    real = true != NO_ID
    hit = (true[:, :, None] == found[:, None, :]).any(2) & real
    return float(hit.sum() / real.sum())
