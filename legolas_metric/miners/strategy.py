"""A miner's rules as a record, and the one way in which they choose triplets from a pool.

Letters: q anchors, p pairs of anchor and positive, k negatives of a pair, t triplets.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.checks import Metric, check_at_least, check_choice
from legolas_metric.index.protocol import NO_ID
from legolas_metric.miners.pool import Pool, Window, pair_similarities
from legolas_metric.numerics import distance, similarity

Positive = Literal["random", "nearest", "farthest", "all"]
Negative = Literal["random", "nearest"]
OnEmpty = Literal["skip", "hardest", "raise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A positive rule, a negative rule and a window.

    Attributes:
        positive: which positive of the anchor, or all of them, a triplet each.
        negative: which negative.
        semi_hard: whether the negative must lie in the window d_ap < d_an < d_ap + margin.
        margin: in d; in s under "dot".
        per_anchor: negatives for each pair of anchor and positive.
        on_empty: what to do where no negative lies in the window.
    """

    positive: Positive
    negative: Negative
    semi_hard: bool
    margin: float
    per_anchor: int
    on_empty: OnEmpty

    def __post_init__(self) -> None:
        check_choice("positive", self.positive, get_args(Positive))
        check_choice("negative", self.negative, get_args(Negative))
        check_choice("on_empty", self.on_empty, get_args(OnEmpty))
        check_at_least("margin", self.margin, 0)
        check_at_least("per_anchor", self.per_anchor, 1)

    def window(self, s_ap: Float32[Tensor, " p"], metric: Metric) -> Window | None:
        """The similarities between which a pair's negative must lie, or None where any will do."""
        if not self.semi_hard:
            return None
        high = s_ap.double()
        return similarity(distance(high, metric) + self.margin, metric), high


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers in [0, 1) for each anchor, drawn at once so that the choice depends on no tiling."""

    positive: Float64[Tensor, " q"]
    negative: Float64[Tensor, "q k"]

    @classmethod
    def of(cls, q: int, k: int, generator: torch.Generator, device: torch.device) -> "Draws":
        """Draw for q anchors with k negatives each."""
        numbers = torch.rand(q, 1 + k, generator=generator, dtype=torch.float64).to(device)
        return cls(numbers[:, 0], numbers[:, 1:])

    def __getitem__(self, part: slice | Int64[Tensor, " m"]) -> "Draws":
        """The same for some of the anchors."""
        return Draws(self.positive[part], self.negative[part])


@dataclass(frozen=True, slots=True)
class Selection:
    """Chosen triplets: numbers of anchors and of rows in the pool; and how many pairs fell short."""

    anchor: Int64[Tensor, " t"]
    positive: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]
    s_ap: Float32[Tensor, " t"]
    s_an: Float32[Tensor, " t"]
    outside_window: int
    fallback: int


def select(pool: Pool, strategy: Strategy, draws: Draws) -> Selection:
    """Triplets of a pool's anchors, each of which has a positive and a negative."""
    anchor, positive, s_ap = _pairs(pool, strategy.positive, draws)
    negative, s_an = _negatives(pool, strategy, draws, anchor, s_ap)
    empty = negative[:, 0] == NO_ID
    outside = int(empty.sum())
    fallback = outside if strategy.on_empty == "hardest" else 0
    if fallback:
        negative[empty], s_an[empty] = pool.negatives(anchor[empty], strategy.per_anchor, None)
    pair, place = (negative != NO_ID).nonzero(as_tuple=True)
    return Selection(
        anchor[pair], positive[pair], negative[pair, place], s_ap[pair], s_an[pair, place], outside, fallback
    )


def _pairs(
    pool: Pool, rule: Positive, draws: Draws
) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"], Float32[Tensor, " p"]]:
    """Anchors, their positives, and the similarities; every anchor once, in order, unless all positives are asked."""
    anchor = torch.arange(len(pool.anchors), device=draws.positive.device)
    if rule in ("nearest", "farthest"):
        row, s_ap = pool.positives(1, farthest=rule == "farthest")
        return anchor, row[:, 0], s_ap[:, 0]
    if rule == "random":
        row = pool.classes.draw_positive(draws.positive)
    else:
        rows, filled = pool.classes.list_positives()
        anchor, row = filled.nonzero(as_tuple=True)[0], rows[filled]
    return anchor, row, pair_similarities(pool, anchor, row[:, None])[:, 0]


def _negatives(
    pool: Pool, strategy: Strategy, draws: Draws, anchor: Int64[Tensor, " p"], s_ap: Float32[Tensor, " p"]
) -> tuple[Int64[Tensor, "p k"], Float32[Tensor, "p k"]]:
    """The negatives of each pair, -1 past the last."""
    if strategy.negative == "random":
        row = pool.classes.draw_negatives(draws.negative)[anchor]
        return row, pair_similarities(pool, anchor, row)
    window = strategy.window(s_ap, pool.metric)
    each_once = strategy.positive != "all"
    if window is None:
        row, s_an = pool.negatives(None, strategy.per_anchor, None)
        return (row, s_an) if each_once else (row[anchor], s_an[anchor])
    return pool.negatives(None if each_once else anchor, strategy.per_anchor, window)
