"""The Monday answer: is this embedding any good, and if not, why not?"""

from dataclasses import dataclass

from legolas_metric.checks import ArrayLike
from legolas_metric.doctor.findings import Facts, Finding, findings
from legolas_metric.doctor.noise import label_noise
from legolas_metric.evaluation.distribution import class_distribution
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.ranking import evaluate_ranking
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.evaluation.verification import VerificationReport, evaluate_verification
from legolas_metric.probes.collapse import probe_embeddings
from legolas_metric.probes.collapse_report import CollapseReport
from legolas_metric.rows import as_embeddings, as_groups, as_ids, as_labels, fitted_rows

_IN_FULL = 10_000  # rows up to which whole rankings cost a second or two: they show Rank@1 against the gallery


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that the library measures of one table of embeddings, and the sentences that follow.

    Attributes:
        findings: worst first; empty where nothing is wrong.
        facts: the reports that they rest on: collapse, ranking, verification, class sizes, label noise.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> labels = torch.arange(300) // 6
        >>> rows = torch.randn(50, 32, generator=generator)[labels] + 0.4 * torch.randn(300, 32, generator=generator)
        >>> diagnose(rows, labels).verdict
        'healthy'
    """

    findings: tuple[Finding, ...]
    facts: Facts

    @property
    def collapse(self) -> CollapseReport:
        """Probes of the embeddings."""
        return self.facts.collapse

    @property
    def ranking(self) -> RankingReport:
        """Ranking; its `baseline` is the untrained encoder's."""
        return self.facts.ranking

    @property
    def verification(self) -> VerificationReport:
        """Verification; its `baseline` is the untrained encoder's."""
        return self.facts.verification

    @property
    def verdict(self) -> str:
        """The worst finding's sentence, or "healthy" where there is neither fault nor warning."""
        return "healthy" if self.healthy else self.findings[0].sentence

    @property
    def healthy(self) -> bool:
        """True where no finding is a fault or a warning."""
        return all(finding.severity == "note" for finding in self.findings)

    def text(self) -> str:
        """One screen: the figures, then the findings, each with its evidence and remedy."""
        lines = [*_figures(self.facts), ""]
        for finding in self.findings:
            lines.append(f"{finding.severity.upper()}: {finding.sentence}")
            lines += [f"  because {finding.evidence}", f"  remedy: {finding.remedy}"]
        return "\n".join(lines if self.findings else [*lines, "No fault found."])


def diagnose(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    ids: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    untrained: ArrayLike | None = None,
) -> Diagnosis:
    """Probe, rank and verify embeddings, look for label noise, and say what follows, worst first.

    With groups, a query must find its class in another group; the difference to finding it in its own is a finding.

    Args:
        embeddings: [n, d], finite, no zero rows.
        labels: [n] integers; -1 is a distractor.
        ids: [n] unique, names of the rows (default: row numbers), by which findings name them.
        groups: [n] session, camera or recording.
        untrained: [n, e], embeddings of the same rows by the untrained encoder.

    Raises:
        TypeError, ValueError: as `evaluate_ranking`.

    Example:
        >>> import torch
        >>> rows = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
        >>> found = diagnose(rows, torch.arange(60) // 6)
        >>> found.findings[0].severity
        'fault'
    """
    rows = as_embeddings(embeddings, metric="cosine")
    own = as_labels(labels, len(rows)).to(rows.device)
    names, sessions = as_ids(ids, len(rows)), as_groups(groups, len(rows))
    before = None
    if untrained is not None:
        before = as_embeddings(untrained, name="untrained", metric="cosine")
        as_labels(own, len(before), of="untrained")
    protocol = RetrievalProtocol() if sessions is None else RetrievalProtocol.cross_session()
    facts = Facts(
        collapse=probe_embeddings(rows, own),
        ranking=evaluate_ranking(
            rows, own, ids=names, groups=sessions, protocol=protocol, full=len(rows) <= _IN_FULL, baseline=before
        ),
        same_group=None if sessions is None else evaluate_ranking(rows, own, ids=names),
        verification=evaluate_verification(rows, own, groups=sessions, baseline=before),
        distribution=class_distribution(own),
        noise=label_noise(fitted_rows(rows, own, ids=names, groups=None, metric="cosine")),
        untrained_collapse=None if before is None else probe_embeddings(before, own),
    )
    return Diagnosis(findings=findings(facts), facts=facts)


def _figures(facts: Facts) -> list[str]:
    """The figures in a column, beside the untrained encoder's where they are known."""
    ranking, verification, collapse = facts.ranking, facts.verification, facts.collapse
    shown = {
        "Rank@1": (ranking, lambda report: report.rank[1]),
        "MAP@R": (ranking, lambda report: report.map_at_r),
        "AUC": (verification, lambda report: report.auc),
        "EER": (verification, lambda report: report.eer),
    }
    lines = []
    for name, (report, value) in shown.items():
        untrained = "" if report.baseline is None else f"   untrained {value(report.baseline):.3f}"
        lines.append(f"{name:<15} {value(report):.3f}{untrained}")
    before = facts.untrained_collapse
    untrained = "" if before is None else f"   untrained {before.effective_rank:.1f}"
    lines.append(f"{'effective rank':<15} {collapse.effective_rank:.1f} of {collapse.d}{untrained}")
    lines.append(f"{'collapse':<15} {collapse.verdict}")
    lines.append(f"{'queries':<15} {ranking.queries} ({ranking.protocol.name}), {ranking.unanswerable} unanswerable")
    return lines
