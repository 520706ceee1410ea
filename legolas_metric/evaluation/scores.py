"""Similarities by blocks: float64 products of the prepared float32 rows, rounded to float32, as they are reported."""

from collections.abc import Iterator

from jaxtyping import Float32, Float64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.numerics import chunks, similarity_matrix

_WORKSPACE_BYTES = 96 << 20
_BYTES_AN_ELEMENT = 24
"""A float64 block, its rounding, and a sorted copy with room to sort."""


def row_blocks(queries: int, gallery: int) -> Iterator[slice]:
    """Blocks of queries whose similarities to the whole gallery fit into the workspace."""
    return chunks(queries, max(1, _WORKSPACE_BYTES // (_BYTES_AN_ELEMENT * max(1, gallery))))


def score_block(x: Float64[Tensor, "q d"], y: Float64[Tensor, "n d"], metric: Metric) -> Float32[Tensor, "q n"]:
    """All similarities of float32 rows that were widened to float64.

    The float64 product errs by 1e-15, 1e7 times less than the rounding to float32 that follows: equal rows tie, and the
    block's size leaves no trace.
    """
    return similarity_matrix(x, y, metric).float()
