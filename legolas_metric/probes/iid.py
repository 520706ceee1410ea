"""What iid rows, uniform on the unit sphere, give at the same n and d: the baseline of every measure.

The spectrum follows the Marchenko-Pastur law. Its one parameter, the relative variance c of the eigenvalues, is not
taken from the limit d/n but from the exact second moment of the spectrum at this n and d, which for rows on a sphere
needs only E (x.y)^2 = 1/d. So small n and small d (a circle, three rows) come out right too; see the tests.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

_GRID = 4096
# Where the largest of r eigenvalues lies: quantile 1 - (1 - a) / (r + 1 - 2a), with a chosen so that for large r it is
# the mean of the Tracy-Widom law, 1.2065 r^(-2/3) inside the edge.
_TAIL = 1.2065**1.5 / (1.5 * math.pi)


def iid_eigenvalues(n: int, d: int, *, centred: bool) -> Float64[Tensor, " r"]:
    """Expected eigenvalues of the covariance (or of the second moment) of n iid unit rows, descending.

    Formula: r = min(n - 1, d) (centred) or min(n, d) of them, at quantiles of the Marchenko-Pastur law with relative
    variance c = r sum E lambda^2 / (sum E lambda)^2 - 1, scaled to E sum lambda = 1 - 1/n (or 1).

    Source: Marchenko and Pastur 1967; Johnstone 2001 for the largest.
    """
    rank = min(n - 1, d) if centred else min(n, d)
    if rank == 0:
        return torch.zeros(0, dtype=torch.float64)
    if centred:
        total, second = 1 - 1 / n, ((n - 1) + (n - 1) * (1 + (n - 1) ** 2) / (n * d)) / n**2
    else:
        total, second = 1.0, 1 / n + (1 - 1 / n) / d
    c = min(max(rank * second / total**2 - 1, 0.0), 1.0)
    values = _marchenko_pastur(rank, c)
    return values * (total / values.sum())


def _marchenko_pastur(rank: int, c: float) -> Float64[Tensor, " r"]:
    """Quantiles, descending, of the law with mean 1, variance c and support (1 -+ sqrt c)^2.

    With x = 1 + c - 2 sqrt(c) cos t the law is (2 / pi) sin^2 t / x dt on (0, pi): smooth, so a grid integrates it.
    """
    t = torch.linspace(0, math.pi, _GRID + 1, dtype=torch.float64)
    middle = (t[1:] + t[:-1]) / 2
    x = 1 + c - 2 * math.sqrt(c) * middle.cos()
    below = (middle.sin().square() / x).cumsum(0)
    below = torch.cat([below.new_zeros(1), below / below[-1]])
    step = 1 / (rank + 2 * _TAIL - 1)
    wanted = 1 - step * (_TAIL + torch.arange(rank, dtype=torch.float64))
    right = torch.searchsorted(below, wanted).clamp(1, _GRID)
    share = (wanted - below[right - 1]) / (below[right] - below[right - 1])
    angle = t[right - 1] + share * (t[right] - t[right - 1])
    return 1 + c - 2 * math.sqrt(c) * angle.cos()
