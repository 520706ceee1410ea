"""The plain scan: every pair of a block of queries is screened in float32, the few that can matter are then compared.

A pair is screened by <x', y'> + a_x + a_y of rows that are scaled by a power of two and, for "euclidean", centred; it
grows with the similarity. The bound on its error covers the rounding of the rows, of the product, and of the reported
similarity itself, so that a pair which is dropped can neither be better than the k best kept nor tie with them.

Letters: q queries, n rows, d dimensions, k neighbours, t pairs.
"""

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, Metric
from legolas_metric.geometry import chunks
from legolas_metric.index.admissible import admissible, admissible_pairs
from legolas_metric.index.interface import Want
from legolas_metric.index.top_k import Bounds, best_of, inside_window, similarities_of
from legolas_metric.rows import NO_ID, Rows

_UNIT = 2.0**-24  # half a unit in the last place of float32
_TINY = 2.0**-120  # what flushed denormals can add up to, on rows scaled to norms of at most 1
_SMALL_CLASS = 64  # rows; classes up to this size are compared pair by pair
_PAIRS = 1 << 20


def scan(
    queries: Rows,
    rows: Rows,
    k: int,
    *,
    want: Want,
    metric: Metric,
    farthest: bool = False,
    bounds: Bounds | None = None,
    workspace_mb: int = 256,
) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]:
    """The k best admissible rows of each query and their similarities, exactly, for any want and window."""
    scale, centre = _frame(queries, rows, metric)
    y, a_y, norm_y = _screened(rows.embeddings, scale, centre, metric)
    block = max(1, min(len(queries), (workspace_mb << 20) // (24 * len(rows))))
    found = []
    for part in chunks(len(queries), block):
        own = queries[part]
        x, a_x, norm_x = _screened(own.embeddings, scale, centre, metric)
        error = _error(norm_x, norm_y.max(), x.shape[1], scale, metric)
        score = x @ y.T
        if metric == "euclidean":
            score += a_x[:, None] + a_y
        own_bounds = part_of(bounds, part)
        window = None if own_bounds is None else _to_scores(own_bounds, scale, metric)
        query, row = _candidates(score, admissible(want, own, rows), error, k, farthest, window)
        similarity = similarities_of(own.embeddings, rows.embeddings, query, row, metric)
        inside = inside_window(similarity, query, own_bounds)
        query, row, similarity = query[inside], row[inside], similarity[inside]
        found.append(best_of(query, rows.ids[row], similarity, q=len(own), k=k, farthest=farthest))
    return torch.cat([ids for ids, _ in found]), torch.cat([values for _, values in found])


def scan_classes(
    queries: Rows,
    rows: Rows,
    k: int,
    *,
    want: Want,
    metric: Metric,
    farthest: bool = False,
    bounds: Bounds | None = None,
    workspace_mb: int = 256,
) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]:
    """`scan` for rows of the query's own class, looking at that class only."""
    assert queries.labels is not None
    assert rows.labels is not None
    ids = queries.ids.new_full((len(queries), k), NO_ID)
    values = rows.embeddings.new_full((len(queries), k), -torch.inf)
    ordered, order = rows.labels.sort(stable=True)
    start = torch.searchsorted(ordered, queries.labels)
    size = torch.searchsorted(ordered, queries.labels, right=True) - start
    size[queries.labels == UNLABELLED] = 0
    small = ((size > 0) & (size <= _SMALL_CLASS)).nonzero().flatten()
    for part in small.split(max(1, _PAIRS // _SMALL_CLASS)):
        own, own_bounds = queries[part], part_of(bounds, part)
        query = torch.arange(len(part), device=part.device).repeat_interleave(size[part])
        first = (size[part].cumsum(0) - size[part]).repeat_interleave(size[part])
        row = order[torch.arange(len(query), device=part.device) - first + start[part][query]]
        kept = admissible_pairs(want, own, rows, query, row)
        query, row = query[kept], row[kept]
        value = similarities_of(own.embeddings, rows.embeddings, query, row, metric)
        kept = inside_window(value, query, own_bounds)
        found = best_of(query[kept], rows.ids[row[kept]], value[kept], q=len(own), k=k, farthest=farthest)
        ids[part], values[part] = found
    for label in queries.labels[size > _SMALL_CLASS].unique().tolist():
        part = (queries.labels == label).nonzero().flatten()
        members = order[int(start[part[0]]) : int(start[part[0]] + size[part[0]])]
        ids[part], values[part] = scan(
            queries[part],
            rows[members],
            k,
            want=want,
            metric=metric,
            farthest=farthest,
            bounds=part_of(bounds, part),
            workspace_mb=workspace_mb,
        )
    return ids, values


def part_of(
    bounds: Bounds | None, part: slice | Int64[Tensor, " m"]
) -> tuple[Float64[Tensor, " s"], Float64[Tensor, " s"]] | None:
    """The windows of some queries."""
    return None if bounds is None else (bounds[0][part], bounds[1][part])


def _frame(queries: Rows, rows: Rows, metric: Metric) -> tuple[float, Float64[Tensor, " d"] | None]:
    """A power of two that brings all norms to at most 1, and the centre for "euclidean"."""
    largest = max(float(table.embeddings.abs().max()) for table in (queries, rows))
    centre = rows.embeddings.mean(0, dtype=torch.float64) if metric == "euclidean" else None
    bound = largest * rows.embeddings.shape[1] ** 0.5 * (2 if centre is not None else 1)
    return 2.0 ** -(torch.tensor(bound, dtype=torch.float64).log2().ceil().item()) if bound > 0 else 1.0, centre


def _screened(
    rows: Float32[Tensor, "n d"], scale: float, centre: Float64[Tensor, " d"] | None, metric: Metric
) -> tuple[Float32[Tensor, "n d"], Float32[Tensor, " a"], Float64[Tensor, " n"]]:
    """Scaled rows x', the additive term a_x (empty where there is none) and the norms."""
    if metric == "cosine":
        return rows, rows.new_zeros(0), torch.ones(len(rows), dtype=torch.float64, device=rows.device) * (1 + 2.0**-20)
    wide = rows.double() if centre is None else rows.double() - centre
    scaled = (wide * scale).float()
    norm = torch.linalg.vector_norm(scaled.double(), dim=1)
    return scaled, (-norm.square() / 2).float(), norm


def _error(
    norm_x: Float64[Tensor, " q"], norm_y: Float64[Tensor, ""], d: int, scale: float, metric: Metric
) -> Float32[Tensor, "q 1"]:
    """How far a score can lie from one that would order and tie like the reported similarity."""
    product = 2 * (d + 8) * _UNIT * norm_x * norm_y
    if metric == "euclidean":
        product = product + 16 * _UNIT * (norm_x + norm_y).square()
    underflow = 2.0**-148 * (scale if metric == "euclidean" else scale**2)  # of the reported similarity
    return (product * (1 + 2.0**-10) + _TINY + underflow).float()[:, None]


def _to_scores(bounds: Bounds, scale: float, metric: Metric) -> Bounds:
    """A window of similarities as one of scores."""
    if metric == "cosine":
        return bounds
    if metric == "dot":
        return bounds[0] * scale**2, bounds[1] * scale**2
    low, high = (-(bound.clamp_max(0) * scale).square() / 2 for bound in bounds)
    return low, torch.where(bounds[1] > 0, torch.inf, high)


def _candidates(
    score: Float32[Tensor, "q n"],
    allowed: Bool[Tensor, "q n"],
    error: Float32[Tensor, "q 1"],
    k: int,
    farthest: bool,
    window: Bounds | None,
) -> tuple[Int64[Tensor, " t"], Int64[Tensor, " t"]]:
    """Pairs that can be among the k best: all whose score is within twice the error of the k-th best sure one."""
    if farthest:
        score = score.neg_()
    sure = allowed
    if window is not None:
        low, high = (bound.float()[:, None] for bound in window)
        slack = error + 4 * _UNIT * torch.maximum(_finite(low), _finite(high))
        low, high = (-high, -low) if farthest else (low, high)
        allowed = allowed & (score >= low - slack) & (score <= high + slack)
        sure = allowed & (score > low + slack) & (score < high - slack)
    best = score.masked_fill(~sure, -torch.inf).topk(min(k, score.shape[1]), 1).values[:, -1:]
    if k > score.shape[1]:
        best = best.new_full(best.shape, -torch.inf)
    query, row = (allowed & (score >= best - 2 * error)).nonzero(as_tuple=True)
    return query, row


def _finite(bound: Float32[Tensor, "q 1"]) -> Float32[Tensor, "q 1"]:
    return torch.where(bound.isfinite(), bound.abs(), 0.0)
