"""How classes lie to one another, from sums by class: spreads, neural collapse, LiDAR; and the same for iid rows.

C classes of n_c rows, N labelled rows, D dimensions. mu_c is the mean of a class, mu the mean of the mu_c (the global
mean where classes are of equal size, as in the papers), S_w = (1/N) sum_i (x_i - mu_c)(x_i - mu_c)^T within,
S_b = (1/C) sum_c (mu_c - mu)(mu_c - mu)^T between classes.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from legolas_metric.probes.iid import iid_eigenvalues
from legolas_metric.probes.spectrum import eigenvalues, noise_floor, spectral_rank

_LIDAR_DELTA = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMeasures:
    """What the class sums tell; None where it takes more classes or more rows than there are.

    What is within classes is None where no class has two rows, and how their means lie to one another where there are
    but two classes: both would be perfect whatever the rows.

    Attributes:
        alignment: mean d^2 over all positive pairs (Wang and Isola, 2020, alpha = 2), in [0, 4].
        within_class_spread: tr S_w, mean squared distance of a row to its class mean.
        between_class_spread: tr S_b, mean squared distance of a class mean to the mean of the class means.
        class_share: share of the variance that the classes explain, less what chance explains:
            (eta - e) / (1 - e), eta = 1 - tr S_w / tr S_total, e = (C - 1) / (N - 1). 1: every class is one point;
            0: labels say nothing about where a row lies.
        lidar: exp(-sum p log p), p = eigenvalues of (S_w + 1e-4 I)^(-1/2) S_b (S_w + 1e-4 I)^(-1/2) over their sum
            (Thilak et al., 2024, with classes for views).
        nc1: tr(S_w S_b^+) / C (Papyan et al., 2020). 0 on the training rows is the optimum of SupCon, not an alarm.
        nc2_norms: standard deviation of |mu_c - mu| over its mean.
        nc2_cosines: standard deviation of the cosines between pairs of mu_c - mu. Both are 0 for a simplex, which needs
            C <= D + 1.
    """

    alignment: float | None = None
    within_class_spread: float | None = None
    between_class_spread: float | None = None
    class_share: float | None = None
    lidar: float | None = None
    nc1: float | None = None
    nc2_norms: float | None = None
    nc2_cosines: float | None = None


def class_measures(
    counts: Float64[Tensor, " c"], sums: Float64[Tensor, "c d"], second: Float64[Tensor, "d d"]
) -> ClassMeasures:
    """Measures of labelled unit rows.

    Args:
        counts, sums: rows of each class, and their sum.
        second: sum x x^T over all labelled rows.
    """
    n, c = float(counts.sum()), len(counts)
    squares = sums.square().sum(1)
    pairs = float((counts * (counts - 1)).sum())
    alignment = 2 - 2 * float((squares - counts).sum()) / pairs if pairs > 0 else None
    if c < 2:
        return ClassMeasures(alignment=alignment)
    means = sums / counts[:, None]
    apart = means - means.mean(0)
    spread = max(1 - float((squares / counts).sum()) / n, 0.0) if n > c else None
    total = 1 - float(sums.sum(0).square().sum()) / n**2
    within = (second - means.T @ sums) / n
    norms, cosines = _simplex_spreads(apart)
    return ClassMeasures(
        alignment=alignment,
        within_class_spread=spread,
        between_class_spread=float(apart.square().sum()) / c,
        class_share=None if spread is None else _beyond_chance(spread, total, n, c),
        lidar=None if spread is None else _lidar(within, apart),
        nc1=None if spread is None else _nc1(within, apart),
        nc2_norms=norms,
        nc2_cosines=cosines,
    )


def iid_class_measures(counts: Float64[Tensor, " c"], d: int) -> ClassMeasures:
    """Expected measures of iid rows, uniform on the unit sphere, with labels that say nothing.

    Class means are then near to normal, with covariance I / (n_c D). `nc1` is None where C is within 2 of D + 1: its
    expectation has a pole there.
    """
    n, c = float(counts.sum()), len(counts)
    alignment = 2.0 if bool((counts > 1).any()) else None
    if c < 2:
        return ClassMeasures(alignment=alignment)
    inverse, root = float((1 / counts).mean()), float(counts.rsqrt().mean())
    within = 1 - c / n if n > c else None
    # E |z| of z ~ N(0, I_D) is sqrt 2 Gamma((D + 1) / 2) / Gamma(D / 2).
    mean_norm = math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    # |mu_c|^2 varies a little less than that: the rows of a sphere all have length 1. For few classes, the exponents
    # below are fitted to draws (within 3 % from C = 3).
    rough = (d / mean_norm**2 - 1) * (1 - inverse)
    # S_b is Wishart with C - 1 degrees of freedom: E tr W^-1 = D / (dof - D - 1), the two swapped where dof < D.
    short, long = sorted((c - 1, d))
    nc1 = within * short / (inverse * (long - short - 1)) if within is not None and long - short > 2 else None
    return ClassMeasures(
        alignment=alignment,
        within_class_spread=within,
        between_class_spread=inverse * (1 - 1 / c),
        class_share=0.0 if n > c else None,
        lidar=spectral_rank(iid_eigenvalues(c, d, centred=True)) if n > c else None,
        nc1=nc1,
        nc2_norms=math.sqrt(max((1 + rough) * inverse / root**2 - 1, 0.0) * ((c - 2) / (c - 1)) ** 1.3)
        if c > 2
        else None,
        nc2_cosines=math.sqrt((c * (c - 2) / (c - 1) ** 2) ** 2.7 / d) if c > 2 else None,
    )


def _beyond_chance(within: float, total: float, n: float, c: int) -> float | None:
    chance = (c - 1) / (n - 1)
    if total <= noise_floor(c) or chance >= 1:
        return None
    return (1 - within / total - chance) / (1 - chance)


def _nc1(within: Float64[Tensor, "d d"], apart: Float64[Tensor, "c d"]) -> float | None:
    """tr(S_w S_b^+) / C, with S_b^+ from the smaller of S_b and the Gram matrix of the class means."""
    c, d = apart.shape
    rank = min(c - 1, d)
    if c <= d:
        values, left = torch.linalg.eigh(apart @ apart.T / c)
        values, left = values.flip(0)[:rank], left.flip(1)[:, :rank]
        vectors = apart.T @ left / (c * values.clamp_min(noise_floor(d))).sqrt()
    else:
        values, vectors = torch.linalg.eigh(apart.T @ apart / c)
        values, vectors = values.flip(0), vectors.flip(1)
    filled = values > noise_floor(d)
    if not bool(filled.any()):
        return None
    along = ((within @ vectors) * vectors).sum(0)
    return max(float((along[filled] / values[filled]).sum()), 0.0) / c


def _lidar(within: Float64[Tensor, "d d"], apart: Float64[Tensor, "c d"]) -> float:
    c, d = apart.shape
    factor = torch.linalg.cholesky(within + _LIDAR_DELTA * torch.eye(d, dtype=within.dtype, device=within.device))
    white = torch.linalg.solve_triangular(factor, apart.T, upper=False)
    gram = (white.T @ white if c <= d else white @ white.T) / c
    return spectral_rank(eigenvalues(gram, min(c - 1, d), noise_floor(d) * float(gram.diagonal().sum())))


def _simplex_spreads(apart: Float64[Tensor, "c d"]) -> tuple[float | None, float | None]:
    """Coefficient of variation of the norms, and standard deviation of the pairwise cosines (from sums alone)."""
    c = len(apart)
    if c < 3:
        return None, None
    norms = torch.linalg.vector_norm(apart, dim=1)
    if float(norms.min()) <= math.sqrt(noise_floor(apart.shape[1])):
        return None, None
    unit = apart / norms[:, None]
    pairs = c * (c - 1)
    mean = (float(unit.sum(0).square().sum()) - c) / pairs
    gram = unit.T @ unit if c > apart.shape[1] else unit @ unit.T
    square = (float(gram.square().sum()) - c) / pairs
    return float(norms.std(correction=0) / norms.mean()), math.sqrt(max(square - mean**2, 0.0))
