"""Ranking measures as expected values over the random order of ties (McSherry & Najork 2008).

Legend: Q queries, W places for positives (padded). A *level* is a set of gallery rows of one similarity. Of each
positive we know where its level lies in the ranking; the expectation of a measure is a sum of one term for each:

    start    gallery rows ranked strictly before the level
    size     rows in the level
    before   positives ranked strictly before it
    tied     positives in it
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Places:
    """Where the positives of each query are ranked; `valid` marks the places that hold a positive, best first."""

    valid: Bool[Tensor, "q w"]
    start: Int64[Tensor, "q w"]
    size: Int64[Tensor, "q w"]
    before: Int64[Tensor, "q w"]
    tied: Int64[Tensor, "q w"]

    @property
    def positives(self) -> Int64[Tensor, " q"]:
        """R, positives of each query."""
        return self.valid.sum(1)


def places(positive: Float32[Tensor, "q w"], negative: Float32[Tensor, "q n"]) -> Places:
    """Rank positives among negatives.

    Args:
        positive: similarities, in any order, -inf where there is none.
        negative: similarities, each row *ascending*, -inf where there is none.
    """
    best = positive.sort(1, descending=True).values
    ascending = best.flip(1).contiguous()
    before, tied = _above(ascending, best)
    ahead, level = _above(negative, best)
    return Places(best > -torch.inf, before + ahead, tied + level, before, tied)


def _above(
    ascending: Float32[Tensor, "q n"], values: Float32[Tensor, "q w"]
) -> tuple[Int64[Tensor, "q w"], Int64[Tensor, "q w"]]:
    """How many of a row's entries are greater than each value, and how many equal it."""
    right = torch.searchsorted(ascending, values.contiguous(), right=True)
    left = torch.searchsorted(ascending, values.contiguous())
    return ascending.shape[1] - right, right - left


def rank_at(found: Places, k: int) -> Float64[Tensor, " q"]:
    """Probability that the first k hold a positive: the level of the best positive gives k - start of its rows."""
    start, size, tied = found.start[:, 0], found.size[:, 0], found.tied[:, 0]
    drawn = (k - start).clamp_min(0).minimum(size)
    miss = torch.ones_like(drawn, dtype=torch.float64)
    for i in range(int(drawn.max())):  # once, where nothing is tied
        left = (size - tied - i).clamp_min(0).double() / (size - i)
        miss = torch.where(i < drawn, miss * left, miss)
    return 1 - miss


def precision_at(found: Places, depth: Int64[Tensor, " q"]) -> Float64[Tensor, " q"]:
    """Expected share of positives among the first `depth` rows."""
    reached = _reached(found, depth)
    return _sum(found, reached / found.size) / depth


def average_precision(found: Places, depth: Int64[Tensor, " q"] | None = None) -> Float64[Tensor, " q"]:
    """Expected (1/R) sum over places i <= depth of P(i) rel(i); over the whole ranking where depth is None.

    With place i = start + j of a level, E[P(i) rel(i)] = (tied/size) (before + 1 + (j-1)(tied-1)/(size-1)) / i, and the
    sum over j is closed by harmonic numbers.
    """
    reached = found.size.double() if depth is None else _reached(found, depth)
    slope = (found.tied - 1).double() / (found.size - 1).clamp_min(1)
    harmonic = _harmonic(int((found.start + found.size).max()), found.start.device)
    spread = harmonic[found.start + reached.long()] - harmonic[found.start]
    total = slope * reached + (found.before + 1 - slope * (found.start + 1)) * spread
    return _sum(found, total / found.size) / found.positives


def _reached(found: Places, depth: Int64[Tensor, " q"]) -> Float64[Tensor, "q w"]:
    """How many rows of each level lie among the first `depth`."""
    return (depth[:, None] - found.start).clamp_min(0).minimum(found.size).double()


def _sum(found: Places, term: Float64[Tensor, "q w"]) -> Float64[Tensor, " q"]:
    return torch.where(found.valid, term, 0.0).sum(1)


def _harmonic(n: int, device: torch.device) -> Float64[Tensor, " m"]:
    """H_0 .. H_n."""
    terms = 1 / torch.arange(n + 1, dtype=torch.float64, device=device)
    terms[0] = 0.0
    return terms.cumsum(0)
