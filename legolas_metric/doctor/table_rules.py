"""What follows from a table's reports, one small rule for each: how bad, why, and what to do."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from legolas_metric.doctor.decision_rules import DecisionFacts, decision_findings
from legolas_metric.doctor.findings import Finding, Severity, worst_first
from legolas_metric.doctor.noise import LabelNoise
from legolas_metric.doctor.thresholds import Limits
from legolas_metric.evaluation.distribution import ClassDistribution
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.measures import AUC, EER, MAP_R, RANK_1, measure
from legolas_metric.probes.collapse_report import CLASS, HEALTHY, OVER_CLUSTERED, POINT, CollapseReport

_SHOWN = 5
SUSPECTS = "suspects"
"""Name of the rule that rows are worth a look."""


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
        decisions: twins and templates, or None.
        limits: of the doctor.
    """

    collapse: CollapseReport
    ranking: RankingReport
    same_group: RankingReport | None
    verification: VerificationReport
    distribution: ClassDistribution
    noise: LabelNoise
    untrained_collapse: CollapseReport | None
    decisions: DecisionFacts | None = None
    limits: Limits


def findings(facts: Facts) -> tuple[Finding, ...]:
    """All that the facts say, worst first: by severity, and then by the share that they concern."""
    rules = (
        *(_collapse, _narrow_cone, _worse_than_untrained, _group_outweighs_class, _chance, _auc_hides_rank, _weak),
        *(_leak, _noise, _false_negatives, _weak_figures, _decisions),
    )
    return worst_first(finding for rule in rules for finding in rule(facts))


def _decisions(facts: Facts) -> Iterator[Finding]:
    """Twins always; what a threshold and templates would do only where classes are found."""
    if facts.decisions is not None:
        said = decision_findings(facts.decisions, facts.verification, facts.limits)
        yield from (one for one in said if one.severity != "note" or facts.ranking.rank[1] >= facts.limits["poor_rank"])


def _collapse(facts: Facts) -> Iterator[Finding]:
    """A collapse, unless the ranking shows that little was lost by it."""
    report = facts.collapse
    if report.verdict in (None, HEALTHY) or (report.verdict == POINT and _ranks(facts)):
        return
    severity: Severity = "fault"
    sentence, evidence, remedy = f"the embeddings show {report.verdict}", "; ".join(report.evidence), report.remedy
    if report.verdict == OVER_CLUSTERED and _ranks(facts):
        severity, sentence = "note", "every class is nearly one point (over-clustered), and the classes rank well"
        evidence += f"; {_ranked(facts)}"
    for cause in (*_group_outweighs_class(facts), *_chance(facts)):
        if report.verdict == CLASS:  # what draws the nearest rows is known better there
            remedy = cause.remedy
    yield Finding(severity=severity, rule="collapse", sentence=sentence, evidence=evidence, remedy=remedy, share=1.0)


def _narrow_cone(facts: Facts) -> Iterator[Finding]:
    """A large offset of all rows that leaves the classes apart."""
    report = facts.collapse
    if not report.evidence[0].startswith("narrow cone") and not (report.verdict == POINT and _ranks(facts)):
        return
    yield Finding(
        severity="note",
        rule="narrow cone",
        sentence="all rows share a large offset (a narrow cone), and the classes are told apart in spite of it",
        evidence="; ".join(report.evidence[:2]) + f"; {_ranked(facts)}",
        remedy="none is needed to rank; before you compare cosines with a threshold, or search with few bits, subtract "
        "the mean of the rows (of the training rows, for new ones)",
    )


def _ranked(facts: Facts) -> str:
    return f"{RANK_1} {facts.ranking.rank[1]:.3f}, {MAP_R} {facts.ranking.map_at_r:.3f}"


def _ranks(facts: Facts) -> bool:
    return min(facts.ranking.rank[1], facts.ranking.map_at_r) >= facts.limits["good_rank"]


def _worse_than_untrained(facts: Facts) -> Iterator[Finding]:
    """A fault where the ranking fell, a warning where only the pairs did."""
    ranking, pairs = facts.ranking, facts.verification
    if ranking.baseline is None or pairs.baseline is None:
        return
    figures = {
        RANK_1: (ranking.rank[1], ranking.baseline.rank[1]),
        MAP_R: (ranking.map_at_r, ranking.baseline.map_at_r),
        AUC: (pairs.auc, pairs.baseline.auc),
    }
    for far in pairs.tar_at_far:
        if far in pairs.baseline.tar_at_far and far not in pairs.flagged:
            figures[measure(f"tar_at_far_{far:g}").title] = (pairs.tar_at_far[far], pairs.baseline.tar_at_far[far])
    fell = [name for name, (after, before) in figures.items() if after < before - facts.limits["worse"]]
    falls = [before - after for after, before in figures.values()]
    figures[EER] = (pairs.eer, pairs.baseline.eer)
    if pairs.eer > pairs.baseline.eer + facts.limits["worse"]:
        fell.append(EER)
        falls.append(pairs.eer - pairs.baseline.eer)
    if not fell:
        return
    of_ranking = [name for name in fell if name in (RANK_1, MAP_R)]
    against = ", ".join(f"{name} {now:.3f} against {then:.3f}" for name, (now, then) in figures.items())
    after, before = figures[fell[0]]
    sentence = f"worse than untrained: {fell[0]} {after:.2f}, untrained {before:.2f}"
    if not of_ranking and figures[RANK_1][0] > figures[RANK_1][1] + facts.limits["worse"]:
        sentence = f"the ranking gained and the pairs lost by training: {_moved(figures, [RANK_1, *fell])}"
    yield Finding(
        severity="fault" if of_ranking else "warning",
        rule="worse than untrained",
        sentence=sentence,
        evidence=f"{against}, over {ranking.queries} queries",
        remedy="check what the loss is fed (the miner's stats: fallback, filtered), lower the learning rate, and "
        "start from random or semi-hard negatives (MiningSchedule)"
        if of_ranking
        else "judge by the figure that you will use: for one threshold over all pairs, similarities must mean the same "
        "for every class, which a loss on triplets alone doesn't ask (SupConLoss compares over the whole batch)",
        share=min(max(falls), 1.0),
    )


def _moved(figures: dict[str, tuple[float, float]], names: list[str]) -> str:
    return ", ".join(f"{name} {figures[name][1]:.3f} to {figures[name][0]:.3f}" for name in names)


def _group_outweighs_class(facts: Facts) -> Iterator[Finding]:
    """No better than guessing across groups, and far better within: the encoder ranks, but by the group."""
    if not _guesses(facts) or facts.same_group is None:
        return
    inside, across, chance = _inside(facts), facts.ranking.rank[1], _guess(facts)
    if inside - across <= facts.limits["group_gap"]:
        return
    than = "worse than" if across < chance else "like"
    yield Finding(
        severity="fault",
        rule="group outweighs class",
        sentence=f"the group outweighs the class: {RANK_1} is {inside:.2f} within groups, and across them "
        f"{across:.3f}, {than} a random ranking ({chance:.3f})",
        evidence=f"{facts.ranking.queries} queries; the rows of another group that lie nearest are drawn by what the "
        "groups differ in (session, camera, recording), and not by class",
        remedy="train with positives from other groups (PKSampler(distinct_groups=True)); normalise the inputs of each "
        "group, or subtract each group's mean embedding, and diagnose again",
        share=inside - across,
    )


def _chance(facts: Facts) -> Iterator[Finding]:
    if not _guesses(facts) or any(_group_outweighs_class(facts)):
        return
    rank1, chance = facts.ranking.rank[1], _guess(facts)
    evidence = f"a random ranking finds its class first for {chance:.3f} of these {facts.ranking.queries} queries"
    # Beyond the deviations of as many draws: nearest rows are drawn by something that avoids the class.
    deviation = math.sqrt(chance * (1 - chance) / max(facts.ranking.queries, 1))
    if rank1 < chance - facts.limits["deviations_of_chance"] * deviation:
        sentence = f"{RANK_1} {rank1:.3f} is worse than a random ranking's {chance:.3f}: something else than the class "
        sentence += "draws the nearest rows"
        remedy = "look at the worst queries (ranking.worst): what do they share with their nearest rows (session, "
        remedy += "source, length, background)? Pass it as groups"
    else:
        sentence = f"{RANK_1} {rank1:.3f} is hardly better than guessing"
        remedy = "check that embeddings and labels belong to the same rows, in the same order, before anything else"
    yield Finding(
        severity="fault", rule="guessing", sentence=sentence, evidence=evidence, remedy=remedy, share=1 - rank1
    )


def _guess(facts: Facts) -> float:
    """Rank@1 of a random ranking."""
    found = facts.ranking.per_query
    return float((found.positives / (found.positives + found.negatives)).mean())


def _guesses(facts: Facts) -> bool:
    chance = _guess(facts)
    share = chance + facts.limits["guessing_rank"] * (1 - chance)  # of few classes
    return facts.ranking.rank[1] < min(facts.limits["times_chance"] * chance, share)


def _inside(facts: Facts) -> float:
    """Rank@1 within groups of the queries that have a positive in another group."""
    assert facts.same_group is not None
    kept = torch.isin(facts.same_group.per_query.ids, facts.ranking.per_query.ids)
    return float(facts.same_group.first()[kept].mean())


def _gap(facts: Facts) -> bool:
    """Whether the encoder ranks much worse across groups than within them."""
    return facts.same_group is not None and _inside(facts) - facts.ranking.rank[1] > facts.limits["group_gap"]


def _auc_hides_rank(facts: Facts) -> Iterator[Finding]:
    auc, rank1, gallery = facts.verification.auc, facts.ranking.rank[1], facts.ranking.gallery
    if auc >= facts.limits["confident_auc"] and rank1 < facts.limits["poor_rank"]:
        mean = facts.verification.mean_rank(gallery)
        yield Finding(
            severity="fault" if rank1 < facts.limits["useless_rank"] else "warning",
            rule=f"{AUC} hides {RANK_1}",
            sentence=f"{AUC} {auc:.2f} but {RANK_1} {rank1:.2f}: in a gallery of {gallery:,} that {AUC} means a mean "
            f"rank of {mean:,.0f}",
            evidence=f"{AUC} {auc:.4f}, {RANK_1} {rank1:.4f} (a random ranking's {_guess(facts):.4f}); "
            f"E[rank] - 1 = (1 - {AUC})(gallery - 1); measured over {facts.ranking.queries} queries and "
            f"{facts.verification.impostor:,} impostor pairs",
            remedy=f"judge and stop by {RANK_1} or {MAP_R}; train on the nearest negatives of the whole set (HardMiner "
            "with a FalseNegativeGuard)",
            share=1 - rank1,
        )


def _leak(facts: Facts) -> Iterator[Finding]:
    if not _gap(facts) or any(_group_outweighs_class(facts)):
        return
    inside, across = _inside(facts), facts.ranking.rank[1]
    yield Finding(
        severity="warning",
        rule="groups flatter",
        sentence=f"{RANK_1} falls from {inside:.2f} to {across:.2f} once a query's own group is taken out",
        evidence="the embeddings tell the session, camera or recording as well as the class",
        remedy="quote the figure across groups; split by group, and train with PKSampler(distinct_groups=True)",
        share=inside - across,
    )


def _weak(facts: Facts) -> Iterator[Finding]:
    """A poor ranking that nothing else has named."""
    rank1 = facts.ranking.rank[1]
    named = (*_chance(facts), *_group_outweighs_class(facts), *_auc_hides_rank(facts), *_worse_than_untrained(facts))
    if rank1 < facts.limits["poor_rank"] and not named:
        before = facts.ranking.baseline
        yield Finding(
            severity="warning",
            rule="weak ranking",
            sentence=f"a weak ranking: {1 - rank1:.0%} of the queries find another class first",
            evidence=f"{RANK_1} {rank1:.2f} (a random ranking's {_guess(facts):.3f}), {MAP_R} "
            f"{facts.ranking.map_at_r:.3f}, {AUC} {facts.verification.auc:.2f}"
            + ("" if before is None else f"; untrained {RANK_1} {before.rank[1]:.2f}"),
            remedy="train it (longer), on classes like these; if that does not help, look at the worst queries: is the "
            "class to be seen in them at all?",
            share=1 - rank1,
        )


def _noise(facts: Facts) -> Iterator[Finding]:
    """Rows to look at; not across groups that the encoder tells apart, where it is the likelier fault."""
    noise, rows = facts.noise, facts.distribution.rows
    suspects = len(noise.suspects)
    if not suspects or facts.ranking.rank[1] < facts.limits["trusted_rank"] or _gap(facts):
        return
    first = ", ".join(str(int(id)) for id in noise.suspects[:_SHOWN])
    yield Finding(
        severity="warning" if suspects > facts.limits["noisy"] * rows else "note",
        rule=SUSPECTS,
        sentence=f"{suspects} of {rows} rows {'is' if suspects == 1 else 'are'} worth a look: most neighbours have "
        "another label",
        evidence=f"of their {noise.neighbours} nearest rows most have one other label, and at most a fifth of those "
        f"that could their own; clearest first, ids {first}{', ...' if suspects > _SHOWN else ''}",
        remedy="read them (`suspects`: id, label, suggestion) and mend or drop wrong labels; of those that "
        "were read a quarter to six tenths were wrong, the others rows that the encoder can't place yet",
        share=suspects / rows,
    )


def _false_negatives(facts: Facts) -> Iterator[Finding]:
    """Only where enough different rows bear it, and the encoder is seldom at fault."""
    noise, limits = facts.noise, facts.limits
    few = noise.contradicted_rows < limits["fewest_contradicted"]
    if few or noise.contradicted <= limits["contradicted"] * noise.negatives:
        return
    if facts.ranking.rank[1] < limits["trusted_of_negatives"] or _gap(facts):
        return
    yield Finding(
        severity="warning",
        rule="false negatives",
        sentence=f"{noise.contradicted} of {noise.negatives} nearest negatives lie among rows of the anchor's own "
        "class: probable false negatives",
        evidence=f"they are {noise.contradicted_rows} different rows; asked were the {noise.negatives} of "
        f"{facts.distribution.rows} rows that have another label among their {noise.neighbours} nearest",
        remedy="mine with guard=FalseNegativeGuard(), or semi-hard instead of hard negatives",
        share=noise.contradicted / noise.negatives,
    )


def _weak_figures(facts: Facts) -> Iterator[Finding]:
    """What the figures rest on."""
    sizes, pairs, ranking = facts.distribution, facts.verification, facts.ranking
    for sentence in sizes.warnings:
        # The rows may have been held out: what to do in training is no advice on them.
        sentence = sentence.removesuffix(": balance batches (PKSampler)")
        yield Finding(
            severity="note",
            rule="class sizes",
            sentence=sentence,
            evidence=f"{sizes.classes} classes of {sizes.smallest} to {sizes.largest} rows, median {sizes.median:g}",
            remedy="look at by_class() beside the means, in which large classes weigh most",
            share=sizes.dominant,
        )
    for sentence in replace(pairs, baseline=None).warnings():  # what fell is a finding of its own
        yield Finding(
            severity="note",
            rule="few pairs",
            sentence=sentence,
            evidence=", ".join(f"a rate of {far:g} is {far * pairs.impostor:.1f} pairs" for far in pairs.flagged),
            remedy="quote larger rates, or verify on more rows",
            share=0.0,
        )
    if ranking.unanswerable:
        asked = ranking.queries + ranking.unanswerable
        yield Finding(
            severity="note",
            rule="unanswerable queries",
            sentence=f"{ranking.unanswerable} of {asked} queries have no positive to find and are left out",
            evidence="their classes have no second row" + ("" if facts.same_group is None else " in another group"),
            remedy="quote the count beside the means",
            share=ranking.unanswerable / asked,
        )
