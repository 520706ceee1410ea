"""Which way a request is answered: a plain scan, or the engine where its compiled loops run and pay.

Positives are compared class by class, large classes each as a search of its own.

Letters: q queries, k neighbours.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.datasets.labels import class_sizes
from legolas_metric.index.brute_force import scan, scan_classes
from legolas_metric.index.exact.bands import arrange
from legolas_metric.index.exact.comparing import best_compiled
from legolas_metric.index.exact.duplicates import needed_rows
from legolas_metric.index.exact.loops import MINING, plain_seconds
from legolas_metric.index.exact.precision import Precision, has_int16, require_int16, screening_dtype
from legolas_metric.index.exact.solve import Problem, Solution, solve
from legolas_metric.index.request import Request, part_of
from legolas_metric.index.top_k import best_pairs
from legolas_metric.lookup import lookup
from legolas_metric.records import Neighbors, SearchStats
from legolas_metric.rows import NO_ID

_SMALL = 1_500_000  # pairs; below, the plain scan is faster than setting the engine up
_LARGE_CLASS = 1024  # rows; from here on, positives are searched by the engine within the class


def answer(request: Request, precision: Precision, workspace_mb: int) -> Neighbors:
    """The neighbours that a request asks for."""
    rows, k = request.rows, request.k
    positives = request.want in ("positive", "cross_group_positive")
    ready, pays = _loops(request, precision)
    if not pays:
        way, best = scan_classes if positives else scan, best_compiled if ready else best_pairs
        ids, similarities = way(request, workspace_mb=workspace_mb, best=best)
        return Neighbors(ids, similarities, SearchStats(engine="exact"))
    if positives:
        return _positives(request, precision, workspace_mb)
    kept = needed_rows(rows, k, request.want)
    problem, query = arrange(request if kept is None else replace(request, rows=rows[kept]))
    ids, similarities = _empty(request)
    if len(query) == 0:
        return Neighbors(ids, similarities, SearchStats(engine="exact"))
    solution = _solved(problem, precision, workspace_mb)
    ids[query], similarities[query] = solution.ids, solution.similarities
    return Neighbors(ids, similarities, _stats(solution, len(query)))


def _solved(problem: Problem, precision: Precision, workspace_mb: int) -> Solution:
    rows = problem.asked.rows.embeddings
    heads = precision in ("auto", "int16") and has_int16(rows.device)
    return solve(problem, screening_dtype(precision, rows.shape[1]), workspace_mb, heads=heads)


def _loops(request: Request, precision: Precision) -> tuple[bool, bool]:
    """Whether compiled loops are there; and whether the engine is asked for, or worth it."""
    rows = request.rows.embeddings
    if precision == "int16":
        require_int16(rows.device)
    if precision != "auto":
        ready = MINING.worth(rows.device, math.inf)
        return ready, ready
    pairs = len(request.own) * len(rows)
    if request.want in ("positive", "cross_group_positive"):
        pairs = _pairs_within(request)
    ready = MINING.worth(rows.device, plain_seconds(pairs, rows.shape[1]))
    return ready, ready and pairs > _SMALL


def _pairs_within(request: Request) -> int:
    """Pairs of queries and rows of one large class."""
    labels, own = request.rows.labels, request.own.labels
    assert labels is not None
    assert own is not None
    classes, counts = class_sizes(labels)
    large, counts = classes[counts > _LARGE_CLASS], counts[counts > _LARGE_CLASS]
    place, found = lookup(own, large)
    return int(counts[place[found]].sum()) if len(large) else 0


def _positives(request: Request, precision: Precision, workspace_mb: int) -> Neighbors:
    """Small classes pair by pair, each large one as a search of its own."""
    own, rows = request.own, request.rows
    assert own.labels is not None
    assert rows.labels is not None
    classes, counts = class_sizes(rows.labels)
    large = classes[counts > _LARGE_CLASS]
    rest = (~torch.isin(own.labels, large)).nonzero().flatten()
    ids, similarities = _empty(request)
    others = request.part(rest)
    ids[rest], similarities[rest] = scan_classes(others, workspace_mb=workspace_mb, best=best_compiled)
    want = "any" if request.want == "positive" else "cross_group_positive"
    solutions = []
    for label in large.tolist():
        members = (rows.labels == label).nonzero().flatten()
        query = members if request.joined else (own.labels == label).nonzero().flatten()
        if len(query) == 0:
            continue
        inside = rows[members]
        asking, bounds = inside if request.joined else own[query], part_of(request.bounds, query)
        problem, place = arrange(replace(request, own=asking, rows=inside, want=want, bounds=bounds))
        solution = _solved(problem, precision, workspace_mb)
        ids[query[place]], similarities[query[place]] = solution.ids, solution.similarities
        solutions.append(solution)
    if not solutions:
        return Neighbors(ids, similarities, SearchStats(engine="exact"))
    return Neighbors(ids, similarities, _stats(_joined(solutions, len(own)), len(own)))


def _joined(solutions: list[Solution], anchors: int) -> Solution:
    """One record of the searches of several classes: counts summed, figures for a row taken over all anchors."""
    details: dict[str, float] = {}
    for solution in solutions:
        for name, value in solution.details.items():
            share = len(solution.ids) / anchors if name.endswith("_per_row") else 1.0
            details[name] = details.get(name, 0.0) + share * value
    return replace(solutions[0], details=details)


def _empty(request: Request) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]:
    q, table = len(request.own), request.own.embeddings
    return request.own.ids.new_full((q, request.k), NO_ID), table.new_full((q, request.k), -torch.inf)


def _stats(solution: Solution, anchors: int) -> SearchStats:
    return SearchStats(
        engine="exact",
        precision=solution.precision,
        certified=1 - solution.details["rescanned"] / anchors,
        details=solution.details,
    )
