"""From flat lists of (query, row) pairs to the k best rows of each query, by the similarity that is reported.

Letters: t pairs, q queries, n rows, d dimensions.
"""

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.index.protocol import NO_ID
from legolas_metric.numerics import chunks, pair_similarity

Bounds = tuple[Float64[Tensor, " q"], Float64[Tensor, " q"]]
"""A window: the bounds low < s < high of each query, infinite where there is none."""

_PAIR_ELEMENTS = 1 << 17  # so that a chunk stays in cache


def similarities_of(
    x: Float32[Tensor, "q d"],
    y: Float32[Tensor, "n d"],
    query: Int64[Tensor, " t"],
    row: Int64[Tensor, " t"],
    metric: Metric,
) -> Float32[Tensor, " t"]:
    """The reported similarity of each pair (query, row)."""
    out = x.new_empty(len(query))
    for part in chunks(len(query), max(1, _PAIR_ELEMENTS // x.shape[1])):
        out[part] = pair_similarity(x.index_select(0, query[part]), y.index_select(0, row[part]), metric)
    return out


def inside_window(
    similarity: Float32[Tensor, " t"], query: Int64[Tensor, " t"], bounds: Bounds | None
) -> Bool[Tensor, " t"]:
    """Which pairs lie inside their query's window, compared in float64."""
    if bounds is None:
        return torch.ones_like(similarity, dtype=torch.bool)
    wide = similarity.double()
    return (wide > bounds[0][query]) & (wide < bounds[1][query])


def best_of(
    query: Int64[Tensor, " t"],
    ids: Int64[Tensor, " t"],
    similarity: Float32[Tensor, " t"],
    *,
    q: int,
    k: int,
    farthest: bool,
) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]:
    """The k best pairs of each query: largest similarity first (smallest if `farthest`), ties to the smaller id."""
    order = _best_first(query, ids, similarity if farthest else -similarity)
    query = query[order]
    place = torch.arange(len(query), device=query.device) - torch.searchsorted(query, query)
    kept = place < k
    out_ids = ids.new_full((q, k), NO_ID)
    out_similarities = similarity.new_full((q, k), -torch.inf)
    at = (query[kept], place[kept])
    out_ids[at] = ids[order[kept]]
    out_similarities[at] = similarity[order[kept]]
    return out_ids, out_similarities


def _best_first(
    query: Int64[Tensor, " t"], ids: Int64[Tensor, " t"], cost: Float32[Tensor, " t"]
) -> Int64[Tensor, " t"]:
    """The order by query, then cost, then id: one sort of both as one integer, and more only where there are ties."""
    bits = (cost + 0.0).view(torch.int32)  # + 0.0: -0 and 0 are a tie
    key = (query << 32) + (bits ^ ((bits >> 31) & 0x7FFFFFFF))
    ordered, order = key.sort()
    if bool((ordered[1:] == ordered[:-1]).any()):
        order = ids.argsort()
        order = order[key[order].argsort(stable=True)]
    return order
