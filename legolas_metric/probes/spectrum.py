"""What a spectrum says: how many directions the rows fill, and how evenly.

Everything here takes the eigenvalues of a covariance (lambda, not negative) and is free of their scale.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

_EPS = torch.finfo(torch.float64).eps


def eigenvalues(matrix: Float64[Tensor, "d d"], rank: int, scale: float) -> Float64[Tensor, " r"]:
    """The `rank` largest eigenvalues of a symmetric positive matrix, descending, with rounding noise set to 0.

    Args:
        matrix: [d, d].
        rank: what the rank cannot exceed, such as min(n - 1, d).
        scale: trace of the sums that the matrix was formed from: anything under d * eps * scale is noise, so a
            direction whose standard deviation is under about 2e-7 of the rows' length (d = 128) counts as empty.
    """
    values = torch.linalg.eigvalsh(matrix).flip(0)[:rank]
    return torch.where(values > len(matrix) * _EPS * scale, values, 0.0)


def effective_rank(eigenvalues: Float64[Tensor, " r"]) -> float:
    """Exp of the entropy of the singular values: exp(-sum p log p), p = sigma / sum sigma, sigma = sqrt(lambda).

    Between 1 and the rank. Rows without any spread have no spectrum; they count as 1, the least there is.

    Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    return _perplexity(eigenvalues.sqrt())


def spectral_rank(eigenvalues: Float64[Tensor, " r"]) -> float:
    """`effective_rank` with p = lambda / sum lambda, as LiDAR (Thilak et al., 2024) defines it."""
    return _perplexity(eigenvalues)


def top_share(eigenvalues: Float64[Tensor, " r"]) -> float:
    """lambda_1 / sum lambda: 1 where all rows lie on one line (or have no spread at all)."""
    total = float(eigenvalues.sum())
    return float(eigenvalues[0]) / total if total > 0 else 1.0


def participation_ratio(eigenvalues: Float64[Tensor, " r"]) -> float:
    """(sum lambda)^2 / sum lambda^2: between 1 and the rank; 1 where there is no spread at all."""
    total = float(eigenvalues.sum())
    return total**2 / float(eigenvalues.square().sum()) if total > 0 else 1.0


def _perplexity(weights: Float64[Tensor, " r"]) -> float:
    total = weights.sum()
    if not float(total) > 0:
        return 1.0
    p = weights / total
    return math.exp(-float(torch.special.xlogy(p, p).sum()))
