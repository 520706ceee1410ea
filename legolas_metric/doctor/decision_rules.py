"""What a table says of decisions: twins under two labels, a threshold to start from, what templates gain."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED
from legolas_metric.datasets.labels import class_sizes
from legolas_metric.decisions.score_norm import ScoreNorm
from legolas_metric.decisions.template_curve import TemplateCurve, template_curve
from legolas_metric.doctor.findings import Finding
from legolas_metric.doctor.thresholds import Limits
from legolas_metric.evaluation.bootstrap import FEW_IDENTITIES, Difference, paired_difference
from legolas_metric.evaluation.ranking import evaluate_ranking
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.index.exact import ExactIndex
from legolas_metric.measures import RANK_1
from legolas_metric.rows import Rows

_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecisionFacts:
    """What is known beside the reports.

    Attributes:
        twins: [t, 2] ids of rows of two labels that are nearly the same, each pair once.
        rows: that were looked at.
        outliers: ids of rows that lie far from every other row, though their class has others; the farthest first.
        templates: one enrolled row against four; None where too few or too many people are there.
        norm: Rank@1 by AS-norm less the plain one, half of the people judged with the other half as the cohort, and
            the other way round; None where too few people or too many rows are there.
    """

    twins: Int64[Tensor, "t 2"]
    rows: int
    outliers: Int64[Tensor, " o"]
    norm: Difference | None
    templates: TemplateCurve | None


def decision_facts(rows: Rows, limits: Limits) -> DecisionFacts:
    """Look for twins, and draw templates. Rows are unit rows with labels."""
    assert rows.labels is not None
    labelled = rows[(rows.labels != UNLABELLED).nonzero().flatten()]
    assert labelled.labels is not None
    index = ExactIndex().fit(labelled.embeddings, labelled.labels, ids=labelled.ids)
    near = index.self_join(1, want="negative")
    close = near.similarities[:, 0] >= 1 - limits["twin_distance"] ** 2 / 2
    pairs = near.ids[close, 0].new_empty(int(close.sum()), 2)
    pairs[:, 0], pairs[:, 1] = labelled.ids[close], near.ids[close, 0]
    return DecisionFacts(
        twins=pairs.sort(dim=1).values.unique(dim=0),
        rows=len(labelled),
        outliers=_outliers(labelled, index, limits["far_deviations"]),
        templates=_curve(labelled, limits),
        norm=_norm(labelled, limits["norm_rows"]),
    )


def _outliers(rows: Rows, index: ExactIndex, deviations: float) -> Int64[Tensor, " o"]:
    """Rows whose nearest row lies farther than the median row's by so many deviations, told by the median one."""
    assert rows.labels is not None
    _, place, sizes = rows.labels.unique(return_inverse=True, return_counts=True)
    far = (2 - 2 * index.self_join(1, want="any").similarities[:, 0].double()).clamp_min(0).sqrt()
    spread = 1.4826 * (far - far.median()).abs().median()  # of a normal variable: its standard deviation
    order = far.argsort(descending=True)
    return rows.ids[order[((far > far.median() + deviations * spread) & (sizes[place] > 1))[order]]]


def _norm(rows: Rows, most: float) -> Difference | None:
    assert rows.labels is not None
    people = rows.labels.unique()
    if len(people) < 2 * FEW_IDENTITIES or len(rows) > most:
        return None
    half = people[torch.randperm(len(people), generator=torch.Generator().manual_seed(0))[: len(people) // 2]]
    inside = torch.isin(rows.labels, half)
    changes, who = [], []
    for side in (inside, ~inside):
        judged, cohort = rows[side.nonzero().flatten()], rows[(~side).nonzero().flatten()]
        protocol = "leave-one-out" if rows.groups is None else "cross-session"
        try:
            plain, normed = (
                evaluate_ranking(
                    judged.embeddings, judged.labels, groups=judged.groups, protocol=protocol, ks=1, scorer=scorer
                ).per_query
                for scorer in (None, ScoreNorm(cohort.embeddings, labels=cohort.labels))
            )
        except ValueError:  # nobody in this half has a second row (of another group)
            return None
        changes.append(normed.rank_at(1) - plain.rank_at(1))
        who.append(plain.labels)
    labels = torch.cat(who)
    if len(labels.unique()) < FEW_IDENTITIES:
        return None
    return paired_difference(torch.cat(changes), (labels, None), over="identities", level=0.95, resamples=1000, seed=0)


def _curve(rows: Rows, limits: Limits) -> TemplateCurve | None:
    assert rows.labels is not None
    people, sizes = class_sizes(rows.labels)
    if not int((sizes > 2).sum()) >= FEW_IDENTITIES or len(people) > limits["template_people"]:
        return None
    if rows.groups is not None:
        homes = [len(rows.groups[rows.labels == one].unique()) > 1 for one in people]
        if sum(homes) < FEW_IDENTITIES:
            return None
    counts = (1, int(limits["enrolled"]))
    return template_curve(rows.embeddings, rows.labels, groups=rows.groups, counts=counts, repeats=5)


def decision_findings(facts: DecisionFacts, verification: VerificationReport, limits: Limits) -> Iterator[Finding]:
    """Twins are a warning; the threshold and what templates gain are notes."""
    if len(facts.twins):
        shown = ", ".join(f"{one} and {other}" for one, other in facts.twins[:_SHOWN].tolist())
        yield Finding(
            severity="warning",
            rule="twins",
            sentence=f"{len(facts.twins)} pairs of rows are nearly the same under two labels: label errors, or leaks",
            evidence=f"they lie within a distance of {limits['twin_distance']:g}; ids {shown}"
            + (", ..." if len(facts.twins) > _SHOWN else ""),
            remedy="look at both, and drop one or mend its label; no threshold can tell them apart",
            share=min(1.0, len(facts.twins) / facts.rows),
        )
    yield from _far_rows(facts, limits["far_deviations"])
    yield from _normalisation(facts)
    rate, many = limits["accepted"], int(limits["enrolled"])
    if rate in verification.threshold_at_far and rate not in verification.flagged:
        rates = verification.rates_at(verification.threshold_at_far[rate])
        yield Finding(
            severity="note",
            rule="threshold",
            sentence=f"a threshold to start from is {verification.threshold_at_far[rate]:.3f}, for a FAR of {rate:g}",
            evidence=f"here it accepts {rates.far:.4f} of impostor pairs and rejects {rates.frr:.3f} of genuine ones",
            remedy="choose it on people whom the encoder did not see, and try it on others: DecisionRule.cross_fit",
        )
    if facts.templates is not None and facts.templates.gain[many].shown:
        curve, gain = facts.templates, facts.templates.gain[many]
        if gain.value > 0:
            yield Finding(
                severity="note",
                rule="templates",
                sentence=f"{many} enrolled rows a person, averaged, would raise {RANK_1} from "
                f"{curve.rank1[1]:.3f} to {curve.rank1[many]:.3f}",
                evidence=f"of one probe a person; the gain's 95 % interval is {gain.low:+.3f} to {gain.high:+.3f}",
                remedy="enrol several recordings: enrol(embeddings, by=labels)",
                share=gain.value,
            )


def _far_rows(facts: DecisionFacts, deviations: float) -> Iterator[Finding]:
    """Rows that lie near no other."""
    if len(facts.outliers):
        shown = ", ".join(map(str, facts.outliers[:_SHOWN].tolist()))
        yield Finding(
            severity="note",
            rule="outliers",
            sentence=f"far from every other row, of their own class too: {len(facts.outliers)} of {facts.rows} rows",
            evidence=f"the nearest row is farther by {deviations:g} deviations than the median row's; ids {shown}"
            + (", ..." if len(facts.outliers) > _SHOWN else ""),
            remedy="look at them: a bad recording, a crop of nothing, a wrong label; leave them out of templates",
            share=len(facts.outliers) / facts.rows,
        )


def _normalisation(facts: DecisionFacts) -> Iterator[Finding]:
    """What AS-norm would gain, also where that is nothing."""
    if facts.norm is not None:
        gain = facts.norm
        verdict = "gain nothing that is shown" if gain.value <= 0 or not gain.shown else "raise Rank@1"
        yield Finding(
            severity="note",
            rule="score normalisation",
            sentence=f"AS-norm would {verdict}: {gain.value:+.3f}",
            evidence=f"half of the people judged with the other half as the cohort, and the other way round; 95 % "
            f"interval {gain.low:+.3f} to {gain.high:+.3f}",
            remedy="use ScoreNorm with a cohort of training people"
            if gain.shown and gain.value > 0
            else "leave the scores as they are",
            share=max(0.0, gain.value),
        )
