"""The plain scan: every pair of a block of queries is screened in float32, the few that can matter are then compared.

A pair is screened by <x', y'> + a_x + a_y of rows that are scaled by a power of two and, for "euclidean", centred; it
grows with the similarity. The bound on its error covers the rounding of the rows and of the product, and what the norms
of unit rows leave between <x, y> and 1 - |x - y|^2 / 2; so a pair which is dropped can neither be better than the k
best kept nor tie with them. Which of the few are best is decided by `geometry.exact_similarity`.

Letters: q queries, n rows, d dimensions, k neighbours, t pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.arrays import at_hand
from legolas_metric.budgets import BLOCK, PAIRS, rows_for
from legolas_metric.checks import UNLABELLED, Metric
from legolas_metric.geometry import chunks, product
from legolas_metric.index.admissible import admissible_pairs, forbid
from legolas_metric.index.blocks import kth_best, pairs_of
from legolas_metric.index.request import Bounds, Request
from legolas_metric.index.top_k import Best, best_pairs
from legolas_metric.lookup import lookup, runs_of
from legolas_metric.rows import NO_ID, Rows

_UNIT = 2.0**-24  # half a unit in the last place of float32
_TINY = 2.0**-120  # what flushed denormals can add up to, on rows scaled to norms of at most 1
_NORMS = 2.0**-20  # above |<x, y> - (1 - |x - y|^2 / 2)| of rows that are unit to 2^-22
_SCREENED_ALIKE = 16  # pairs are screened in the time in which one is compared exactly
_SMALL_CLASS = 64  # rows; classes up to this size are compared pair by pair
_LANES = 8  # times k
_LOWEST = torch.finfo(torch.float32).min  # below all scores, above those of pairs that may not be
_SCREENED, _COMPARED = 24, 96  # bytes that a pair takes at most while it is screened, and while it is compared


def scan(
    request: Request, *, workspace_mb: int = 256, best: Best = best_pairs
) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]:
    """The k best admissible rows of each query and their similarities, exactly, for any want and window.

    Memory beside the rows, a scaled copy of them and the answer: 2 workspaces, or 120 bytes a row where that is more.

    Args:
        request: the search.
        workspace_mb: see above, in MiB.
        best: compares the pairs that are left exactly.
    """
    queries, rows, metric, farthest = request.own, request.rows, request.metric, request.farthest
    asked = replace(request, k=min(request.k, len(rows)))  # or more than there are
    scale, centre = _frame(queries, rows, metric)
    y = _screened(rows.embeddings, scale, centre, metric)
    workspace = workspace_mb << 20
    itself = None if request.joined else _places(queries, rows)
    found = []
    pairs = min(workspace // _SCREENED, PAIRS) if rows.ids.is_cpu else workspace // _SCREENED
    for part in chunks(len(queries), rows_for(pairs, len(rows))):
        block = asked.part(part)
        x = y if block.own is rows else _screened(block.own.embeddings, scale, centre, metric)
        window = None if block.bounds is None else _to_scores(block.bounds, scale, metric)
        score = _scores(x, y, farthest)
        forbid(score, block, part.start if itself is None else itself[part])
        mask = _candidates(score, _error(x, y, metric), asked.k, farthest, window)
        del score
        for some in _few_at_once(mask, workspace // _COMPARED):
            found.append(best(block.part(some), *pairs_of(mask[some])))
    ids, values = found[0] if len(found) == 1 else (torch.cat(parts) for parts in zip(*found))
    if asked.k == request.k:
        return ids, values
    missing = (0, request.k - asked.k)
    return (
        torch.nn.functional.pad(ids, missing, value=NO_ID),
        torch.nn.functional.pad(values, missing, value=-torch.inf),
    )


def _places(queries: Rows, rows: Rows) -> Int64[Tensor, " q"]:
    """The row that each query is, -1 for none."""
    place, there = lookup(queries.ids, rows.ids)
    at_hand(place)[~at_hand(there)] = NO_ID
    return place


def _few_at_once(mask: Bool[Tensor, "q n"], most: int) -> Iterator[slice]:
    """Runs of queries with no more than so many pairs, or of one query."""
    if mask.numel() <= most:
        yield slice(0, len(mask))
        return
    total, first = mask.sum(1).cumsum(0).cpu(), 0
    while first < len(total):
        before = int(total[first - 1]) if first else 0
        last = max(first + 1, int(torch.searchsorted(total, before + most, right=True)))
        yield slice(first, last)
        first = last


def scan_classes(
    request: Request, *, workspace_mb: int = 256, best: Best = best_pairs
) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]:
    """`scan` for rows of the query's own class, looking at that class only unless classes are few."""
    queries, rows, k = request.own, request.rows, request.k
    assert queries.labels is not None
    assert rows.labels is not None
    ordered, order = rows.labels.sort(stable=True)
    start, size = runs_of(queries.labels, ordered)
    size[queries.labels == UNLABELLED] = 0
    if _SCREENED_ALIKE * int(size.sum()) > len(queries) * len(rows):
        return scan(request, workspace_mb=workspace_mb, best=best)
    ids = queries.ids.new_full((len(queries), k), NO_ID)
    values = rows.embeddings.new_full((len(queries), k), -torch.inf)
    small = ((size > 0) & (size <= _SMALL_CLASS)).nonzero().flatten()
    for part in small.split(rows_for(min(BLOCK, workspace_mb << 20), _COMPARED * _SMALL_CLASS)):
        block = request.part(part)
        query = torch.arange(len(part), device=part.device).repeat_interleave(size[part])
        first = (size[part].cumsum(0) - size[part]).repeat_interleave(size[part])
        row = order[torch.arange(len(query), device=part.device) - first + start[part][query]]
        kept = admissible_pairs(request.want, block.own, rows, query, row)
        ids[part], values[part] = best(block, query[kept], row[kept])
    for label in queries.labels[size > _SMALL_CLASS].unique().tolist():
        part = (queries.labels == label).nonzero().flatten()
        members = order[int(start[part[0]]) : int(start[part[0]] + size[part[0]])]
        inside = replace(request.part(part), rows=rows[members])
        ids[part], values[part] = scan(inside, workspace_mb=workspace_mb, best=best)
    return ids, values


def _frame(queries: Rows, rows: Rows, metric: Metric) -> tuple[float, Float64[Tensor, " d"] | None]:
    """A power of two that brings all norms to at most 1, and the centre for "euclidean"."""
    if metric == "cosine":
        return 1.0, None
    largest = max(float(table.embeddings.abs().max()) for table in (queries, rows))
    centre = rows.embeddings.mean(0, dtype=torch.float64) if metric == "euclidean" else None
    bound = largest * rows.embeddings.shape[1] ** 0.5 * (2 if centre is not None else 1)
    return 2.0 ** -(torch.tensor(bound, dtype=torch.float64).log2().ceil().item()) if bound > 0 else 1.0, centre


@dataclass(frozen=True, slots=True)
class _Side:
    """Scaled rows x', the additive term a_x and the norms; None where there is none, and of unit rows."""

    rows: Float32[Tensor, "n d"]
    term: Float32[Tensor, " n"] | None = None
    norm: Float64[Tensor, " n"] | None = None


def _screened(
    rows: Float32[Tensor, "n d"], scale: float, centre: Float64[Tensor, " d"] | None, metric: Metric
) -> _Side:
    if metric == "cosine":
        return _Side(rows)
    wide = rows.double() if centre is None else rows.double() - centre
    scaled = (wide * scale).float()
    norm = torch.linalg.vector_norm(scaled.double(), dim=1)
    return _Side(scaled, (-norm.square() / 2).float() if metric == "euclidean" else None, norm)


def _scores(x: _Side, y: _Side, farthest: bool) -> Float32[Tensor, "q n"]:
    """Scores of which the largest are sought."""
    score = product(x.rows, y.rows)
    if x.term is not None and y.term is not None:
        score += x.term[:, None] + y.term
    return score.neg_() if farthest else score


def _error(x: _Side, y: _Side, metric: Metric) -> Float32[Tensor, "q 1"] | float:
    """How far a score can lie from one that would order and tie like `exact_similarity`."""
    rounding = 2 * (x.rows.shape[1] + 8) * _UNIT * (1 + 2.0**-10)
    if x.norm is None or y.norm is None:
        return rounding + _NORMS
    longest = y.norm.max()
    error = rounding * x.norm * longest + _TINY
    if metric == "euclidean":
        error = error + 17 * _UNIT * (x.norm + longest).square()
    return error.float()[:, None]


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
    error: Float32[Tensor, "q 1"] | float,
    k: int,
    farthest: bool,
    window: Bounds | None,
) -> Bool[Tensor, "q n"]:
    """Pairs that can be among the k best: all whose score is within twice the error of the k-th best sure one."""
    if window is None:
        return torch.as_tensor(at_hand(score) >= _floor(score, error, k))
    low, high = (bound.float()[:, None] for bound in window)
    slack = error + 4 * _UNIT * torch.maximum(_finite(low), _finite(high))
    low, high = (-high, -low) if farthest else (low, high)
    sure = (score > low + slack) & (score < high - slack)
    floor = torch.as_tensor(_floor(torch.where(sure, score, -torch.inf), error, k))
    return (score >= torch.maximum(floor, low - slack)) & (score <= high + slack)


def _floor(score: Float32[Tensor, "q n"], error: Float32[Tensor, "q 1"] | float, k: int) -> Any:
    """What the k best score at least, [q, 1] at hand: seldom much less than the k-th, by the maxima of lanes."""
    q, n = score.shape
    deep = n // (_LANES * k)  # of a lane; the few columns left over raise no floor
    if k > 1 and deep > 2:  # fewer are sorted sooner
        score = score[:, : n - n % deep].view(q, deep, n // deep).amax(1)
    floor = at_hand(kth_best(score, k)) - 2 * at_hand(error)
    floor[floor < _LOWEST] = _LOWEST
    return floor


def _finite(bound: Float32[Tensor, "q 1"]) -> Float32[Tensor, "q 1"]:
    return torch.where(bound.isfinite(), bound.abs(), 0.0)
