"""Sentences that follow from a table's reports: each finding says how bad, why, and what to do."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

from legolas_metric.doctor.noise import LabelNoise
from legolas_metric.evaluation.distribution import ClassDistribution
from legolas_metric.evaluation.ranking_report import WORSE, RankingReport
from legolas_metric.evaluation.verification import VerificationReport
from legolas_metric.probes.collapse_report import HEALTHY, OVER_CLUSTERED, POINT, CollapseReport

Severity = Literal["fault", "warning", "note"]
_ORDER: tuple[Severity, ...] = ("fault", "warning", "note")

_CONFIDENT_AUC = 0.8
_POOR_RANK = 0.5
_CHANCE, _ABOVE_CHANCE = 3.0, 0.25
_GOOD = 0.9
_LEAK = 0.1
_TRUSTED_RANK = 0.3
_NOISY = 0.02
_CONTRADICTED = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that the figures say.

    Attributes:
        severity: "fault" (do not use these embeddings as they are), "warning" (they are worse than they look, or than
            they could be), "note" (mind it when you quote the figures).
        sentence: what is the matter.
        evidence: the figures that it follows from.
        remedy: what to do.
        share: of the rows, queries or hardest negatives that it concerns, in [0, 1]; where a figure fell, by how much.
    """

    severity: Severity
    sentence: str
    evidence: str
    remedy: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the findings are drawn from; `ranking` carries the untrained encoder's report as its baseline.

    Attributes:
        collapse: of the embeddings.
        ranking: with groups, across groups; else leave-one-out.
        same_group: leave-one-out, where `ranking` is across groups; else None.
        verification: over all pairs.
        distribution: of the labels.
        noise: of the labels, by neighbourhood.
        untrained_collapse: of the untrained encoder's embeddings, or None.
    """

    collapse: CollapseReport
    ranking: RankingReport
    same_group: RankingReport | None
    verification: VerificationReport
    distribution: ClassDistribution
    noise: LabelNoise
    untrained_collapse: CollapseReport | None


def findings(facts: Facts) -> tuple[Finding, ...]:
    """All that the facts say, worst first: by severity, and then by the share that they concern."""
    rules = (
        *(_collapse, _worse_than_untrained, _chance, _auc_hides_rank, _weak),
        *(_leak, _noise, _false_negatives, _weak_figures),
    )
    said = [finding for rule in rules for finding in rule(facts)]
    return tuple(sorted(said, key=lambda finding: (_ORDER.index(finding.severity), -finding.share)))


def _collapse(facts: Facts) -> Iterator[Finding]:
    """A collapse, unless the ranking shows that little was lost by it."""
    report, rank1, map_at_r = facts.collapse, facts.ranking.rank[1], facts.ranking.map_at_r
    if report.verdict == HEALTHY:
        return
    severity: Severity = "fault"
    sentence, evidence, remedy = f"the embeddings show {report.verdict}", "; ".join(report.evidence), report.remedy
    if min(rank1, map_at_r) >= _GOOD and report.verdict in (OVER_CLUSTERED, POINT):
        evidence += f"; Rank-1 {rank1:.3f}, MAP@R {map_at_r:.3f}"
        if report.verdict == OVER_CLUSTERED:
            severity, sentence = "note", "every class is nearly one point (over-clustered), and the classes rank well"
        else:
            severity, sentence = "warning", "all rows share a large offset, and rank well in spite of it"
            remedy = "subtract the mean of the rows (of the training rows, for new ones) before you compare by cosine"
    yield Finding(severity=severity, sentence=sentence, evidence=evidence, remedy=remedy, share=1.0)


def _worse_than_untrained(facts: Facts) -> Iterator[Finding]:
    """A fault where the ranking fell, a warning where only the pairs did."""
    ranking, pairs = facts.ranking, facts.verification
    if ranking.baseline is None or pairs.baseline is None:
        return
    figures = {
        "Rank-1": (ranking.rank[1], ranking.baseline.rank[1]),
        "MAP@R": (ranking.map_at_r, ranking.baseline.map_at_r),
        "AUC": (pairs.auc, pairs.baseline.auc),
    }
    fell = [name for name, (after, before) in figures.items() if after < before - WORSE]
    if fell:
        after, before = figures[fell[0]]
        against = ", ".join(f"{name} {now:.3f} against {then:.3f}" for name, (now, then) in figures.items())
        yield Finding(
            severity="warning" if fell == ["AUC"] else "fault",
            sentence=f"worse than untrained: {fell[0]} {after:.2f}, untrained {before:.2f}",
            evidence=f"{against}, over {ranking.queries} queries",
            remedy="check what the loss is fed (the miner's stats: fallback, filtered), lower the learning rate, and "
            "start from random or semi-hard negatives (MiningSchedule)",
            share=max(before - after for after, before in figures.values()),
        )


def _chance(facts: Facts) -> Iterator[Finding]:
    found = facts.ranking.per_query
    chance = float((found.positives / (found.positives + found.negatives)).mean())
    if facts.ranking.rank[1] < min(_CHANCE * chance, chance + _ABOVE_CHANCE * (1 - chance)):  # few classes: a share
        yield Finding(
            severity="fault",
            sentence=f"Rank-1 {facts.ranking.rank[1]:.3f} is hardly better than guessing",
            evidence=f"a random ranking finds its class first for {chance:.3f} of these queries",
            remedy="check that embeddings and labels belong to the same rows, in the same order, before anything else",
            share=1 - facts.ranking.rank[1],
        )


def _auc_hides_rank(facts: Facts) -> Iterator[Finding]:
    auc, rank1, gallery = facts.verification.auc, facts.ranking.rank[1], facts.ranking.gallery
    if auc >= _CONFIDENT_AUC and rank1 < _POOR_RANK:
        mean = facts.verification.mean_rank(gallery)
        yield Finding(
            severity="fault" if rank1 < _POOR_RANK / 5 else "warning",
            sentence=f"AUC {auc:.2f} but Rank-1 {rank1:.2f}: in a gallery of {gallery:,} that AUC means a mean rank of "
            f"{mean:,.0f}",
            evidence=f"E[rank] - 1 = (1 - AUC)(gallery - 1); measured over {facts.ranking.queries} queries and "
            f"{facts.verification.impostor:,} impostor pairs",
            remedy="judge and stop by Rank@1 or MAP@R; train on the nearest negatives of the whole set (HardMiner with "
            "a FalseNegativeGuard)",
            share=1 - rank1,
        )


def _leak(facts: Facts) -> Iterator[Finding]:
    if facts.same_group is None:
        return
    # The same queries, in both: those that have a positive in another group.
    kept = torch.isin(facts.same_group.per_query.ids, facts.ranking.per_query.ids)
    inside, across = float(facts.same_group.first()[kept].mean()), facts.ranking.rank[1]
    if inside - across > _LEAK:
        yield Finding(
            severity="warning",
            sentence=f"Rank-1 falls from {inside:.2f} to {across:.2f} once a query's own group is taken out",
            evidence="the embeddings tell the session, camera or recording as well as the class",
            remedy="quote the figure across groups; split by group, and use PKSampler(distinct_groups=True)",
            share=inside - across,
        )


def _weak(facts: Facts) -> Iterator[Finding]:
    """A poor ranking that nothing else has named."""
    rank1 = facts.ranking.rank[1]
    if rank1 < _POOR_RANK and not any((*_chance(facts), *_auc_hides_rank(facts), *_worse_than_untrained(facts))):
        before = facts.ranking.baseline
        yield Finding(
            severity="warning",
            sentence=f"a weak ranking: {1 - rank1:.0%} of the queries find another class first",
            evidence=f"Rank-1 {rank1:.2f}, MAP@R {facts.ranking.map_at_r:.3f}, AUC {facts.verification.auc:.2f}"
            + ("" if before is None else f"; untrained Rank-1 {before.rank[1]:.2f}"),
            remedy="train it (longer), on classes like these; if that does not help, look at the worst queries: is the "
            "class to be seen in them at all?",
            share=1 - rank1,
        )


def _noise(facts: Facts) -> Iterator[Finding]:
    suspects, rows = len(facts.noise.suspects), facts.distribution.rows
    if suspects > _NOISY * rows and facts.ranking.rank[1] >= _TRUSTED_RANK:
        yield Finding(
            severity="warning",
            sentence=f"{suspects} of {rows} rows look mislabelled",
            evidence=f"of their {facts.noise.neighbours} nearest rows most have one other label, and at most a fifth "
            f"of those that could their own; first ids: {', '.join(str(int(i)) for i in facts.noise.suspects[:5])}",
            remedy="look at these rows (facts.noise.suspects, facts.noise.suggested) and mend or drop wrong labels; "
            "where a label is right, the row is one that the encoder cannot tell from another class yet",
            share=suspects / rows,
        )


def _false_negatives(facts: Facts) -> Iterator[Finding]:
    noise = facts.noise
    if noise.contradicted_share > _CONTRADICTED and facts.ranking.rank[1] >= _TRUSTED_RANK:
        yield Finding(
            severity="warning",
            sentence=f"{_fraction(noise.contradicted_share)} of the hardest negatives look mislabelled",
            evidence=f"{noise.contradicted} of {noise.negatives} nearest negatives lie among the anchor's label",
            remedy="mine with guard=FalseNegativeGuard(), or semi-hard instead of hard negatives",
            share=noise.contradicted_share,
        )


def _weak_figures(facts: Facts) -> Iterator[Finding]:
    """What the figures rest on."""
    sizes, pairs, ranking = facts.distribution, facts.verification, facts.ranking
    for sentence in sizes.warnings:
        yield Finding(
            severity="note",
            sentence=sentence,
            evidence=f"{sizes.classes} classes of {sizes.smallest} to {sizes.largest} rows, median {sizes.median:g}",
            remedy="look at by_class() beside the means, in which large classes weigh most",
            share=sizes.dominant,
        )
    for sentence in replace(pairs, baseline=None).warnings():  # what fell is a finding of its own
        yield Finding(
            severity="note",
            sentence=sentence,
            evidence=", ".join(f"a rate of {far:g} is {far * pairs.impostor:.1f} pairs" for far in pairs.flagged),
            remedy="quote larger rates, or verify on more rows",
            share=0.0,
        )
    if ranking.unanswerable:
        asked = ranking.queries + ranking.unanswerable
        yield Finding(
            severity="note",
            sentence=f"{ranking.unanswerable} of {asked} queries have no positive to find and are left out",
            evidence="their classes have no second row" + ("" if facts.same_group is None else " in another group"),
            remedy="quote the count beside the means",
            share=ranking.unanswerable / asked,
        )


def _fraction(share: float) -> str:
    """A share in words, where it is close to a common fraction."""
    words = {1 / 4: "a quarter", 1 / 3: "a third", 1 / 2: "half", 2 / 3: "two thirds", 3 / 4: "three quarters"}
    nearest = min(words, key=lambda value: abs(value - share))
    return words[nearest] if abs(nearest - share) < 0.04 else f"{share:.0%}"
