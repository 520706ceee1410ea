"""A miner's rules as a record, and the random numbers that a call draws for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import check_at_least, check_choice, check_number, check_whole
from legolas_metric.geometry import chunks
from legolas_metric.miners.by_label import Part
from legolas_metric.miners.false_negatives import FalseNegativeGuard

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
        check_number("mix", self.mix, least=0.0, most=1.0)
        check_whole("per_anchor", self.per_anchor, 1)
        if self.guard is not None and not isinstance(self.guard, FalseNegativeGuard):
            raise TypeError(f"guard must be a FalseNegativeGuard or None, got {self.guard!r}")
        if self.max_staleness is not None:
            check_whole("max_staleness", self.max_staleness, 0)
        if self.ranks is not None:
            self._check_ranks(self.ranks)
        for name, value in zip(("cutoff", "nonzero_loss_cutoff"), self.cutoffs):
            check_number(name, value, above=0.0)
        if not 0 < self.cutoffs[0] < self.cutoffs[1]:
            raise ValueError(f"cutoffs must be (least d, largest d) with 0 < least < largest, got {self.cutoffs}")

    def _check_ranks(self, ranks: object) -> None:
        if not isinstance(ranks, tuple | list) or len(ranks) != 2:
            raise TypeError(f"ranks must be (first, last), two whole numbers, got {ranks!r}")
        first, last = (check_whole("ranks", rank, 1) for rank in ranks)
        if last - first + 1 < self.per_anchor:
            raise ValueError(
                f"ranks must be (first, last) with 1 <= first and at least per_anchor={self.per_anchor} ranks, "
                f"got {ranks}"
            )

    @property
    def last_rank(self) -> int:
        """The last rank that may be taken."""
        return self.per_anchor if self.ranks is None else self.ranks[1]

    @property
    def depth(self) -> int:
        """Candidates that a search must give for each pair."""
        return max(self.last_rank, 0 if self.guard is None else self.guard.depth)

    @property
    def is_random(self) -> bool:
        """Whether any choice is left to chance."""
        return self.positive == "random" or self.negative != "nearest" or self.ranks is not None or self.mix > 0


class Draws:
    """Random numbers in [0, 1) for one anchor or pair after the other, so that the choice depends on no tiling.

    Args:
        seed: the miner's, and the number of the call.
        k: negatives for each.
        device: where they are used.
    """

    def __init__(self, seed: Sequence[int], k: int, device: torch.device) -> None:
        (state,) = np.random.SeedSequence(seed).generate_state(1, np.uint64)
        self._generator = torch.Generator().manual_seed(int(state))
        self._k = k
        self._device = device

    def skip(self, count: int) -> None:
        """Leave out the numbers of some anchors or pairs: those that another process mines."""
        for part in chunks(count, rows_for(BLOCK, 8 * (1 + 3 * self._k))):
            self.take(part.stop - part.start)

    def take(self, count: int) -> "Drawn":
        """The next numbers, for some anchors or pairs."""
        k = self._k
        numbers = torch.rand(count, 1 + 3 * k, generator=self._generator, dtype=torch.float64).to(self._device)
        return Drawn(numbers[:, 0], *numbers[:, 1:].split(k, 1))


@dataclass(frozen=True, slots=True)
class Drawn:
    """Random numbers of some anchors, or of some pairs of anchor and positive.

    Attributes:
        positive: [m], of the positive.
        negative: [m, k], of random negatives, or of the weighted ones.
        rank: [m, k], of the ranks.
        mixed: [m, k], of whether a negative is replaced by a random one.
    """

    positive: Float64[Tensor, " m"]
    negative: Float64[Tensor, "m k"]
    rank: Float64[Tensor, "m k"]
    mixed: Float64[Tensor, "m k"]

    def __getitem__(self, part: Part) -> "Drawn":
        """The same for some of them."""
        return Drawn(self.positive[part], self.negative[part], self.rank[part], self.mixed[part])
