"""A miner's rules as a record, and the random numbers that a call draws for them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.checks import Metric, check_at_least, check_choice
from legolas_metric.geometry import distance, similarity
from legolas_metric.miners.false_negatives import FalseNegativeGuard
from legolas_metric.miners.pool import Window

Positive = Literal["random", "nearest", "farthest", "all"]
Negative = Literal["random", "nearest", "distance_weighted"]
Reference = Literal["chosen", "nearest"]
OnEmpty = Literal["skip", "hardest", "raise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A positive rule, a negative rule and a window.

    Attributes:
        positive: which positive of the anchor, or all of them, a triplet each.
        negative: which negative.
        semi_hard: whether the negative must lie in the window d_ap < d_an < d_ap + margin.
        reference: the positive whose distance is d_ap: the chosen one, or the anchor's nearest.
        margin: in d; in s under "dot".
        cutoffs: for "distance_weighted", the least d that weighs more, and the d from which negatives weigh nothing.
        per_anchor: negatives for each pair of anchor and positive.
        ranks: (first, last), counted from 1: take the negatives at random from these ranks; None takes the nearest.
        mix: share of the negatives that are drawn at random instead.
        guard: rejects probable false negatives.
        on_empty: what to do where no negative lies in the window.
        max_staleness: in steps; an older bank is refused.
    """

    positive: Positive
    negative: Negative
    semi_hard: bool = False
    reference: Reference = "chosen"
    margin: float = 0.2
    cutoffs: tuple[float, float] = (0.5, 1.4)
    per_anchor: int = 1
    ranks: tuple[int, int] | None = None
    mix: float = 0.0
    guard: FalseNegativeGuard | None = None
    on_empty: OnEmpty = "skip"
    max_staleness: int | None = None

    def __post_init__(self) -> None:
        check_choice("positive", self.positive, get_args(Positive))
        check_choice("negative", self.negative, get_args(Negative))
        check_choice("reference", self.reference, get_args(Reference))
        check_choice("on_empty", self.on_empty, get_args(OnEmpty))
        check_at_least("margin", self.margin, 0)
        check_at_least("per_anchor", self.per_anchor, 1)
        check_at_least("max_staleness", self.max_staleness or 0, 0)
        if not 0 <= self.mix <= 1:
            raise ValueError(f"mix must lie between 0 and 1, got {self.mix}")
        if self.ranks is not None and not (
            self.ranks[0] >= 1 and self.last_rank - self.ranks[0] + 1 >= self.per_anchor
        ):
            raise ValueError(
                f"ranks must be (first, last) with 1 <= first and at least per_anchor={self.per_anchor} ranks, "
                f"got {self.ranks}"
            )
        if not 0 < self.cutoffs[0] < self.cutoffs[1]:
            raise ValueError(f"cutoffs must be (least d, largest d) with 0 < least < largest, got {self.cutoffs}")

    @property
    def last_rank(self) -> int:
        """The last rank that may be taken."""
        return self.per_anchor if self.ranks is None else self.ranks[1]

    @property
    def is_random(self) -> bool:
        """Whether any choice is left to chance."""
        return self.positive == "random" or self.negative != "nearest" or self.ranks is not None or self.mix > 0

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to it but the nearest or farthest positive and the nearest negative."""
        rest = self.per_anchor == 1 and self.guard is None and self.on_empty == "skip" and self.reference == "chosen"
        return rest and not self.is_random and self.positive != "all"

    def window(self, s_ap: Float32[Tensor, " p"], metric: Metric) -> Window | None:
        """The similarities between which a pair's negative must lie, or None where any will do."""
        if not self.semi_hard:
            return None
        high = s_ap.double()
        if self.margin == math.inf:
            return torch.full_like(high, -torch.inf), high
        return similarity(distance(high, metric) + self.margin, metric), high


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers in [0, 1) for each anchor, drawn at once so that the choice depends on no tiling.

    Attributes:
        positive: [q], of the positive.
        negative: [q, k], of random negatives, or of the weighted ones.
        rank: [q, k], of the ranks.
        mixed: [q, k], of whether a negative is replaced by a random one.
    """

    positive: Float64[Tensor, " q"]
    negative: Float64[Tensor, "q k"]
    rank: Float64[Tensor, "q k"]
    mixed: Float64[Tensor, "q k"]

    @classmethod
    def of(cls, q: int, k: int, seed: Sequence[int], device: torch.device) -> "Draws":
        """Draw for q anchors with k negatives each."""
        (state,) = np.random.SeedSequence(seed).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state))
        numbers = torch.rand(q, 1 + 3 * k, generator=generator, dtype=torch.float64).to(device)
        return cls(numbers[:, 0], *numbers[:, 1:].split(k, 1))

    def __getitem__(self, part: slice | Int64[Tensor, " m"]) -> "Draws":
        """The same for some of the anchors."""
        return Draws(self.positive[part], self.negative[part], self.rank[part], self.mixed[part])


NO_DRAWS = Draws(torch.empty(0, dtype=torch.float64), *[torch.empty(0, 0, dtype=torch.float64)] * 3)
"""In place of draws that no rule will use."""
