"""From flat lists of (query, row) pairs to the k best rows of each query, by the similarity that is reported.

Letters: t pairs, q queries, n rows, d dimensions.
"""

import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.compiled.jit import arrays, runs_compiled
from legolas_metric.compiled.threads import in_threads
from legolas_metric.geometry import chunks, pair_similarity
from legolas_metric.rows import NO_ID

Bounds = tuple[Float64[Tensor, " q"], Float64[Tensor, " q"]]
"""A window: the bounds low < s < high of each query, infinite where there is none."""

_PAIR_ELEMENTS = 1 << 18  # so that a chunk stays in cache
_THREAD_ELEMENTS = 1 << 21  # a millisecond's work
_SPARSE = 4  # cells of a table per pair up to which sorting its rows beats sorting all pairs
_NO_KEY = torch.iinfo(torch.int64).max


def similarities_of(
    x: Float32[Tensor, "q d"],
    y: Float32[Tensor, "n d"],
    query: Int64[Tensor, " t"],
    row: Int64[Tensor, " t"],
    metric: Metric,
) -> Float32[Tensor, " t"]:
    """The reported similarity of each pair (query, row)."""
    out = x.new_empty(len(query))
    if not runs_compiled(x.device):
        for part in chunks(len(query), max(1, _PAIR_ELEMENTS // x.shape[1])):
            out[part] = pair_similarity(x.index_select(0, query[part]), y.index_select(0, row[part]), metric)
        return out
    from legolas_metric.compiled.row_loops import pair_similarities

    sides, pairs = arrays(x, y), arrays(query, row, out)

    def work(part: slice) -> None:
        queries, rows, places = (values[part] for values in pairs)
        pair_similarities(*sides, queries, rows, metric == "euclidean", places)

    size = max(1, _THREAD_ELEMENTS // x.shape[1])
    if len(out) <= size:  # threads would cost more
        work(slice(None))
    else:
        in_threads(work, chunks(len(out), size))
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
    cost = similarity if farthest else -similarity
    count = torch.bincount(query, minlength=q)
    table = torch.full((q, k), NO_ID, dtype=torch.int64, device=query.device)
    if len(query) and q * int(count.max()) <= _SPARSE * len(query):
        tied = _order_rows(query, cost, count, table)
        if not bool(tied.any()):
            return _taken(table, ids, similarity)
        pair = tied[query].nonzero().flatten()
    else:
        pair = torch.arange(len(query), device=query.device)
    order = pair[_best_first(query[pair], ids[pair], cost[pair])]
    query = query[order]
    place = torch.arange(len(query), device=query.device) - torch.searchsorted(query, query)
    kept = place < k
    table[query[kept], place[kept]] = order[kept]
    return _taken(table, ids, similarity)


def _taken(
    table: Int64[Tensor, "q k"], ids: Int64[Tensor, " t"], similarity: Float32[Tensor, " t"]
) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]:
    """Ids and similarities of the pairs that a table names; -1 and -inf where it names none."""
    none = table == NO_ID
    if bool(none.all()):
        return table, similarity.new_full(table.shape, -torch.inf)
    pair = table.masked_fill(none, 0)
    return ids[pair].masked_fill_(none, NO_ID), similarity[pair].masked_fill_(none, -torch.inf)


def _order_rows(
    query: Int64[Tensor, " t"], cost: Float32[Tensor, " t"], count: Int64[Tensor, " q"], out: Int64[Tensor, "q k"]
) -> Bool[Tensor, " q"]:
    """Put the best pairs of each query into `out`, sorted query by query; returns where a tie is left to be broken."""
    k = out.shape[1]
    by_query = query.argsort(stable=True) if bool((query[1:] < query[:-1]).any()) else None
    if by_query is not None:
        query, cost = query[by_query], cost[by_query]
    first = count.cumsum(0) - count
    place = torch.arange(len(query), device=query.device) - first[query]
    keys = torch.full((len(count), max(int(count.max()), k)), _NO_KEY, dtype=torch.int64, device=query.device)
    keys[query, place] = (_order_bits(cost).long() << 32) + place
    keys = keys.sort(1).values
    held, bits = keys != _NO_KEY, keys >> 32
    pair = ((keys[:, :k] & 0xFFFFFFFF) + first[:, None]).masked_fill_(~held[:, :k], 0)
    pair = pair if by_query is None else by_query[pair]
    out.copy_(pair.masked_fill_(~held[:, :k], NO_ID))
    return ((bits[:, 1:] == bits[:, :-1]) & held[:, 1:])[:, :k].any(1)


def _order_bits(cost: Float32[Tensor, " t"]) -> Int32[Tensor, " t"]:
    """Integers in the order of the costs; -0 and 0 are a tie."""
    bits = (cost + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _best_first(
    query: Int64[Tensor, " t"], ids: Int64[Tensor, " t"], cost: Float32[Tensor, " t"]
) -> Int64[Tensor, " t"]:
    """The order by query, then cost, then id: one sort of both as one integer, and more only where there are ties."""
    key = (query << 32) + _order_bits(cost)
    ordered, order = key.sort()
    if bool((ordered[1:] == ordered[:-1]).any()):
        order = ids.argsort()
        order = order[key[order].argsort(stable=True)]
    return order
