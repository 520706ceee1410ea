"""One search: screen, re-rank what survives, and find otherwise what did not fit.

Letters: n anchors, m columns, k neighbours, t pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.budgets import WORKSPACE, rows_for
from legolas_metric.checks import Metric
from legolas_metric.compiled.jit import arrays
from legolas_metric.compiled.row_metrics import METRICS
from legolas_metric.compiled.threads import in_threads
from legolas_metric.geometry import chunks, product
from legolas_metric.index.brute_force import part_of, scan
from legolas_metric.index.exact.axes import (
    Sample,
    fewer_axes,
    first_heads,
    heads_of,
    may_pay,
    principal_axes,
    spread_places,
)
from legolas_metric.index.exact.certificate import certify
from legolas_metric.index.exact.job import Closer, Job, Screened
from legolas_metric.index.exact.precision import int16_speed
from legolas_metric.index.exact.processor import sweep, tile_size
from legolas_metric.index.exact.seeds import seeded_floors
from legolas_metric.index.exact.table import Frame, Heads, Table, choose_frame, in_frame, make_table, with_steps
from legolas_metric.index.exact.window import ceiling_of, floors_of
from legolas_metric.index.interface import Want
from legolas_metric.index.top_k import Bounds, best_of, exact_similarities, inside_window
from legolas_metric.rows import Rows

_RERANKED = 4096  # anchors whose pairs are sorted together, so that memory stays small
_INSERTED = 64  # neighbours up to which each candidate is put in its place: beyond, they are sorted
_SAMPLE = 128  # anchors that are tried first, to see whether low precision can separate the rows
_FEWEST_SAMPLED = 4096  # anchors beyond which that is worth a pass
_FEWEST_STEPS = 2**12  # of int16, for its bound to be worth a product
_ASKED, _TRIED = 64, 2048  # anchors and columns from which it is read whether a few axes are enough
_CROWDED = 0.25  # share of them that may overflow


@dataclass(frozen=True, slots=True)
class Problem:
    """A search with its rows in the order in which they are screened.

    Attributes:
        anchors, rows: the two sides, prepared; equal (the anchors first) in a self-join.
        low, high: [n], the forbidden band of columns of each anchor.
        self_column: [n], one more forbidden column, -1 for none.
        bounds: [n], the window.
        symmetric: whether the anchors are the first of the rows.
    """

    anchors: Rows
    rows: Rows
    low: Int64[Tensor, " n"]
    high: Int64[Tensor, " n"]
    self_column: Int64[Tensor, " n"] | None
    k: int
    want: Want
    metric: Metric
    farthest: bool
    bounds: Bounds | None
    symmetric: bool

    def part(self, anchors: Int64[Tensor, " m"]) -> "Problem":
        """The same search for some of the anchors."""
        return replace(
            self,
            anchors=self.anchors[anchors],
            low=self.low[anchors],
            high=self.high[anchors],
            self_column=None if self.self_column is None else self.self_column[anchors],
            bounds=part_of(self.bounds, anchors),
            symmetric=False,
        )


@dataclass(frozen=True, slots=True)
class Solution:
    """Answers in the order of the problem's anchors, and what they took."""

    ids: Int64[Tensor, "n k"]
    similarities: Float32[Tensor, "n k"]
    precision: str
    rescanned: int
    details: Mapping[str, float] = field(default_factory=dict)


def solve(
    problem: Problem, dtype: torch.dtype, workspace_mb: int, shrink: float = 1.0, *, heads: bool = False
) -> Solution:
    """The k best columns of each anchor, exactly.

    Args:
        problem: what to find.
        heads: whether rows may be screened by a few principal axes, in int16, where that pays.
        dtype: of the screening; a window or a bank that it cannot separate is screened in float32 instead.
        workspace_mb: for tiles, in MiB.
        shrink: see `certify`; for tests.
    """
    tables = [problem.anchors.embeddings, problem.rows.embeddings][problem.symmetric :]
    frame = choose_frame(tables, problem.metric, farthest=problem.farthest)
    along = _along_axes(problem, frame, shrink) if heads else None
    if along is not None:
        screened, m = along
        return _settled(problem, screened, frame, torch.int16, workspace_mb, shrink, {"axes": float(m)})
    if dtype == torch.int16:
        frame = with_steps(frame, tables)
        if frame.steps < _FEWEST_STEPS:  # the terms are much larger than the products
            dtype = torch.float32
    columns = make_table(problem.rows.embeddings, frame, dtype)
    n = len(problem.anchors)
    if dtype != torch.float32 and n > _FEWEST_SAMPLED:
        some = torch.arange(0, n, n // _SAMPLE, device=problem.low.device)
        tried = _screen(problem.part(some), frame, columns, dtype, None, workspace_mb, shrink)
        if float(tried.overflowed.float().mean()) > _CROWDED:
            dtype = torch.float32
            columns = make_table(problem.rows.embeddings, frame, dtype)
    found = _screen(problem, frame, columns, dtype, None, workspace_mb, shrink)
    return _settled(problem, found, frame, dtype, workspace_mb, shrink, {})


def _settled(
    problem: Problem,
    found: Screened,
    frame: Frame,
    dtype: torch.dtype,
    workspace_mb: int,
    shrink: float,
    details: Mapping[str, float],
) -> Solution:
    """The answers among what is left after a pass; those of anchors that overflowed are found otherwise."""
    n = len(problem.anchors)
    ids, similarities = _rerank(problem, found.anchor, found.column)
    again = found.overflowed.nonzero().flatten()
    if len(again):
        ids[again], similarities[again] = _rescan(
            problem.part(again), frame, dtype, found.reached[again], workspace_mb, shrink
        )
    counts = {
        "tiles": float(found.work.tiles),
        "groups_per_row": found.work.groups / max(1, n),
        "scores_per_row": found.work.scores / max(1, n),
        "reranked_per_row": len(found.anchor) / max(1, n),
        "rescanned": float(len(again)),
    }
    return Solution(ids, similarities, str(dtype).removeprefix("torch."), len(again), {**counts, **details})


def _along_axes(problem: Problem, frame: Frame, shrink: float) -> tuple[Screened, int] | None:
    """Sweep over the rows' heads, along as many principal axes as is fastest by a sample of the search; and how many.

    None where the whole rows are as fast, or where the terms are too large for int16.
    """
    rows, n = problem.rows.embeddings, len(problem.anchors)
    if not may_pay(rows, frame, n):
        return None
    axes = principal_axes(rows, frame)
    sides = [problem.anchors.embeddings, rows][problem.symmetric :]
    longer = [heads_of(side, frame, axes) for side in sides]
    pairs = n * len(rows) // (2 if problem.symmetric else 1)
    m = fewer_axes(longer, _sample(problem, frame, longer), frame, pairs, rows.shape[1], int16_speed(rows.device))
    if m is None:
        return None
    heads = [first_heads(side, m, axes) for side in longer]
    frame = with_steps(frame, sides, heads + longer)
    if frame.steps < _FEWEST_STEPS:
        return None
    tile = tile_size(len(rows), m * torch.int16.itemsize)
    closer = []
    for some, dtype in ((longer, torch.int16), ([None] * len(sides), torch.float32)):
        rounded = [make_table(side, frame, dtype, head, packed=False) for side, head in zip(sides, some)]
        missed = certify(rounded[0], rounded[-1], frame, tile, shrink).missed_anywhere()
        closer.append(Closer(rounded[0], rounded[-1], missed))
    tables = [make_table(side, frame, torch.int16, head) for side, head in zip(sides, heads)]
    floor = None
    if problem.symmetric:
        ceiling = ceiling_of(problem.bounds, frame)
        floor = seeded_floors(longer[0], closer[1], frame.sign, problem.low, problem.high, ceiling, problem.k)
    return _swept(problem, frame, tables[0], tables[-1], tile, floor, shrink, (closer[0], closer[1])), m


def _sample(problem: Problem, frame: Frame, heads: list[Heads]) -> Sample:
    """Some anchors, with about the score of their k-th best, which is chosen by the heads."""
    rows = problem.rows.embeddings
    anchors = spread_places(len(problem.anchors), min(_ASKED, rows_for(WORKSPACE, 16 * len(rows))))
    part, own, other = problem.part(anchors), heads[0].part_of(anchors), heads[-1]
    column = torch.arange(len(rows))
    barred = (column >= part.low[:, None]) & (column < part.high[:, None])
    if part.self_column is not None:
        barred |= column == part.self_column[:, None]
    floor, ceiling = floors_of(part.bounds, frame, own.tail), ceiling_of(part.bounds, frame)
    most = torch.full_like(floor, torch.inf) if ceiling is None else ceiling.possible
    score = (product(own.part, other.part) + own.term[:, None] + other.term) * frame.sign
    found = score.masked_fill_(barred | (score >= most[:, None]), -torch.inf).topk(part.k, 1)
    kth, place = found.values[:, -1], found.indices[:, -1]
    (x, a_x), (y, a_y) = (in_frame(side, frame) for side in (part.anchors.embeddings, rows[place]))
    exact = ((x * y).sum(1) + a_x + a_y).float() * frame.sign
    some = spread_places(len(rows), _TRIED)
    return Sample(torch.where(kth.isfinite(), floor.maximum(exact), floor), most, ~barred[:, some], anchors, some)


def _screen(
    problem: Problem,
    frame: Frame,
    columns: Table,
    dtype: torch.dtype,
    floor: Float32[Tensor, " n"] | None,
    workspace_mb: int,
    shrink: float,
) -> Screened:
    """Sweep, from the floors that are known (by default those of the window)."""
    tile = tile_size(len(problem.rows), problem.rows.embeddings.shape[1] * dtype.itemsize)
    anchors = columns if problem.symmetric else make_table(problem.anchors.embeddings, frame, dtype)
    return _swept(problem, frame, anchors, columns, tile, floor, shrink)


def _swept(
    problem: Problem,
    frame: Frame,
    anchors: Table,
    columns: Table,
    tile: int,
    floor: Float32[Tensor, " n"] | None,
    shrink: float,
    closer: tuple[Closer, Closer] | None = None,
) -> Screened:
    n = len(problem.anchors)
    certificate = certify(anchors, columns, frame, tile, shrink)
    floors = floors_of(problem.bounds, frame, anchors.norm[:n])
    if floor is not None:
        floors = torch.maximum(floors, floor)
    job = Job(
        anchors=anchors,
        columns=columns,
        n=n,
        low=problem.low,
        high=problem.high,
        self_column=problem.self_column,
        certificate=certificate,
        ceiling=ceiling_of(problem.bounds, frame),
        k=problem.k,
        tile=tile,
        symmetric=problem.symmetric,
        closer=closer,
    )
    return sweep(job, floors)


def _rescan(
    problem: Problem,
    frame: Frame,
    dtype: torch.dtype,
    floor: Float32[Tensor, " n"],
    workspace_mb: int,
    shrink: float,
) -> tuple[Int64[Tensor, "n k"], Float32[Tensor, "n k"]]:
    """Answers for anchors with more candidates than slots: screened in float32, and at last compared with every row."""
    if dtype != torch.float32:
        columns = make_table(problem.rows.embeddings, frame, torch.float32)
        found = _screen(problem, frame, columns, torch.float32, floor, workspace_mb, shrink)
        ids, similarities = _rerank(problem, found.anchor, found.column)
        again = found.overflowed.nonzero().flatten()
        if len(again):
            ids[again], similarities[again] = _rescan(
                problem.part(again), frame, torch.float32, found.reached[again], workspace_mb, shrink
            )
        return ids, similarities
    return scan(
        problem.anchors,
        problem.rows,
        problem.k,
        want=problem.want,
        metric=problem.metric,
        farthest=problem.farthest,
        bounds=problem.bounds,
        workspace_mb=workspace_mb,
    )


def _rerank(
    problem: Problem, anchor: Int64[Tensor, " t"], column: Int64[Tensor, " t"]
) -> tuple[Int64[Tensor, "n k"], Float32[Tensor, "n k"]]:
    """The k best of the surviving pairs, by the exact similarity; anchors ascend."""
    if problem.k <= _INSERTED:
        return _rerank_compiled(problem, anchor, column)
    ids, similarities = [], []
    for part in chunks(len(problem.anchors), _RERANKED):
        own, bounds = problem.anchors[part], part_of(problem.bounds, part)
        first, last = torch.searchsorted(anchor, torch.tensor([part.start, part.stop], device=anchor.device)).tolist()
        query, row = anchor[first:last] - part.start, column[first:last]
        value = exact_similarities(own.embeddings, problem.rows.embeddings, query, row, problem.metric)
        if bounds is not None:
            inside = inside_window(value, query, bounds)
            query, row, value = query[inside], row[inside], value[inside]
        best = best_of(query, problem.rows.ids[row], value, q=len(own), k=problem.k, farthest=problem.farthest)
        ids.append(best[0])
        similarities.append(best[1])
    return torch.cat(ids), torch.cat(similarities)


def _rerank_compiled(
    problem: Problem, anchor: Int64[Tensor, " t"], column: Int64[Tensor, " t"]
) -> tuple[Int64[Tensor, "n k"], Float32[Tensor, "n k"]]:
    """The same, anchor by anchor."""
    from legolas_metric.index.exact.passes import best_of_pairs

    n, own, rows = len(problem.anchors), problem.anchors.embeddings, problem.rows
    found = torch.empty(n, problem.k, dtype=torch.int64), own.new_empty(n, problem.k)
    first = torch.zeros(n + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(anchor, minlength=n), 0, out=first[1:])
    none = torch.empty(0, dtype=torch.float64)

    def work(part: slice) -> None:
        low, high = (none, none) if problem.bounds is None else (bound[part] for bound in problem.bounds)
        pairs = first[part.start : part.stop + 1]
        best_of_pairs(
            *arrays(own[part], rows.embeddings, rows.ids, pairs, column, low, high),
            -1 if problem.farthest else 1,
            METRICS.index(problem.metric),
            *arrays(found[0][part], found[1][part]),
        )

    if n <= _RERANKED:  # threads would cost more
        work(slice(0, n))
    else:
        in_threads(work, chunks(n, _RERANKED // 4))
    return found
