"""What an evaluation of pairs found: AUC, EER, TAR@FAR, thresholds, and what they cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.checks import Metric, check_choice, check_whole
from legolas_metric.evaluation import roc
from legolas_metric.evaluation.arguments import Asked
from legolas_metric.evaluation.bootstrap import Difference
from legolas_metric.evaluation.identity_bootstrap import IdentifiedPairs, paired_differences
from legolas_metric.evaluation.identity_pairs import Pairs, PairsOfRows, PairsOver
from legolas_metric.evaluation.operating import Cost, OperatingPoints, Rates
from legolas_metric.evaluation.ranking_report import WORSE
from legolas_metric.measures import figures_sheet, verification_figures
from legolas_metric.signatures import typed
from legolas_metric.tables import Sheet, Shown

_CORNERS = 512


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class VerificationReport(Shown):
    """How well one threshold on the similarity tells genuine pairs (one class) from impostor pairs (two).

    Attributes:
        auc: P(genuine > impostor) + P(equal) / 2.
        auc_error: by how much `auc` may err: 0 where counting was exact, else what the grid of 2^18 cells, on which
            both kinds are counted then, leaves open.
        eer: the rate at which false accepts and false rejects are equally frequent.
        tar_at_far: false accept rate -> share of genuine pairs accepted at it.
        threshold_at_far: false accept rate -> the similarity from which on pairs are accepted at it; infinite where
            only none at all will do.
        eer_threshold: the similarity at which false accepts and false rejects are equally frequent.
        flagged: the false accept rates that stand for fewer than 30 impostor pairs: too few to be believed.
        genuine: pairs of one class (of different groups, where groups are given).
        impostor: pairs of different labels.
        far, tar: the ROC curve, at most 512 of its corners, from (0, 0) to (1, 1); close together where FAR is small.
        edges: [b + 1] borders of the similarity histogram; the outer bins are open.
        genuine_histogram: [b] genuine pairs in each bin.
        impostor_histogram: [b] impostor pairs in each bin.
        operating: the counts behind `rates_at`.
        pairs: what `intervals` counts once more; None where scores were given without identities.
        metric: of the similarity; None where scores were given.
        baseline: the report of the untrained encoder; None where none was given.

    Example:
        >>> import torch
        >>> from legolas_metric import evaluate_verification
        >>> report = evaluate_verification(torch.eye(4), [0, 0, 1, 1])  # all pairs alike: chance
        >>> report.auc, report.flagged
        (0.5, (0.01, 0.001, 0.0001))

    Source: ours; of the AUC, Hanley and McNeil (1982), The Meaning and Use of the Area under a Receiver Operating
    Characteristic (ROC) Curve.
    """

    auc: float
    auc_error: float
    eer: float
    tar_at_far: Mapping[float, float]
    threshold_at_far: Mapping[float, float]
    eer_threshold: float
    flagged: tuple[float, ...]
    genuine: int
    impostor: int
    far: Float64[Tensor, " v"] = field(repr=False)
    tar: Float64[Tensor, " v"] = field(repr=False)
    edges: Float64[Tensor, " b1"] = field(repr=False)
    genuine_histogram: Int64[Tensor, " b"] = field(repr=False)
    impostor_histogram: Int64[Tensor, " b"] = field(repr=False)
    operating: OperatingPoints = field(repr=False)
    pairs: Pairs | None = field(repr=False)
    metric: Metric | None = None
    baseline: "VerificationReport | None" = None

    def _sheet(self) -> Sheet:
        title = f"Verification: {self.genuine:,} genuine pairs, {self.impostor:,} impostors"
        return figures_sheet(title, verification_figures(self), self.baseline and verification_figures(self.baseline))

    def scalars(self) -> dict[str, int | float]:
        """All that are single numbers, by name, for tables and JSON."""
        rates = {f"tar_at_far_{far:g}": tar for far, tar in self.tar_at_far.items()}
        at = {f"threshold_at_far_{far:g}": threshold for far, threshold in self.threshold_at_far.items()}
        pairs = {"genuine": self.genuine, "impostor": self.impostor}
        return {"auc": self.auc, "eer": self.eer, **rates, "eer_threshold": self.eer_threshold, **at, **pairs}

    @typed
    def rates_at(self, threshold: float | int) -> Rates:
        """What a threshold does to these pairs: accepted is s >= threshold.

        FRR is exact. FAR is exact at the report's own thresholds and, up to a million pairs, anywhere; beyond, it is
        linear between the nearest genuine similarities.

        Raises:
            ValueError: NaN.

        Example:
            >>> import torch
            >>> from legolas_metric import evaluate_verification
            >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
            >>> evaluate_verification(rows, [0, 0, 1, 1]).rates_at(0.7)
            Rates(far=0.25, frr=0.0)
        """
        return self.operating.rates_at(threshold)

    def min_dcf(self, cost: Cost | None = None) -> float:
        """The least detection cost of any threshold, over that of the better blind decision (NIST's normalised minDCF).

            min over t of (p miss FRR + (1 - p) false_accept FAR) / min(p miss, (1 - p) false_accept); p: prior

        Example:
            >>> from legolas_metric import verification_from_scores
            >>> verification_from_scores([2.0, 1.0, 0.0, -1.0], [1, 0, 1, 0]).min_dcf()
            0.5
        """
        price = cost or Cost()
        return price.of(self.rates_at(self.operating.cheapest_threshold(price))) / price.best_blind

    def act_dcf(self, cost: Cost | None = None) -> float:
        """The same cost at the threshold that theory names, where the scores are log-likelihood ratios (actDCF).

        Example:
            >>> from legolas_metric import verification_from_scores
            >>> verification_from_scores([2.0, 1.0, 0.0, -1.0], [1, 0, 1, 0]).act_dcf()
            0.5
        """
        price = cost or Cost()
        return price.of(self.rates_at(price.bayes_threshold)) / price.best_blind

    def det(self) -> tuple[Float64[Tensor, " v"], Float64[Tensor, " v"]]:
        """The DET curve (Martin et al. 1997): normal deviates of FAR and FRR at the corners of `far`, `tar`.

        Scores that are normal in both kinds make a straight line; the ends are infinite.
        """
        return torch.special.ndtri(self.far), torch.special.ndtri(1 - self.tar)

    @typed
    def intervals(
        self, *, level: float = 0.95, resamples: int = 1000, seed: int = 0, over: PairsOver = "identities"
    ) -> dict[str, tuple[float, float]]:
        """Confidence intervals by the bootstrap over identities: the pairs of one person stand or fall together.

        A draw counts the pairs that each drawn identity is part of (the subsets bootstrap, Bolle et al. 2004). It takes
        another pass over all pairs.

        Args:
            level: share of the resampled values inside.
            resamples: how many times the identities are drawn, with replacement.
            seed: of the draw.
            over: "identities", or "groups" where speakers, sessions or cameras are the question.

        Returns:
            "auc", "eer", "tar_at_far_0.01", ... -> (low, high); NaN where one identity only has genuine pairs.

        Raises:
            ValueError: scores that were given without identities; groups asked for where none were given; a level
                outside (0, 1).

        Warns:
            UserWarning: fewer than ten identities (or groups).
        """
        return self.identified(over).intervals(level=level, resamples=resamples, seed=seed)

    def difference(
        self,
        measure: str = "auc",
        *,
        level: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
        over: PairsOver = "identities",
    ) -> Difference:
        """How far this encoder lies from the baseline: the paired bootstrap over identities.

        Both are counted in the same draws of identities (ours, from the subsets bootstrap of `intervals`), so that what
        is hard for both cancels out. It takes another pass over all pairs of each.

        Args:
            measure: "auc", "eer", "tar_at_far_0.01", ...: as in `intervals`.
            level, resamples, seed, over: as in `intervals`.

        Returns:
            This report's figure less the baseline's, with its interval; `shown` where that leaves out 0. Of an EER what
            lies below 0 is better.

        Raises:
            ValueError: no baseline, one of other rows, or an unknown measure; else as `intervals`.

        Warns:
            UserWarning: fewer than ten identities.

        Example:
            >>> import torch
            >>> from legolas_metric import evaluate_verification
            >>> y = torch.arange(40) // 2
            >>> rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
            >>> found = evaluate_verification(torch.eye(20)[y], y, baseline=rows).difference("eer")
            >>> found.value < -0.3, found.identities, found.shown
            (True, 20, True)
        """
        if self.baseline is None:
            raise ValueError("no baseline to differ from: pass baseline to evaluate_verification")
        own, other = self.identified(over), self.baseline.identified(over)
        return paired_differences(own, other, (measure,), level=level, resamples=resamples, seed=seed)[measure]

    def identified(self, over: PairsOver = "identities") -> IdentifiedPairs:
        """What `intervals` and `difference` draw from, for several measures at once.

        Raises:
            ValueError: an unknown word, or scores without identities or groups.
        """
        check_choice("over", over, get_args(PairsOver))
        pairs = self.pairs
        if pairs is None:
            raise ValueError("intervals draw identities: pass identities to verification_from_scores")
        if over == "groups":
            if not isinstance(pairs, PairsOfRows) or pairs.rows.groups is None:
                raise ValueError("over='groups' needs groups: pass groups to evaluate_verification")
            pairs = replace(pairs, over=over)
        return IdentifiedPairs(pairs, self.operating, self.auc, self.eer, self.tar_at_far)

    @typed
    def mean_rank(self, gallery: int) -> float:
        """The mean rank of one mate among `gallery` rows that this AUC means: 1 + (1 - AUC)(gallery - 1).

        Raises:
            TypeError, ValueError: a gallery that is no whole number of at least 1.

        Example:
            >>> import torch
            >>> from legolas_metric import evaluate_verification
            >>> report = evaluate_verification(torch.eye(4), [0, 0, 1, 1])
            >>> report.auc, report.mean_rank(101)
            (0.5, 51.0)
        """
        return 1 + (1 - self.auc) * (check_whole("gallery", gallery, 1) - 1)

    def warnings(self) -> tuple[str, ...]:
        """What makes these figures weaker than they look, a sentence each."""
        said = []
        if self.baseline is not None:
            if self.auc < self.baseline.auc - WORSE:
                said.append(f"training made the AUC worse: {self.auc:.3f}, untrained {self.baseline.auc:.3f}")
            if self.eer > self.baseline.eer + WORSE:
                said.append(f"training made the EER worse: {self.eer:.3f}, untrained {self.baseline.eer:.3f}")
            for far, tar in self.tar_at_far.items():
                fell = self.baseline.tar_at_far.get(far, tar) - tar
                if fell > WORSE and far not in self.flagged:
                    said.append(f"training made TAR at FAR {far:g} worse: {tar:.3f}, untrained {tar + fell:.3f}")
        if self.flagged:
            rates = ", ".join(f"{far:g}" for far in self.flagged)
            said.append(
                f"FAR {rates}: fewer than {roc.FEWEST_ERRORS} of {self.impostor} impostor pairs; do not quote it"
            )
        return tuple(said)


def report_of(
    counts: roc.RocCounts,
    edges: Float64[Tensor, " b1"],
    rates: tuple[float, ...],
    *,
    auc_error: float,
    pairs: Pairs | None,
    metric: Metric | None,
    baseline: VerificationReport | None,
) -> VerificationReport:
    """The report of what was counted; the edges of the histogram are levels of the counts."""
    far, tar = roc.curve(counts)
    shown = roc.corners(far, tar, _CORNERS)
    histograms = roc.histogram(counts, edges)
    operating = OperatingPoints.of(counts)
    thresholds = {rate: operating.threshold_at(rate) for rate in rates}
    return VerificationReport(
        auc=roc.area(counts),
        auc_error=auc_error,
        eer=roc.equal_error_rate(counts),
        tar_at_far=Asked(roc.true_accept_rates(counts, rates), name="tar_at_far", argument="fars"),
        threshold_at_far=Asked(thresholds, name="threshold_at_far", argument="fars"),
        eer_threshold=operating.equal_error_threshold(),
        flagged=roc.too_few_errors(rates, counts.impostors),
        genuine=operating.genuine_pairs,
        impostor=operating.impostor_pairs,
        far=far[shown],
        tar=tar[shown],
        edges=edges,
        genuine_histogram=histograms[0],
        impostor_histogram=histograms[1],
        operating=operating,
        pairs=pairs,
        metric=metric,
        baseline=baseline,
    )
