"""A rule chosen on one set of people, and what it does to another."""

import math
from dataclasses import dataclass, field, replace

import torch

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import UNLABELLED, ArrayLike, Metric, check_choice, check_number
from legolas_metric.evaluation.arguments import as_table
from legolas_metric.evaluation.fold_pairs import by_fold, has_both_kinds, report_of_folds
from legolas_metric.evaluation.identities import Identities, identities, identities_in, warn_of_shared
from legolas_metric.evaluation.identity_pairs import (
    PairsOfRows,
    drawn_rates,
    enough_identities,
    percentiles,
    rates_of_draws,
)
from legolas_metric.evaluation.operating import Cost, OperatingPoints, Rates
from legolas_metric.evaluation.pairs import by_label
from legolas_metric.evaluation.roc import too_few_errors
from legolas_metric.evaluation.verification import count_pairs
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.names import as_named
from legolas_metric.signatures import typed

_TRAINED = "a threshold chosen on those that the encoder was trained on misses its FAR on others; choose it on others"
_CHOSEN = "what a rule does to those that it was chosen on says little of others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a rule did to a set.

    Attributes:
        threshold: of the rule.
        far, frr: shares of impostor pairs accepted (FMR), and of genuine pairs rejected (FNMR).
        far_interval, frr_interval: 95 %, by the bootstrap over identities: a draw counts the pairs that each drawn
            identity is part of (the subsets bootstrap, Bolle et al. 2004).
        genuine, impostor: pairs.
        far_moved, frr_moved: by how much they differ from those of the pairs that the rule was chosen on.

    Example:
        >>> import torch
        >>> from legolas_metric import DecisionRule, evaluate_verification
        >>> y = torch.arange(80) // 4
        >>> x = torch.eye(20)[y] + 0.1 * torch.randn(80, 20, generator=torch.Generator().manual_seed(0))
        >>> found = DecisionRule.fit(evaluate_verification(x[:40], y[:40]), at="eer").apply(x[40:], y[40:])
        >>> found.far, found.frr, found.genuine
        (0.0, 0.0, 60)
        >>> print(found)
        at 0.6276: FAR 0.0000 [0.0000, 0.0000] of 720 pairs, FRR 0.0000 [0.0000, 0.0000] of 60

    Source: ours; of the intervals, Bolle et al. (2004), Error analysis of pattern recognition systems: the subsets
    bootstrap.
    """

    threshold: float
    far: float
    frr: float
    far_interval: tuple[float, float]
    frr_interval: tuple[float, float]
    genuine: int
    impostor: int
    far_moved: float
    frr_moved: float

    def __str__(self) -> str:
        far, frr = (
            f"{name} {rate:.4f} [{low:.4f}, {high:.4f}]"
            for name, rate, (low, high) in (("FAR", self.far, self.far_interval), ("FRR", self.frr, self.frr_interval))
        )
        return f"at {self.threshold:.4f}: {far} of {self.impostor} pairs, {frr} of {self.genuine}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossFit:
    """What a rule does to people whom it was not chosen on: each fold is judged by the threshold of the others.

    Attributes:
        rule: chosen on all folds, the one to use.
        thresholds: of each fold, chosen on the others.
        fold_rates: of each fold, at that threshold.
        far, frr: over the pairs of all folds together.
        far_interval, frr_interval: 95 %, by the bootstrap over identities.
        genuine, impostor: pairs of two rows of one fold.

    Example:
        >>> import torch
        >>> y = torch.arange(80) // 2
        >>> found = DecisionRule.cross_fit(torch.eye(40)[y], y, folds=2, far=0.05, resamples=10)
        >>> found.far, found.frr, len(found.fold_rates)
        (0.0, 0.0, 2)

    Source: ours.
    """

    rule: "DecisionRule"
    thresholds: tuple[float, ...]
    fold_rates: tuple[Rates, ...]
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
        flagged: whether the FAR that it was chosen for stands for fewer than 30 impostor pairs there: a guess.
        identities: whom it was chosen on, by label or name; empty where they are unknown.

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

    Source: ours.
    """

    threshold: float
    metric: Metric | None
    fitted: Rates
    flagged: bool = False
    identities: Identities = field(default=frozenset(), repr=False)

    @classmethod
    @typed
    def fit(
        cls,
        report: VerificationReport,
        *,
        far: float | int | None = None,
        at: str | None = None,
        cost: Cost | None = None,
        trained_on: ArrayLike | None = None,
    ) -> "DecisionRule":
        """Choose the threshold on a report.

        Args:
            report: of people other than those that the rule is for, and than those that the encoder was trained on.
            far: the false accept rate that it may have there, in (0, 1].
            at: "eer", where false accepts and false rejects are equally frequent.
            cost: where the mean cost is least.
            trained_on: labels (or names) of those that the encoder was trained on: in them it separates pairs better
                than in others, and a threshold chosen on them misses its FAR (4 to 6 times on ECG-ID).

        Raises:
            ValueError: none or several of the three, or a value outside its range.

        Warns:
            UserWarning: identities of the report are among those of `trained_on`; they are named.
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
            threshold = points.cheapest_threshold(cost)
        known = identities_in(report.pairs)
        if trained_on is not None:
            warn_of_shared(known, identities(trained_on, name="trained_on"), _TRAINED)
        return cls(
            threshold=threshold,
            metric=report.metric,
            fitted=points.rates_at(threshold),
            flagged=far is not None and bool(too_few_errors([far], points.impostor_pairs)),
            identities=known,
        )

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
            UserWarning: fewer than ten identities; some that the rule was chosen on, which are named.
        """
        if self.metric is None:
            raise ValueError("the rule was chosen on given scores: verification_from_scores(...).rates_at(threshold)")
        rows, metric = as_table(embeddings, labels, groups=groups, metric=self.metric)
        if metric != self.metric:
            raise ValueError(f"a rule under metric={self.metric!r} says nothing of a bank of metric {metric!r}")
        rows = by_label(rows)
        warn_of_shared(self.identities, identities_in(PairsOfRows(rows, metric)), _CHOSEN)
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
            far_moved=rates.far - self.fitted.far,
            frr_moved=rates.frr - self.fitted.frr,
        )

    def by_group(
        self, embeddings: ArrayLike | EmbeddingBank, labels: ArrayLike | None = None, *, by: ArrayLike
    ) -> dict[int | str, Rates]:
        """What the rule does among the rows of each group (device, site, sex, age), the highest FAR first.

        Args:
            embeddings, labels: as in `apply`.
            by: [n] the group of each row; pairs within a group are counted, -1 or a missing name is left out.

        Returns:
            group -> rates; a group without genuine or without impostor pairs is left out.

        Raises:
            ValueError: a rule from given scores; what `evaluate_verification` refuses.

        Example:
            >>> import torch
            >>> rule = DecisionRule(threshold=0.9, metric="cosine", fitted=Rates(far=0.0, frr=0.0))
            >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 0.0], [0.9, 0.1], [1.0, 0.1]])
            >>> rule.by_group(rows, [0, 0, 1, 2, 2, 3], by=["old", "old", "old", "new", "new", "new"])
            {'new': Rates(far=1.0, frr=0.0), 'old': Rates(far=0.0, frr=0.0)}
        """
        if self.metric is None:
            raise ValueError("the rule was chosen on given scores: judge those of each group by rates_at(threshold)")
        rows, metric = as_table(embeddings, labels, metric=self.metric)
        given = as_named(by, len(rows), name="by")
        border = torch.tensor([self.threshold], dtype=torch.float64, device=rows.embeddings.device)
        found: dict[int | str, Rates] = {}
        for code in given.codes[given.codes != UNLABELLED].unique().tolist():
            part = by_label(rows[(given.codes == code).nonzero().flatten()])
            if not has_both_kinds(part):
                continue
            points = OperatingPoints.of(count_pairs(part, metric, border[border.isfinite()])[0])
            found[code if given.names is None else given.names[code]] = points.rates_at(self.threshold)
        return dict(sorted(found.items(), key=lambda entry: -entry[1].far))

    @classmethod
    def cross_fit(
        cls,
        embeddings: ArrayLike | EmbeddingBank,
        labels: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        metric: Metric = "cosine",
        folds: int | ArrayLike = 10,
        far: float | int | None = None,
        at: str | None = None,
        cost: Cost | None = None,
        resamples: int = 1000,
        seed: int = 0,
    ) -> CrossFit:
        """Choose the threshold on all folds but one, see what it does to that one, and so for each.

        Args:
            embeddings, labels, groups, metric: as in `evaluate_verification`.
            folds: how many, of whole identities dealt at random, whose rows are of one encoder; or [n], the fold of
                each row (-1: none), where each fold was embedded by an encoder that had not seen it: then only pairs
                within a fold are looked at, also to choose.
            far, at, cost: one of them, as in `fit`.
            resamples, seed: of the intervals; `seed` deals the folds too.

        Raises:
            ValueError: fewer than two folds; an identity of which two folds hold rows; a fold without genuine or
                without impostor pairs; what `fit` refuses.

        Warns:
            UserWarning: fewer than ten identities.

        Example:
            >>> import torch
            >>> generator = torch.Generator().manual_seed(0)
            >>> y = torch.arange(160) // 4
            >>> x = torch.randn(40, 8, generator=generator)[y] + 0.4 * torch.randn(160, 8, generator=generator)
            >>> found = DecisionRule.cross_fit(x, y, folds=4, far=0.05)
            >>> len(found.thresholds), found.genuine
            (4, 240)
        """
        rows, metric = as_table(embeddings, labels, groups=groups, metric=metric)
        held, apart = by_fold(rows, folds, seed), not isinstance(folds, int)
        rules, rates, counted = [], [], []
        for i, part in enumerate(held):
            report = report_of_folds([*held[:i], *held[i + 1 :]], metric, apart=apart)
            rule = cls.fit(report, far=far, at=at, cost=cost)
            border = torch.tensor([rule.threshold], dtype=torch.float64, device=part.embeddings.device)
            points = OperatingPoints.of(count_pairs(part, metric, border[border.isfinite()])[0])
            rules.append(rule)
            rates.append((points.rates_at(rule.threshold), points.impostor_pairs, points.genuine_pairs))
            counted.append(PairsOfRows(part, metric).histograms(border))
        impostors, genuine = sum(one for _, one, _ in rates), sum(one for *_, one in rates)
        drawn = None
        if enough_identities(sum(len(table) for table, _ in counted)):
            tables = (torch.cat([one for one, _ in counted]), torch.cat([one for _, one in counted]))
            drawn = rates_of_draws(tables, resamples=resamples, seed=seed)
        every = cls.fit(report_of_folds(held, metric, apart=apart), far=far, at=at, cost=cost)
        assert rows.labels is not None
        known = identities(rows.labels, names=rows.label_names)
        nothing = (math.nan, math.nan)
        return CrossFit(
            rule=replace(every, metric=metric, identities=known),
            thresholds=tuple(rule.threshold for rule in rules),
            fold_rates=tuple(one for one, _, _ in rates),
            far=sum(one.far * weight for one, weight, _ in rates) / impostors,
            frr=sum(one.frr * weight for one, _, weight in rates) / genuine,
            far_interval=nothing if drawn is None else percentiles(drawn[0][:, 0], 0.95),
            frr_interval=nothing if drawn is None else percentiles(drawn[1][:, 0], 0.95),
            genuine=genuine,
            impostor=impostors,
        )
