"""Exact answers from a search that knows no labels or windows: ask, re-score, ask for more where that is short.

Letters: q queries, k neighbours.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.index.top_k import recall_of
from legolas_metric.rows import NO_ID

_UNIT = 2.0**-24
_WIDER = 4  # times as many are asked for where a search is short

Fetched = tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"], Bool[Tensor, " q"]]
"""The k best admissible rows of some queries, their similarities, and which queries need no wider search."""


def widen(
    short: Int64[Tensor, " q"],
    fetch: Callable[[Int64[Tensor, " s"], int], Fetched],
    answer: tuple[Int64[Tensor, "n k"], Float32[Tensor, "n k"]],
    *,
    first: int,
    most: int,
    step: Callable[[int], int],
) -> int:
    """Ask for more and more rows for the queries that are short of k; their answers are written in place.

    Args:
        short: numbers of the queries.
        fetch: one search of some queries for so many rows.
        answer: ids and similarities of all queries.
        first: how many rows are asked for at first.
        most: how many there are.
        step: how many queries may ask for so many rows at once.

    Returns:
        Queries that the first search left short.
    """
    ids, values = answer
    widened, count = 0, min(first, most)
    while len(short):
        left = []
        for part in short.split(step(count)):
            ids[part], values[part], done = fetch(part, count)
            left.append(part[~done])
        if count == most:
            break
        short = torch.cat(left)
        widened = max(widened, len(short))
        count = min(most, _WIDER * count)
    return widened


def beats(worst: Float32[Tensor, " q"], edge: Float64[Tensor, " q"], *, farthest: bool) -> Bool[Tensor, " q"]:
    """Whether the last of the k best, which float32 rounded, is surely better than all that was not fetched.

    Args:
        worst: [q], reported similarity of the k-th.
        edge: [q], bound on the similarity of every row that was not fetched.
        farthest: the least similar rows are sought.
    """
    wide = worst.double()
    wide = wide + wide.abs() * (_UNIT if farthest else -_UNIT)
    return (wide < edge) if farthest else (wide > edge)


def audited(
    found: Int64[Tensor, "q k"], count: int, true: Callable[[Int64[Tensor, " s"]], Int64[Tensor, "s k"]]
) -> float:
    """The recall of an answer on `count` of its queries, drawn by a fixed seed; NaN where none are asked for.

    Args:
        found: [q, k], the answer's ids.
        count: of the queries.
        true: exact neighbours of some queries.
    """
    if count == 0:
        return math.nan
    sample = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[:count].to(found.device)
    return recall_of(found[sample], true(sample))


def no_answer(q: int, k: int, like: Float32[Tensor, "..."]) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]:
    """Ids and similarities of queries that have no neighbour yet."""
    ids = torch.full((q, k), NO_ID, dtype=torch.int64, device=like.device)
    return ids, torch.full((q, k), -torch.inf, dtype=torch.float32, device=like.device)
