"""What a table says of decisions: twins under two labels, a threshold to start from, what templates gain."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED
from legolas_metric.datasets.labels import class_sizes
from legolas_metric.decisions.template_curve import TemplateCurve, template_curve
from legolas_metric.doctor.findings import Finding
from legolas_metric.evaluation.bootstrap import FEW_IDENTITIES
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.index.exact import ExactIndex
from legolas_metric.measures import RANK_1
from legolas_metric.rows import Rows

_SAME = 1 - 5e-7
"""A similarity from here on is a distance of at most 1e-3: the same recording, as a rule."""
_MOST_PEOPLE = 2000
_ENROLLED = 4
_RATE = 0.01
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecisionFacts:
    """What is known beside the reports.

    Attributes:
        twins: [t, 2] ids of rows of two labels that are nearly the same, each pair once.
        rows: that were looked at.
        templates: one enrolled row against four; None where too few or too many people are there.
    """

    twins: Int64[Tensor, "t 2"]
    rows: int
    templates: TemplateCurve | None


def decision_facts(rows: Rows) -> DecisionFacts:
    """Look for twins, and draw templates. Rows are unit rows with labels."""
    assert rows.labels is not None
    labelled = rows[(rows.labels != UNLABELLED).nonzero().flatten()]
    assert labelled.labels is not None
    index = ExactIndex().fit(labelled.embeddings, labelled.labels, ids=labelled.ids)
    near = index.self_join(1, want="negative")
    close = near.similarities[:, 0] >= _SAME
    pairs = near.ids[close, 0].new_empty(int(close.sum()), 2)
    pairs[:, 0], pairs[:, 1] = labelled.ids[close], near.ids[close, 0]
    return DecisionFacts(twins=pairs.sort(dim=1).values.unique(dim=0), rows=len(labelled), templates=_curve(labelled))


def _curve(rows: Rows) -> TemplateCurve | None:
    assert rows.labels is not None
    people, sizes = class_sizes(rows.labels)
    if not int((sizes > 2).sum()) >= FEW_IDENTITIES or len(people) > _MOST_PEOPLE:
        return None
    able = rows
    if rows.groups is not None:
        homes = [len(rows.groups[rows.labels == one].unique()) > 1 for one in people]
        if sum(homes) < FEW_IDENTITIES:
            return None
    return template_curve(able.embeddings, able.labels, groups=able.groups, counts=(1, _ENROLLED), repeats=5)


def decision_findings(facts: DecisionFacts, verification: VerificationReport) -> Iterator[Finding]:
    """Twins are a warning; the threshold and what templates gain are notes."""
    if len(facts.twins):
        shown = ", ".join(f"{one} and {other}" for one, other in facts.twins[:_SHOWN].tolist())
        yield Finding(
            severity="warning",
            rule="twins",
            sentence=f"{len(facts.twins)} pairs of rows are nearly the same under two labels: label errors, or leaks",
            evidence=f"they lie within a distance of 1e-3; ids {shown}{', ...' if len(facts.twins) > _SHOWN else ''}",
            remedy="look at both, and drop one or mend its label; no threshold can tell them apart",
            share=min(1.0, len(facts.twins) / facts.rows),
        )
    if _RATE in verification.threshold_at_far and _RATE not in verification.flagged:
        rates = verification.rates_at(verification.threshold_at_far[_RATE])
        yield Finding(
            severity="note",
            rule="threshold",
            sentence=f"a threshold to start from is {verification.threshold_at_far[_RATE]:.3f}, for a FAR of {_RATE:g}",
            evidence=f"here it accepts {rates.far:.4f} of impostor pairs and rejects {rates.frr:.3f} of genuine ones",
            remedy="choose it on people whom the encoder did not see, and try it on others: DecisionRule.cross_fit",
        )
    if facts.templates is not None and facts.templates.gain[_ENROLLED].shown:
        curve, gain = facts.templates, facts.templates.gain[_ENROLLED]
        if gain.value > 0:
            yield Finding(
                severity="note",
                rule="templates",
                sentence=f"{_ENROLLED} enrolled rows a person, averaged, would raise {RANK_1} from "
                f"{curve.rank1[1]:.3f} to {curve.rank1[_ENROLLED]:.3f}",
                evidence=f"of one probe a person; the gain's 95 % interval is {gain.low:+.3f} to {gain.high:+.3f}",
                remedy="enrol several recordings: enrol(embeddings, by=labels)",
                share=gain.value,
            )
