"""What a probe of embeddings found, beside what iid rows would give."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from html import escape
from operator import attrgetter
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from legolas_metric.probes.class_measures import ClassMeasures
from legolas_metric.probes.hubness import Hubness
from legolas_metric.probes.row_measures import RowMeasures
from legolas_metric.tables import Table

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
    given; NaN where so few rows have no such measure. D dimensions, n rows, C classes, mu_c the mean of a class; d is
    the distance of unit rows, in [0, 2].

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
        by_class: `ClassMeasures`, from labels; each is also an attribute of the report (`report.class_share`).
        by_row: `RowMeasures`, not streamed; so are these (`report.nearest_share`).
        by_neighbour: `Hubness`, from an index; and these (`report.orphans`).
        baseline: the same for iid rows, uniform on the unit sphere, at the same n and d (and class sizes); None for
            the baseline itself.
        reference: an earlier report of the same run, or None.
        verdict: "healthy", "point collapse", "class collapse", "dimensional collapse" or "over-clustered"; None where
            fewer than three rows bear none, and where nobody judged (measures that were read back). A narrow cone (a
            large common offset) is healthy, and the evidence says so.
        evidence: the figures that the verdict rests on, a sentence each; without a verdict, why there is none.
        remedy: what to do about it; empty when healthy.

    Example:
        >>> import torch
        >>> from legolas_metric import probe_embeddings
        >>> report = probe_embeddings(torch.ones(9, 4))
        >>> report.verdict, report.baseline.verdict
        ('point collapse', 'healthy')

    Source: beside each measure; the verdict is ours.
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
    by_class: ClassMeasures = field(default_factory=ClassMeasures)
    by_row: RowMeasures = field(default_factory=RowMeasures)
    by_neighbour: Hubness = field(default_factory=Hubness)
    baseline: "CollapseReport | None" = None
    reference: "CollapseReport | None" = None
    verdict: str | None = None
    evidence: tuple[str, ...] = ("these measures were not judged",)
    remedy: str = ""

    # The parts' measures are attributes of the report too, so that a reader needn't know which part has which.
    alignment = property(attrgetter("by_class.alignment"))
    within_class_spread = property(attrgetter("by_class.within_class_spread"))
    between_class_spread = property(attrgetter("by_class.between_class_spread"))
    class_share = property(attrgetter("by_class.class_share"))
    lidar = property(attrgetter("by_class.lidar"))
    nc1 = property(attrgetter("by_class.nc1"))
    nc2_norms = property(attrgetter("by_class.nc2_norms"))
    nc2_cosines = property(attrgetter("by_class.nc2_cosines"))
    uniformity = property(attrgetter("by_row.uniformity"))
    nearest_share = property(attrgetter("by_row.nearest_share"))
    nc4 = property(attrgetter("by_row.nc4"))
    class_effective_rank = property(attrgetter("by_row.class_effective_rank"))
    class_ranks = property(attrgetter("by_row.class_ranks"))
    hubness = property(attrgetter("by_neighbour.hubness"))
    hubs = property(attrgetter("by_neighbour.hubs"))
    orphans = property(attrgetter("by_neighbour.orphans"))

    def scalars(self) -> dict[str, int | float | None]:
        """The measures that are single numbers, by name: for tables and JSON.

        Example:
            >>> import torch
            >>> from legolas_metric import probe_embeddings
            >>> probe_embeddings(torch.eye(3)).scalars()["mean_cosine"]
            0.0
        """
        other = {"alpha_range", "spectrum", "class_ranks", *_JUDGED}
        values: dict[str, int | float | None] = {}
        for name in (each.name for each in fields(self)):
            part = getattr(self, name)
            if name in _PARTS:
                values |= {inner.name: getattr(part, inner.name) for inner in fields(part) if inner.name not in other}
            elif name not in other:
                values[name] = part
        return values

    def state_dict(self) -> dict[str, Any]:
        """The measures alone, in plain values and a tensor, for a checkpoint."""
        plain = {each.name for each in fields(self) if each.name not in {*_PARTS, *_JUDGED}}
        parts = {name: asdict(getattr(self, name)) for name in _PARTS}
        return {name: getattr(self, name) for name in plain} | parts

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "CollapseReport":
        """The report whose measures were saved; without baseline and verdict."""
        return cls(**{name: _PARTS[name](**value) if name in _PARTS else value for name, value in state.items()})

    def table(self) -> Table:
        """The figures that a verdict rests on, beside those of iid rows and of the reference."""
        beside = {"this": self, "iid rows": self.baseline, "reference": self.reference}
        shown = {name: report for name, report in beside.items() if report is not None}
        rows = [(name, *(getattr(report, name) for report in shown.values())) for name in _SHOWN]
        return Table(["measure", *shown], [row for row in rows if row[1] is not None])

    def __str__(self) -> str:
        said = [
            f"{self.verdict or 'no verdict'}: {self.n:,} rows of {self.d}, {self.classes:,} classes",
            *self.evidence,
        ]
        return "\n".join([*said, *([f"remedy: {self.remedy}"] if self.remedy else []), "", self.table().markdown()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{escape(sentence)}</li>" for sentence in (*self.evidence, self.remedy) if sentence)
        return f"<p><b>{escape(self.verdict or 'no verdict')}</b></p><ul>{said}</ul>{self.table().html()}"


_SHOWN = (
    *("resultant_length", "mean_cosine", "effective_rank", "top1_variance", "class_share", "nearest_share"),
    *("within_class_spread", "between_class_spread", "uniformity", "hubness"),
)
_JUDGED = ("baseline", "reference", "verdict", "evidence", "remedy")
_PARTS: dict[str, type] = {"by_class": ClassMeasures, "by_row": RowMeasures, "by_neighbour": Hubness}
