"""A finding: one sentence, the figures that it follows from, and what to do. Of embeddings and of runs alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from legolas_metric.tables import Table

Severity = Literal["fault", "warning", "note"]
_ORDER: tuple[Severity, ...] = ("fault", "warning", "note")


@dataclass(frozen=True, slots=True)
class Mark:
    """Where on a run's curves a finding lies: a value by name, and an epoch."""

    value: str
    epoch: float | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that the figures say.

    Attributes:
        severity: "fault" (do not use this as it is), "warning" (it is worse than it looks, or than it could be), "note"
            (mind it when you quote the figures).
        rule: name of the rule that says so.
        sentence: what is the matter.
        evidence: the figures that it follows from.
        remedy: what to do.
        share: of the rows, queries or hardest negatives that it concerns, in [0, 1]; where a figure fell, by how much.
        marks: of a run, where it lies on the curves.

    Example:
        >>> from legolas_metric import Finding
        >>> said = {"rule": "few", "sentence": "It is little.", "evidence": "n = 3", "remedy": "Collect more."}
        >>> Finding(severity="note", **said).remedy
        'Collect more.'

    Raises:
        ValueError: another severity.

    Source: ours.
    """

    severity: Severity
    rule: str
    sentence: str
    evidence: str
    remedy: str
    share: float = 0.0
    marks: tuple[Mark, ...] = ()

    def __post_init__(self) -> None:
        if self.severity not in _ORDER:
            raise ValueError(f"severity of {self.rule!r} must be one of {', '.join(_ORDER)}, got {self.severity!r}")


def worst_first(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """By severity, and then by the share that they concern."""
    return tuple(sorted(found, key=lambda finding: (_ORDER.index(finding.severity), -finding.share)))


def findings_text(found: Sequence[Finding]) -> str:
    """Each with its evidence and remedy."""
    lines = []
    for finding in found:
        lines.append(f"{finding.severity.upper()}: {finding.sentence}")
        lines += [f"  because {finding.evidence}", f"  remedy: {finding.remedy}"]
    return "\n".join(lines) or "No fault found."


def findings_table(found: Sequence[Finding]) -> Table:
    """For pages and notebooks."""
    return Table(
        ["severity", "finding", "because", "remedy"], [(f.severity, f.sentence, f.evidence, f.remedy) for f in found]
    )
