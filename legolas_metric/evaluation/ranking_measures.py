"""Ranking measures as expected values over the random order of ties (McSherry & Najork 2008).

Legend: q queries, w places for positives (padded). A *level* is a set of gallery rows of one similarity. Of a positive
we know where its level lies in the ranking; a measure's expectation is a sum of one term for each positive:

    start    gallery rows ranked strictly before the level
    size     rows in the level
    before   positives ranked strictly before it
    tied     positives in it
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Places:
    """Where the positives of each query are ranked, best first; `valid` marks the places that hold a positive."""

    valid: Bool[Tensor, "q w"]
    start: Int64[Tensor, "q w"]
    size: Int64[Tensor, "q w"]
    before: Int64[Tensor, "q w"]
    tied: Int64[Tensor, "q w"]

    @property
    def positives(self) -> Int64[Tensor, " q"]:
        """R, positives of each query."""
        return self.valid.sum(1)

    def __getitem__(self, some: Bool[Tensor, " q"]) -> "Places":
        return Places(self.valid[some], self.start[some], self.size[some], self.before[some], self.tied[some])


def rank_at(
    start: Int64[Tensor, " q"], size: Int64[Tensor, " q"], tied: Int64[Tensor, " q"], k: int
) -> Float64[Tensor, " q"]:
    """Probability that the first k rows hold a positive.

    The level of the best positive, of which the arguments tell, gives k - start of its rows at random; none of them is
    a positive with probability C(size - tied, drawn) / C(size, drawn).
    """
    drawn = (k - start).clamp_min(0).minimum(size)
    miss = torch.ones_like(drawn, dtype=torch.float64)
    for i in range(int(drawn.max())):  # once, where nothing is tied
        left = (size - tied - i).clamp_min(0).double() / (size - i)
        miss = torch.where(i < drawn, miss * left, miss)
    return 1 - miss


def hits_at(found: Places, depth: Int64[Tensor, " q"]) -> Float64[Tensor, " q"]:
    """Expected number of positives among the first `depth` rows."""
    return _sum(found, _reached(found, depth) / found.size)


def average_precision(found: Places, depth: Int64[Tensor, " q"] | None = None) -> Float64[Tensor, " q"]:
    """Expected (1/R) sum over places i <= depth of P(i) rel(i); over the whole ranking where depth is None.

    With place i = start + j of a level, E[P(i) rel(i)] = (tied/size) (before + 1 + (j-1)(tied-1)/(size-1)) / i, and the
    sum over j is closed by harmonic numbers.
    """
    reached = found.size.double() if depth is None else _reached(found, depth)
    slope = (found.tied - 1).double() / (found.size - 1).clamp_min(1)
    terms = _cumulated(found, lambda place: 1 / place)
    spread = terms[found.start + reached.long()] - terms[found.start]
    total = slope * reached + (found.before + 1 - slope * (found.start + 1)) * spread
    return _sum(found, total / found.size) / found.positives


def discounted_gain(found: Places, depth: Int64[Tensor, " q"] | None = None) -> Float64[Tensor, " q"]:
    """Expected nDCG of the first `depth` places, or of all: gains 1, discounts 1 / log2(1 + place)."""
    terms = _cumulated(found, lambda place: 1 / torch.log2(1 + place))
    reached = found.size if depth is None else _reached(found, depth).long()
    gain = _sum(found, (terms[found.start + reached] - terms[found.start]) / found.size)
    return gain / terms[found.positives if depth is None else found.positives.minimum(depth)]


def reciprocal_place(found: Places) -> Float64[Tensor, " q"]:
    """Expected 1 / (place of the first positive), of which MRR is the mean."""
    start, size, tied = (x[:, 0] for x in (found.start, found.size, found.tied))
    inverse = 1 / (start + 1).double()
    loose = tied < size
    cases, which = torch.stack([start, size, tied], 1)[loose].unique(dim=0, return_inverse=True)
    inverse[loose] = inverse.new_tensor([_inverse_of_first(*case) for case in cases.tolist()])[which]
    return inverse


def _inverse_of_first(start: int, size: int, tied: int) -> float:
    """E[1 / (start + M)], M being the first of `tied` places drawn from `size`.

    P(M=1) = tied / size, and P(M=j+1) / P(M=j) = 1 - (tied - 1) / (size - j).
    """
    place = torch.arange(1, size - tied + 2, dtype=torch.float64)
    ratio = torch.cat([place.new_tensor([tied / size]), 1 - (tied - 1) / (size - place[:-1])])
    return float((ratio.cumprod(0) / (start + place)).sum())


def inverse_penalty(found: Places) -> Float64[Tensor, " q"]:
    """Expected R / (place of the last positive): the inverse negative penalty, of which mINP is the mean (Ye 2021)."""
    last = (found.positives - 1)[:, None]
    start, size, tied = (x.gather(1, last)[:, 0] for x in (found.start, found.size, found.tied))
    inverse = 1 / (start + size).double()
    loose = tied < size
    cases, which = torch.stack([start, size, tied], 1)[loose].unique(dim=0, return_inverse=True)
    expected = [_inverse_of_last(*case) for case in cases.tolist()]
    inverse[loose] = inverse.new_tensor(expected)[which]
    return found.positives * inverse


def _inverse_of_last(start: int, size: int, tied: int) -> float:
    """E[1 / (start + M)], M being the last of `tied` places drawn from `size`: P(M=j) = C(j-1, tied-1) / C(size, tied).

    From the end, P(M=j) / P(M=j+1) = (j + 1 - tied) / j.
    """
    place = torch.arange(size, tied - 1, -1, dtype=torch.float64)
    ratio = torch.cat([place.new_tensor([tied / size]), (place[1:] + 1 - tied) / place[1:]])
    return float((ratio.cumprod(0) / (start + place)).sum())


def _reached(found: Places, depth: Int64[Tensor, " q"]) -> Float64[Tensor, "q w"]:
    """How many rows of each level lie among the first `depth`."""
    return (depth[:, None] - found.start).clamp_min(0).minimum(found.size).double()


def _sum(found: Places, term: Float64[Tensor, "q w"]) -> Float64[Tensor, " q"]:
    return torch.where(found.valid, term, 0.0).sum(1)


def _cumulated(found: Places, term: Callable[[Tensor], Tensor]) -> Float64[Tensor, " m"]:
    """Sums of the first 0, 1, 2, ... terms, far enough for every place."""
    end = int((found.start + found.size).max())
    place = torch.arange(1, end + 1, dtype=torch.float64, device=found.start.device)
    return torch.cat([place.new_zeros(1), term(place).cumsum(0)])
