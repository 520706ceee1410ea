"""What a spectrum says: how many directions the rows fill, and how evenly.

Everything here takes the eigenvalues of a covariance (lambda, not negative) and is free of their scale.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

_EPS = torch.finfo(torch.float64).eps


def noise_floor(d: int) -> float:
    """What is not more than this, of means over squares of unit rows, is rounding noise of float64."""
    return d * _EPS


def eigenvalues(matrices: Float64[Tensor, "*c d d"], rank: int, floor: float) -> Float64[Tensor, "*c r"]:
    """The `rank` largest eigenvalues of symmetric positive matrices, descending; those up to the floor are set to 0.

    With `floor=noise_floor(d)` and means over unit rows, a direction whose standard deviation is under about 2e-7
    (d = 128) counts as empty.
    """
    values = torch.linalg.eigvalsh(matrices).flip(-1)[..., :rank]
    return torch.where(values > floor, values, 0.0)


def effective_rank(eigenvalues: Float64[Tensor, " r"]) -> float:
    """Exp of the entropy of the singular values: exp(-sum p log p), p = sigma / sum sigma, sigma = sqrt(lambda).

    Between 1 and the rank. Rows without any spread have no spectrum; they count as 1, the least there is. A single row
    has no covariance, and NaN here and in the other measures.

    Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    return _perplexity(eigenvalues.sqrt())


def spectral_rank(eigenvalues: Float64[Tensor, " r"]) -> float:
    """`effective_rank` with p = lambda / sum lambda, as LiDAR (Thilak et al., 2024) defines it."""
    return _perplexity(eigenvalues)


def top_share(eigenvalues: Float64[Tensor, " r"]) -> float:
    """lambda_1 / sum lambda: 1 where all rows lie on one line (or have no spread at all)."""
    total = float(eigenvalues.sum())
    if not len(eigenvalues):
        return math.nan
    return float(eigenvalues[0]) / total if total > 0 else 1.0


def participation_ratio(eigenvalues: Float64[Tensor, " r"]) -> float:
    """(sum lambda)^2 / sum lambda^2: between 1 and the rank; 1 where there is no spread at all."""
    if not len(eigenvalues):
        return math.nan
    total = float(eigenvalues.sum())
    return total**2 / float(eigenvalues.square().sum()) if total > 0 else 1.0


def _perplexity(weights: Float64[Tensor, " r"]) -> float:
    if not len(weights):
        return math.nan
    total = weights.sum()
    if not float(total) > 0:
        return 1.0
    p = weights / total
    return math.exp(-float(torch.special.xlogy(p, p).sum()))


def decay(eigenvalues: Float64[Tensor, " r"]) -> tuple[float, tuple[int, int]] | None:
    """alpha of lambda_j ~ j^-alpha, by least squares of log lambda on log j.

    Fitted from the 20th part of the spectrum that is not empty to its half, where it is not bent by the few largest or
    by its end (whole, where it holds fewer than 20 values).

    Returns:
        (alpha, (first, last)): the exponent, and the range of j (from 1, both ends included) that was fitted; None
        for fewer than three directions.

    Source: Stringer et al., Nature 2019; Agrawal et al., "alpha-ReQ", NeurIPS 2022.
    """
    filled = int((eigenvalues > 0).sum())
    if filled < 3:
        return None
    first, last = (1, filled) if filled < 20 else (filled // 20 + 1, filled // 2)
    x = torch.arange(first, last + 1, dtype=torch.float64).log()
    y = eigenvalues[first - 1 : last].log().cpu()
    x, y = x - x.mean(), y - y.mean()
    return -float((x @ y) / (x @ x)), (first, last)
