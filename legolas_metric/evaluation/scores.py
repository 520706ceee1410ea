"""The similarity by which rankings and verification are decided, by blocks, and what counts as a tie.

It is `geometry.exact_similarity`, in float64: under cosine <x, y> + (1 - |x|^2) / 2 + (1 - |y|^2) / 2, one product of
rows that are two columns wider, which keeps the differences of a narrow cone.

Letters: q queries, n and g gallery rows, w values of a query, e = d + 2 under cosine, d otherwise.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import Metric
from legolas_metric.geometry import chunks, similarity_matrix, tie_distance

_MOST_ROWS = 256
_ROUNDING = 2.0**-50
"""What the rounding of a float64 product comes to at most, for each sqrt(d) |x| |y|: eight times its usual size."""
Counts = tuple[Int64[Tensor, "q w"], Int64[Tensor, "q w"]]


@runtime_checkable
class Scorer(Protocol):
    """What scores pairs of rows in the place of a metric; larger is likelier of one class."""

    def transform(self, rows: Tensor, /, ids: Tensor | None = None) -> Tensor:
        """What it compares, of prepared rows [n, d] with their ids [n]: float64 [n, e]."""
        ...

    def compare(self, x: Tensor, y: Tensor) -> Tensor:
        """The scores of transformed rows [q, e] with others [g, e]: float64 [q, g]."""
        ...

    def check(self, labels: Tensor, names: tuple[str, ...] | None) -> None:
        """Refuse to score these people, before the work."""
        ...


def widened(rows: Float32[Tensor, "n d"], metric: Metric) -> Float64[Tensor, "n e"]:
    """Gallery rows as `score_block` takes them. O(n e) in float64."""
    if metric != "cosine":
        return rows.double()
    wide = torch.ones(len(rows), rows.shape[1] + 2, dtype=torch.float64, device=rows.device)
    wide[:, :-2] = rows
    wide[:, -1] = (1 - wide[:, :-2].square().sum(1)) / 2
    return wide


def turned(wide: Float64[Tensor, "q e"], metric: Metric) -> Float64[Tensor, "q e"]:
    """Widened rows as those that ask: what a row adds to the product meets the other's 1."""
    if metric != "cosine":
        return wide
    return torch.cat([wide[:, :-2], wide[:, -1:], wide[:, -2:-1]], 1)


def score_block(asking: Float64[Tensor, "q e"], wide: Float64[Tensor, "g e"], metric: Metric) -> Float64[Tensor, "q g"]:
    """The deciding similarities of turned rows and widened rows, but for the last digits (`Ties`)."""
    return similarity_matrix(asking, wide, metric)


def score_pairs(x: Float32[Tensor, "t d"], y: Float32[Tensor, "t d"], metric: Metric) -> Float64[Tensor, " t"]:
    """`score_block` of single pairs of prepared rows: alike to its last digits, which `exact_similarity` rounds off."""
    if metric == "dot":
        return (x.double() * y.double()).sum(-1)
    squared = (x.double() - y.double()).square().sum(-1)
    return -squared.sqrt() if metric == "euclidean" else 1 - squared / 2


def within_range(scores: Float64[Tensor, "*b"], metric: Metric) -> Float64[Tensor, "*b"]:
    """Without what rounding adds beyond [-1, 1] under cosine; -inf, for no row at all, stays."""
    return scores.clamp(-1, 1).masked_fill(scores == -torch.inf, -torch.inf) if metric == "cosine" else scores


@dataclass(frozen=True, slots=True)
class Ties:
    """Which similarities are one and the same: those that only rounding tells apart.

    Attributes:
        absolute, relative: similarities s and t are tied where |s - t| <= absolute + relative |s|.
        top: from here on rows have one direction (`geometry.tie_distance`), and all are tied.
    """

    absolute: float
    relative: float
    top: float

    @classmethod
    def of(cls, rows: Float32[Tensor, "n d"], metric: Metric) -> "Ties":
        """The rule for prepared rows: far below what float32 rows themselves can tell, above the noise of products."""
        noise = math.sqrt(rows.shape[1]) * _ROUNDING
        if metric == "cosine":
            return cls(noise, 0.0, 1 - tie_distance(torch.float32) ** 2 / 2)
        if metric == "euclidean":  # worked out pair by pair
            return cls(0.0, 2.0**-48, math.inf)
        usual = float(torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).median())
        return cls(noise * usual**2, 2.0**-44, math.inf)

    def bounds(self, values: Float64[Tensor, "*b"]) -> tuple[Float64[Tensor, "*b"], Float64[Tensor, "*b"]]:
        """Between which similarities (both included) lie those that are tied with each value; -inf has no ties."""
        slack = self.absolute + self.relative * values.abs().nan_to_num(posinf=0.0)
        top = values >= self.top
        return (values - slack).masked_fill(top, self.top), (values + slack).masked_fill(top, torch.inf)


def row_blocks(queries: int, gallery: int) -> Iterator[slice]:
    """Blocks of queries whose similarities to the whole gallery, and a sorted copy, fit into the budget of a block."""
    return chunks(queries, min(_MOST_ROWS, rows_for(BLOCK, 16 * gallery)))


def count_ahead(scores: Float64[Tensor, "q n"], low: Float64[Tensor, "q w"], high: Float64[Tensor, "q w"]) -> Counts:
    """How many of a row's scores, in any order, lie above each of its intervals [low, high], and how many inside."""
    if scores.device.type != "cpu":
        return ahead_in_order(scores.sort(1).values, low, high)
    # NumPy's vectorised sort takes a fifth of the time of torch's.
    return ahead_in_order(torch.from_numpy(np.sort(scores.numpy(), axis=1)), low, high)


def ahead_in_order(
    ascending: Float64[Tensor, "q n"], low: Float64[Tensor, "q w"], high: Float64[Tensor, "q w"]
) -> Counts:
    """The same for rows in ascending order."""
    right = torch.searchsorted(ascending, high.contiguous(), right=True)
    left = torch.searchsorted(ascending, low.contiguous())
    return ascending.shape[1] - right, right - left
