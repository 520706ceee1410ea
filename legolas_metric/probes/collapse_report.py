"""What a probe of embeddings found, beside what iid rows would give."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from jaxtyping import Float64
from torch import Tensor

HEALTHY = "healthy"
POINT = "point collapse"
CLASS = "class collapse"
DIMENSIONAL = "dimensional collapse"
OVER_CLUSTERED = "over-clustered"
VERDICTS = (HEALTHY, POINT, CLASS, DIMENSIONAL, OVER_CLUSTERED)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CollapseReport:
    """How the rows of a table fill their space. All of it looks at unit rows, x / |x|, but for the norms.

    A measure is None where it takes labels, or the rows themselves (not streamed sums), or an index, that were not
    given. D dimensions, n rows, C classes, mu_c the mean of a class; d is the distance of unit rows, in [0, 2].

    Attributes:
        n, d: rows and dimensions.
        classes: classes among the labels (0 without labels); unlabelled rows count in what needs no labels.
        mean_cosine: mean of x_i . x_j over all pairs i != j, in [-1/(n-1), 1]; 0 for iid rows.
        resultant_length: R = |mean x|, in [0, 1]; 1 where all rows are one point. For iid rows, sqrt(1/n).
        effective_rank: exp(-sum p log p) with p = sigma / sum sigma over the singular values of the centred rows
            (Roy and Vetterli, 2007), in [1, min(n-1, d)].
        effective_rank_uncentred: the same without centring (RankMe, Garrido et al., 2023).
        top1_variance: share of the variance along its main direction; its reciprocal is the stable rank.
        participation_ratio: tr(C)^2 / |C|_F^2 of the covariance C, in [1, min(n-1, d)].
        alpha, alpha_range: decay of the spectrum, lambda_j ~ j^-alpha, and the first and last j (from 1) of the fit.
        spectrum: float64 [min(n-1, d)], singular values of the centred rows, descending.
        norm_mean, norm_std: of the rows as they were given, before they were made unit; None for the baseline.
        alignment, within_class_spread, between_class_spread, class_share, lidar, nc1, nc2_norms, nc2_cosines: see
            `ClassMeasures`; from labels.
        uniformity, nc4, class_effective_rank, class_ranks: see `RowMeasures`; not streamed.
        hubness, hubs, orphans: see `Hubness`; from an index.
        baseline: the same for iid rows, uniform on the unit sphere, at the same n and d (and class sizes); None for
            the baseline itself.
        reference: an earlier report of the same run, or None.
        verdict: "healthy", "point collapse", "class collapse", "dimensional collapse" or "over-clustered".
        evidence: the figures that the verdict rests on, a sentence each.
        remedy: what to do about it; empty when healthy.

    Example:
        >>> import torch
        >>> from legolas_metric import probe_embeddings
        >>> report = probe_embeddings(torch.ones(9, 4))
        >>> report.verdict, report.baseline.verdict
        ('point collapse', 'healthy')
    """

    n: int
    d: int
    classes: int = 0
    mean_cosine: float
    resultant_length: float
    effective_rank: float
    effective_rank_uncentred: float
    top1_variance: float
    participation_ratio: float
    alpha: float | None = None
    alpha_range: tuple[int, int] | None = None
    spectrum: Float64[Tensor, " r"]
    norm_mean: float | None = None
    norm_std: float | None = None
    alignment: float | None = None
    within_class_spread: float | None = None
    between_class_spread: float | None = None
    class_share: float | None = None
    lidar: float | None = None
    nc1: float | None = None
    nc2_norms: float | None = None
    nc2_cosines: float | None = None
    uniformity: float | None = None
    nc4: float | None = None
    class_effective_rank: float | None = None
    class_ranks: Mapping[int, float] | None = None
    hubness: float | None = None
    hubs: float | None = None
    orphans: float | None = None
    baseline: "CollapseReport | None" = None
    reference: "CollapseReport | None" = None
    verdict: str = HEALTHY
    evidence: tuple[str, ...] = ()
    remedy: str = ""

    def scalars(self) -> dict[str, int | float | None]:
        """The measures that are single numbers, by name: for tables and JSON.

        Example:
            >>> import torch
            >>> from legolas_metric import probe_embeddings
            >>> probe_embeddings(torch.eye(3)).scalars()["mean_cosine"]
            0.0
        """
        other = {"alpha_range", "spectrum", "class_ranks", "baseline", "reference", "verdict", "evidence", "remedy"}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in other}
