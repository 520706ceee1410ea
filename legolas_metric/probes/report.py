"""What a probe of embeddings found, beside what iid rows would give."""

from dataclasses import dataclass, fields

from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CollapseReport:
    """How the rows of a table fill their space. All of it looks at unit rows, x / |x|, but for the norms.

    Attributes:
        n, d: rows and dimensions.
        mean_cosine: mean of x_i . x_j over all pairs i != j, in [-1/(n-1), 1]; 0 for iid rows.
        resultant_length: R = |mean x|, in [0, 1]; 1 where all rows are one point. For iid rows, sqrt(1/n).
        effective_rank: exp(-sum p log p) with p = sigma / sum sigma over the singular values of the centred rows
            (Roy and Vetterli, 2007), in [1, min(n-1, d)].
        effective_rank_uncentred: the same without centring (RankMe, Garrido et al., 2023).
        top1_variance: share of the variance along its main direction; its reciprocal is the stable rank.
        participation_ratio: tr(C)^2 / |C|_F^2 of the covariance C, in [1, min(n-1, d)].
        spectrum: float64 [min(n-1, d)], singular values of the centred rows, descending.
        norm_mean, norm_std: of the rows as they were given, before they were made unit; None for the baseline.
        baseline: the same for iid rows, uniform on the unit sphere, at the same n and d; None for the baseline itself.
        verdict: "healthy", or the fault.
        evidence: the figures that the verdict rests on, a sentence each.
        remedy: what to do about it; empty when healthy.
    """

    n: int
    d: int
    mean_cosine: float
    resultant_length: float
    effective_rank: float
    effective_rank_uncentred: float
    top1_variance: float
    participation_ratio: float
    spectrum: Float64[Tensor, " r"]
    norm_mean: float | None
    norm_std: float | None
    baseline: "CollapseReport | None"
    verdict: str
    evidence: tuple[str, ...]
    remedy: str

    def scalars(self) -> dict[str, int | float | None]:
        """The measures by name, for tables and JSON: all but the spectrum, the baseline and the verdict.

        Example:
            >>> import torch
            >>> from legolas_metric import probe_embeddings
            >>> probe_embeddings(torch.eye(3)).scalars()["mean_cosine"]
            0.0
        """
        left_out = {"spectrum", "baseline", "verdict", "evidence", "remedy"}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in left_out}
