"""A rule chosen on one set of people, and what it does to another."""

import math
from dataclasses import dataclass

import torch

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, Metric, check_choice, check_number
from legolas_metric.evaluation.arguments import as_table
from legolas_metric.evaluation.identity_pairs import PairsOfRows, drawn_rates, percentiles
from legolas_metric.evaluation.operating import OperatingPoints, Rates
from legolas_metric.evaluation.pairs import by_label
from legolas_metric.evaluation.verification import VerificationReport, count_pairs
from legolas_metric.signatures import typed, typed_fields


@typed_fields
@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What errors cost: prior miss FRR + (1 - prior) false_accept FAR, the detection cost of speaker recognition.

    Attributes:
        miss: of a genuine pair that is rejected.
        false_accept: of an impostor pair that is accepted.
        prior: share of genuine pairs among those that will be judged.

    Example:
        >>> from legolas_metric import Cost
        >>> Cost(false_accept=10, prior=0.01).miss
        1.0
    """

    miss: float | int = 1.0
    false_accept: float | int = 1.0
    prior: float | int = 0.5

    def __post_init__(self) -> None:
        check_number("miss", self.miss, above=0.0)
        check_number("false_accept", self.false_accept, above=0.0)
        check_number("prior", self.prior, above=0.0, most=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a rule did to a set.

    Attributes:
        threshold: of the rule.
        far, frr: shares of impostor pairs accepted, and of genuine pairs rejected.
        far_interval, frr_interval: 95 %, by the bootstrap over identities: a draw counts the pairs that each drawn
            identity is part of (the subsets bootstrap, Bolle et al. 2004).
        genuine, impostor: pairs.

    Example:
        >>> import torch
        >>> from legolas_metric import DecisionRule, evaluate_verification
        >>> y = torch.arange(80) // 4
        >>> x = torch.eye(20)[y] + 0.1 * torch.randn(80, 20, generator=torch.Generator().manual_seed(0))
        >>> found = DecisionRule.fit(evaluate_verification(x[:40], y[:40]), at="eer").apply(x[40:], y[40:])
        >>> found.far, found.frr, found.genuine
        (0.0, 0.0, 60)
    """

    threshold: float
    far: float
    frr: float
    far_interval: tuple[float, float]
    frr_interval: tuple[float, float]
    genuine: int
    impostor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRule:
    """Accept a pair whose similarity is at least `threshold`.

    Attributes:
        threshold: similarity under `metric`.
        metric: of the report it was chosen on; None where scores were given.
        fitted: what the rule did to the pairs that it was chosen on: elsewhere it does worse, or otherwise.

    Example:
        >>> import torch
        >>> from legolas_metric import evaluate_verification
        >>> generator = torch.Generator().manual_seed(0)
        >>> y = torch.arange(120) // 4
        >>> x = torch.randn(30, 8, generator=generator)[y] + 0.4 * torch.randn(120, 8, generator=generator)
        >>> rule = DecisionRule.fit(evaluate_verification(x[:60], y[:60]), far=0.01)
        >>> found = rule.apply(x[60:], y[60:])
        >>> found.impostor, found.genuine
        (1680, 90)
    """

    threshold: float
    metric: Metric | None
    fitted: Rates

    @classmethod
    @typed
    def fit(
        cls,
        report: VerificationReport,
        *,
        far: float | int | None = None,
        at: str | None = None,
        cost: Cost | None = None,
    ) -> "DecisionRule":
        """Choose the threshold on a report.

        Args:
            report: of people other than those that the rule is for, and than those that the encoder was trained on.
            far: the false accept rate that it may have there, in (0, 1].
            at: "eer", where false accepts and false rejects are equally frequent.
            cost: where the mean cost is least.

        Raises:
            ValueError: none or several of the three, or a value outside its range.
        """
        if sum(choice is not None for choice in (far, at, cost)) != 1:
            raise ValueError("choose the threshold by one of far=0.01, at='eer', cost=Cost(...)")
        points = report.operating
        if far is not None:
            check_number("far", far, above=0.0, most=1.0)
            threshold = points.threshold_at(far)
        elif at is not None:
            check_choice("at", at, ("eer",))
            threshold = report.eer_threshold
        else:
            assert cost is not None
            threshold = points.cheapest_threshold(miss=cost.miss, false_accept=cost.false_accept, prior=cost.prior)
        return cls(threshold=threshold, metric=report.metric, fitted=points.rates_at(threshold))

    @typed
    def apply(
        self,
        embeddings: ArrayLike | EmbeddingBank,
        labels: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        resamples: int = 1000,
        seed: int = 0,
    ) -> Decision:
        """What the rule does to all pairs of another set. Two passes; memory as `evaluate_verification`.

        Args:
            embeddings, labels, groups: as in `evaluate_verification`.
            resamples, seed: of the intervals.

        Raises:
            ValueError: a rule from given scores, which has no metric; a set without genuine or without impostor pairs;
                what `evaluate_verification` refuses.

        Warns:
            UserWarning: fewer than ten identities.
        """
        if self.metric is None:
            raise ValueError("the rule was chosen on given scores: verification_from_scores(...).rates_at(threshold)")
        rows, metric = as_table(embeddings, labels, groups=groups, metric=self.metric)
        if metric != self.metric:
            raise ValueError(f"a rule under metric={self.metric!r} says nothing of a bank of metric {metric!r}")
        rows = by_label(rows)
        border = torch.tensor([self.threshold], dtype=torch.float64, device=rows.embeddings.device)
        # A threshold that nothing reaches is no level: it is beyond all of them.
        points = OperatingPoints.of(count_pairs(rows, metric, border[border.isfinite()])[0])
        rates = points.rates_at(self.threshold)
        drawn = drawn_rates(PairsOfRows(rows, metric), border, resamples=resamples, seed=seed)
        nothing = (math.nan, math.nan)
        return Decision(
            threshold=self.threshold,
            far=rates.far,
            frr=rates.frr,
            far_interval=nothing if drawn is None else percentiles(drawn[0][:, 0], 0.95),
            frr_interval=nothing if drawn is None else percentiles(drawn[1][:, 0], 0.95),
            genuine=points.genuine_pairs,
            impostor=points.impostor_pairs,
        )
