"""From flat lists of (query, row) pairs to the k best rows of each query, by the similarity that decides.

Letters: t pairs, q queries, n rows, d dimensions.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import WIDE, rows_for
from legolas_metric.checks import Metric
from legolas_metric.geometry import chunks, exact_similarity
from legolas_metric.index.request import Bounds, Request, part_of
from legolas_metric.lookup import turns
from legolas_metric.rows import NO_ID

_SORTED = 4096  # queries whose pairs are sorted together, so that memory stays small

Best = Callable[
    [Request, Int64[Tensor, " t"], Int64[Tensor, " t"]], tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]
]
"""A function that takes and gives what `best_pairs` does."""


def exact_similarities(
    x: Float32[Tensor, "q d"],
    y: Float32[Tensor, "n d"],
    query: Int64[Tensor, " t"],
    row: Int64[Tensor, " t"],
    metric: Metric,
) -> Float64[Tensor, " t"]:
    """`exact_similarity` of each pair (query, row), so few at a time that their memory is never given back between."""
    out = torch.empty(len(query), dtype=torch.float64, device=x.device)
    for part in chunks(len(query), rows_for(WIDE, x.shape[1])):
        out[part] = exact_similarity(x.index_select(0, query[part]), y.index_select(0, row[part]), metric)
    return out


def best_pairs(
    request: Request, query: Int64[Tensor, " t"], row: Int64[Tensor, " t"]
) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]:
    """The k best of some pairs (query, row) that lie inside the windows; queries ascend."""
    x, rows = request.own.embeddings, request.rows
    ids, similarities, edges = [], [], (0, len(query))
    parts = list(chunks(max(1, len(x)), _SORTED))
    if len(parts) > 1:
        starts = torch.tensor([part.start for part in parts], device=query.device)
        edges = (*torch.searchsorted(query, starts).tolist(), len(query))
    for part, (first, last) in zip(parts, pairwise(edges)):
        own, column = query[first:last] - part.start, row[first:last]
        value = exact_similarities(x[part], rows.embeddings, own, column, request.metric)
        if request.bounds is not None:
            inside = inside_window(value, own, part_of(request.bounds, part)).nonzero()[:, 0]
            own, column, value = own[inside], column[inside], value[inside]
        best = best_of(own, rows.ids[column], value, q=len(x[part]), k=request.k, farthest=request.farthest)
        ids.append(best[0])
        similarities.append(best[1])
    return torch.cat(ids), torch.cat(similarities)


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
    """The k best pairs of each query: largest similarity first (smallest if `farthest`), ties to the smaller id.

    The pairs of a query are put into a line of its own, so that only these few are sorted.
    """
    if not bool((query[1:] >= query[:-1]).all()):
        order = query.argsort(stable=True)
        query, ids, similarity = query[order], ids[order], similarity[order]
    place = turns(query)
    width = max(k, int(place.max()) + 1 if len(place) else 0)
    names = torch.full((q, width), NO_ID, dtype=torch.int64, device=query.device)
    values = torch.full((q, width), torch.inf if farthest else -torch.inf, dtype=torch.float64, device=query.device)
    names[query, place], values[query, place] = ids, similarity.double()
    if width > 1:
        if bool(((ids[1:] < ids[:-1]) & (query[1:] == query[:-1])).any()):
            names, order = names.sort(1)
            values = values.gather(1, order)
        values, order = values.sort(dim=1, stable=True, descending=not farthest)
        names = names.gather(1, order)
    best = names[:, :k].contiguous()
    return best, values[:, :k].float().masked_fill_(best == NO_ID, -torch.inf)


def recall_of(found: Int64[Tensor, "q k"], true: Int64[Tensor, "q k"]) -> float:
    """Share of the true neighbours that were found; NaN where there are none, and nothing was measured."""
    real = true != NO_ID
    hit = (true[:, :, None] == found[:, None, :]).any(2) & real
    return float(hit.sum() / real.sum())
