"""Rows and queries at sizes that FAISS's float32 holds, and how far its answers can then be from the truth.

Powers of two alter no order. Letters: q queries.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.rows import Rows

_UNIT = 2.0**-24
_NORMS = 2.0**-20  # above |<x, y> - (1 - |x - y|^2 / 2)| of rows that are unit to 2^-22
_TINY = 2.0**-120  # what flushed denormals can add up to, on rows of norm 1


def _powers(norms: Float64[Tensor, "*b"]) -> Float64[Tensor, "*b"]:
    """A power of two for each norm that brings it to (1/2, 1]; 1 for 0."""
    return torch.where(norms > 0, torch.exp2(-norms.log2().ceil()), 1.0)


def fitted_scale(rows: Rows, metric: Metric) -> float:
    """A power of two that brings the longest row to a norm of at most 1: FAISS squares in float32."""
    if metric == "cosine":
        return 1.0
    longest = torch.linalg.vector_norm(rows.embeddings, dim=1, dtype=torch.float64).max()
    return min(2.0**126, float(_powers(longest)))


def query_scales(own: Rows, scale: float, metric: Metric) -> Float64[Tensor, " q"]:
    """By how much queries are scaled: as the rows are, and under "dot" each to a norm of at most 1."""
    if metric == "dot":
        return _powers(torch.linalg.vector_norm(own.embeddings, dim=1, dtype=torch.float64))
    return torch.full((len(own),), scale, dtype=torch.float64, device=own.ids.device)


def bound_beyond(
    last: Float64[Tensor, " q"],
    own: Rows,
    rows: Rows,
    farthest: bool,
    metric: Metric,
    scales: tuple[Float64[Tensor, " q"], float],
) -> Float64[Tensor, " q"]:
    """A bound on the similarity of every row that was not fetched, given FAISS's last (rounded) values, and the scales
    of queries and rows.
    """
    factor, scale = scales
    norm = torch.linalg.vector_norm(own.embeddings, dim=1, dtype=torch.float64) * factor
    largest = torch.linalg.vector_norm(rows.embeddings, dim=1, dtype=torch.float64).max() * scale
    d = rows.embeddings.shape[1]
    if metric == "euclidean":
        squared = last - 4 * (d + 8) * _UNIT * (norm + largest).square() - _TINY
        return -squared.clamp_min(0).sqrt() * (1 - 2 * _UNIT) / scale
    error = 2 * (d + 8) * _UNIT * norm * largest + _TINY + (_NORMS if metric == "cosine" else 0)
    return (-(last + error) if farthest else last + error) / (factor * scale)
