"""One search: screen, re-rank what survives, and find otherwise what did not fit.

Letters: n anchors, m columns, k neighbours, t pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.budgets import WORKSPACE, rows_for
from legolas_metric.geometry import product
from legolas_metric.index.brute_force import scan
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
from legolas_metric.index.exact.comparing import best_compiled
from legolas_metric.index.exact.job import Closer, Job, Screened
from legolas_metric.index.exact.precision import int16_speed
from legolas_metric.index.exact.processor import sweep, tile_size
from legolas_metric.index.exact.seeds import seeded_floors
from legolas_metric.index.exact.table import Frame, Heads, Table, choose_frame, in_frame, make_table, with_steps
from legolas_metric.index.exact.window import ceiling_of, floors_of
from legolas_metric.index.request import Request

_SAMPLE = 128  # anchors that are tried first, to see whether low precision can separate the rows
_MANY = 64  # of how many columns one may be decided for an anchor before float32 is tried
_FEWEST_SAMPLED = 4096  # anchors beyond which that is worth a pass
_FEWEST_STEPS = 2**12  # of int16, for its bound to be worth a product
_ASKED, _TRIED = 64, 2048  # anchors and columns from which it is read whether a few axes are enough
_CROWDED = 0.25  # share of them that may overflow


@dataclass(frozen=True, slots=True)
class Problem:
    """A search with its rows in the order in which they are screened.

    Attributes:
        asked: the search; its queries are the anchors.
        low, high: [n], the forbidden band of columns of each anchor.
        self_column: [n], one more forbidden column, -1 for none.
        symmetric: whether the anchors are the first of the rows.
    """

    asked: Request
    low: Int64[Tensor, " n"]
    high: Int64[Tensor, " n"]
    self_column: Int64[Tensor, " n"] | None
    symmetric: bool

    @property
    def sides(self) -> list[Float32[Tensor, "_ d"]]:
        """The anchors and the rows, or the one table that holds both."""
        return [self.asked.own.embeddings, self.asked.rows.embeddings][self.symmetric :]

    def part(self, anchors: Int64[Tensor, " m"]) -> "Problem":
        """The same search for some of the anchors."""
        own = None if self.self_column is None else self.self_column[anchors]
        return Problem(self.asked.part(anchors), self.low[anchors], self.high[anchors], own, symmetric=False)


@dataclass(frozen=True, slots=True)
class Solution:
    """Answers in the order of the problem's anchors, and what they took."""

    ids: Int64[Tensor, "n k"]
    similarities: Float32[Tensor, "n k"]
    precision: str
    details: Mapping[str, float]


def solve(problem: Problem, dtype: torch.dtype, workspace_mb: int, *, heads: bool) -> Solution:
    """The k best columns of each anchor, exactly.

    Args:
        problem: what to find.
        dtype: of the screening; a window or a bank that it cannot separate is screened in float32 instead.
        workspace_mb: for the plain scan of what overflows twice, in MiB.
        heads: whether rows may be screened by a few principal axes, in int16, where that pays.
    """
    tables = problem.sides
    frame = choose_frame(tables, problem.asked.metric, farthest=problem.asked.farthest)
    along = _along_axes(problem, frame) if heads else None
    if along is not None:
        screened, m = along
        return _settled(problem, screened, frame, torch.int16, workspace_mb, {"axes": float(m)})
    if dtype == torch.int16:
        frame = with_steps(frame, tables)
        if frame.steps < _FEWEST_STEPS:  # the terms are much larger than the products
            dtype = torch.float32
    chosen = _separating(problem, frame, dtype)
    if chosen is not None:
        dtype, columns = chosen
        return _settled(problem, _screen(problem, frame, columns, dtype), frame, dtype, workspace_mb, {})
    none = torch.empty(0, dtype=torch.int64)
    everyone = torch.ones(len(problem.low), dtype=torch.bool)
    nothing = Screened(none, none, everyone, everyone.float(), 0, 0, 0, 0)
    return _settled(problem, nothing, frame, torch.float32, workspace_mb, {})


def _separating(problem: Problem, frame: Frame, dtype: torch.dtype) -> tuple[torch.dtype, Table] | None:
    """A dtype that separates the rows, by a sample of the anchors, and the table in it; None where float32 doesn't.

    float32 is tried where many candidates have to be decided: of ties it leaves as many.
    """
    rows, n = problem.asked.rows.embeddings, len(problem.low)
    columns = make_table(rows, frame, dtype)
    if n <= _FEWEST_SAMPLED:
        return dtype, columns
    part = problem.part(spread_places(n, _SAMPLE))
    tried = _screen(part, frame, columns, dtype)
    if dtype != torch.float32 and tried.decided > _SAMPLE * len(rows) / _MANY:
        sharper = make_table(rows, frame, torch.float32)
        again = _screen(part, frame, sharper, torch.float32)
        if again.decided < tried.decided / 2:
            dtype, columns, tried = torch.float32, sharper, again
    return None if float(tried.overflowed.float().mean()) > _CROWDED else (dtype, columns)


def _settled(
    problem: Problem,
    found: Screened,
    frame: Frame,
    dtype: torch.dtype,
    workspace_mb: int,
    details: Mapping[str, float],
) -> Solution:
    """The answers among what is left after a pass, and what was counted."""
    n = max(1, len(problem.low))
    ids, similarities = _answers(problem, found, frame, dtype, workspace_mb)
    counts = {
        "tiles": float(found.tiles),
        "groups_per_row": found.groups / n,
        "scores_per_row": found.scores / n,
        "reranked_per_row": len(found.anchor) / n,
        "rescanned": float(found.overflowed.sum()),
    }
    return Solution(ids, similarities, str(dtype).removeprefix("torch."), {**counts, **details})


def _along_axes(problem: Problem, frame: Frame) -> tuple[Screened, int] | None:
    """Sweep over the rows' heads, along as many principal axes as is fastest by a sample of the search; and how many.

    None where the whole rows are as fast, or where the terms are too large for int16.
    """
    rows, n, sides = problem.asked.rows.embeddings, len(problem.low), problem.sides
    if not may_pay(rows, frame, n):
        return None
    axes = principal_axes(rows, frame)
    longer = [heads_of(side, frame, axes) for side in sides]
    pairs = n * len(rows) // (2 if problem.symmetric else 1)
    m = fewer_axes(longer, _sample(problem, frame, longer), frame, pairs, rows.shape[1], int16_speed())
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
        missed = certify(rounded[0], rounded[-1], frame, tile).missed()
        closer.append(Closer(rounded[0], rounded[-1], missed))
    tables = [make_table(side, frame, torch.int16, head) for side, head in zip(sides, heads)]
    floor = None
    if problem.symmetric:
        ceiling = ceiling_of(problem.asked.bounds, frame)
        floor = seeded_floors(longer[0], closer[1], frame.sign, problem.low, problem.high, ceiling, problem.asked.k)
    return _swept(problem, frame, tables[0], tables[-1], tile, floor, (closer[0], closer[1])), m


def _sample(problem: Problem, frame: Frame, heads: list[Heads]) -> Sample:
    """Some anchors, with about the score of their k-th best, which is chosen by the heads."""
    rows = problem.asked.rows.embeddings
    anchors = spread_places(len(problem.low), min(_ASKED, rows_for(WORKSPACE, 16 * len(rows))))
    part, own, other = problem.part(anchors), heads[0].part_of(anchors), heads[-1]
    column = torch.arange(len(rows))
    barred = (column >= part.low[:, None]) & (column < part.high[:, None])
    if part.self_column is not None:
        barred |= column == part.self_column[:, None]
    floor, ceiling = floors_of(part.asked.bounds, frame, own.tail), ceiling_of(part.asked.bounds, frame)
    most = torch.full_like(floor, torch.inf) if ceiling is None else ceiling.possible
    score = (product(own.part, other.part) + own.term[:, None] + other.term) * frame.sign
    found = score.masked_fill_(barred | (score >= most[:, None]), -torch.inf).topk(min(part.asked.k, len(rows)), 1)
    kth, place = found.values[:, -1], found.indices[:, -1]
    (x, a_x), (y, a_y) = (in_frame(side, frame) for side in (part.asked.own.embeddings, rows[place]))
    exact = ((x * y).sum(1) + a_x + a_y).float() * frame.sign
    some = spread_places(len(rows), _TRIED)
    return Sample(torch.where(kth.isfinite(), floor.maximum(exact), floor), most, ~barred[:, some], anchors, some)


def _screen(
    problem: Problem,
    frame: Frame,
    columns: Table,
    dtype: torch.dtype,
    floor: Float32[Tensor, " n"] | None = None,
) -> Screened:
    """Sweep, from the floors that are known (by default those of the window)."""
    rows = problem.asked.rows.embeddings
    tile = tile_size(len(rows), rows.shape[1] * dtype.itemsize)
    anchors = columns if problem.symmetric else make_table(problem.asked.own.embeddings, frame, dtype)
    return _swept(problem, frame, anchors, columns, tile, floor)


def _swept(
    problem: Problem,
    frame: Frame,
    anchors: Table,
    columns: Table,
    tile: int,
    floor: Float32[Tensor, " n"] | None,
    closer: tuple[Closer, Closer] | None = None,
) -> Screened:
    n = len(problem.low)
    certificate = certify(anchors, columns, frame, tile)
    floors = floors_of(problem.asked.bounds, frame, anchors.norm[:n])
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
        ceiling=ceiling_of(problem.asked.bounds, frame),
        asked=problem.asked,
        frame=frame,
        tile=tile,
        symmetric=problem.symmetric,
        closer=closer,
    )
    return sweep(job, floors)


def _answers(
    problem: Problem, found: Screened, frame: Frame, dtype: torch.dtype, workspace_mb: int
) -> tuple[Int64[Tensor, "n k"], Float32[Tensor, "n k"]]:
    """The k best of what is left after a pass, by the exact similarity.

    Anchors with more candidates than slots are screened again in float32, and at last compared with every row.
    """
    ids, similarities = best_compiled(problem.asked, found.anchor, found.column)
    again = found.overflowed.nonzero().flatten()
    if len(again):
        rest = problem.part(again)
        if dtype == torch.float32:
            ids[again], similarities[again] = scan(rest.asked, workspace_mb=workspace_mb, best=best_compiled)
        else:
            columns = make_table(problem.asked.rows.embeddings, frame, torch.float32)
            sharper = _screen(rest, frame, columns, torch.float32, found.reached[again])
            ids[again], similarities[again] = _answers(rest, sharper, frame, torch.float32, workspace_mb)
    return ids, similarities
