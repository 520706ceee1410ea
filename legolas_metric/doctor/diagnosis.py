"""The Monday answer: is this embedding any good, and if not, why not?"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike
from legolas_metric.doctor.decision_rules import decision_facts
from legolas_metric.doctor.findings import Finding, findings_table, findings_text
from legolas_metric.doctor.noise import Suspect, label_noise, suspects_table
from legolas_metric.doctor.table_rules import SUSPECTS, Facts, findings
from legolas_metric.doctor.thresholds import limits as limits_of
from legolas_metric.evaluation.distribution import class_distribution
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.ranking import evaluate_ranking
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.evaluation.verification import evaluate_verification
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.measures import EFFECTIVE_RANK, measure
from legolas_metric.probes.collapse import probe_embeddings
from legolas_metric.probes.collapse_report import CollapseReport
from legolas_metric.rows import Rows, as_embeddings, as_labels, as_prepared, fitted_rows

_SHOWN = 20  # suspects in a notebook
_FARS = (1e-2, 1e-3, 1e-4)  # of the figures
_IN_FULL = 10_000  # rows up to which whole rankings cost a second or two: they show Rank@1 against the gallery


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that the library measures of one table of embeddings, and the sentences that follow.

    Attributes:
        findings: worst first; empty where nothing is wrong.
        suspects: rows whose neighbourhood carries another label, the clearest first, each with id, label and
            suggestion. Of those read on two data sets a quarter to six tenths were wrong: a list to look at. Empty
            where the encoder is the likelier fault: Rank@1 below 0.3, or far worse across groups than within.
        facts: the reports that they rest on: collapse, ranking, verification, class sizes, label noise.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> labels = torch.arange(300) // 6
        >>> rows = torch.randn(50, 32, generator=generator)[labels] + 0.4 * torch.randn(300, 32, generator=generator)
        >>> diagnose(rows, labels).verdict
        'healthy'

    Source: ours.
    """

    findings: tuple[Finding, ...]
    suspects: tuple[Suspect, ...]
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
        return "\n".join([*_figures(self.facts), "", findings_text(self.findings)])

    __str__ = __repr__ = text

    def _repr_html_(self) -> str:
        tables = [findings_table(self.findings).html()]
        if self.suspects:
            tables.append(suspects_table(self.suspects[:_SHOWN]).html())
        return f"<pre>{escape(chr(10).join(_figures(self.facts)))}</pre>{''.join(tables)}"


def diagnose(
    embeddings: ArrayLike | EmbeddingBank,
    labels: ArrayLike | None = None,
    *,
    ids: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    untrained: ArrayLike | EmbeddingBank | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Diagnosis:
    """Probe, rank and verify embeddings, look for label noise, and say what follows, worst first.

    With groups, a query must find its class in another group; the difference to finding it in its own is a finding.

    Args:
        embeddings: [n, d], finite, no zero rows; or a bank, which brings labels, ids and groups.
        labels: [n] classes, integers or names; -1 is a distractor.
        ids: [n] unique, names of the rows (default: row numbers), by which findings name them.
        groups: [n] session, camera or recording.
        untrained: [n, e], embeddings of the same rows by the untrained encoder, or a bank of them.
        settings: a table `doctor` in it changes thresholds, as in `examine`.

    Beside the rows it holds at its peak what `evaluate_ranking` and `evaluate_verification` do, and 300 n bytes.

    Raises:
        TypeError: no labels; else as `evaluate_ranking`.
        ValueError: as `evaluate_ranking`; labels, ids or groups beside a bank; banks of other ids; an unknown
            threshold.

    Example:
        >>> import torch
        >>> rows = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
        >>> found = diagnose(rows, torch.arange(60) // 6)
        >>> found.findings[0].severity
        'fault'

    Source: ours.
    """
    limits = limits_of(settings or {})
    rows = _rows(embeddings, labels, ids, groups)
    before = None
    if untrained is not None:
        if isinstance(untrained, EmbeddingBank):
            untrained = untrained.embeddings[untrained.rows(rows.ids)]
        before = as_embeddings(untrained, name="untrained", metric="cosine")
    x, own, names, sessions = rows.embeddings, rows.labels, rows.ids, rows.groups
    assert own is not None
    if before is not None:
        as_labels(own, len(before), of="untrained")
    protocol = RetrievalProtocol() if sessions is None else RetrievalProtocol.cross_session()
    untrained_collapse = None if before is None else probe_embeddings(before, own)
    facts = Facts(
        collapse=probe_embeddings(x, own, reference=untrained_collapse),
        ranking=evaluate_ranking(
            x, own, ids=names, groups=sessions, protocol=protocol, full=len(x) <= _IN_FULL, baseline=before
        ),
        same_group=None if sessions is None else evaluate_ranking(x, own, ids=names),
        verification=evaluate_verification(
            x, own, groups=sessions, fars=sorted({*_FARS, limits["accepted"]}, reverse=True), baseline=before
        ),
        distribution=class_distribution(own),
        noise=label_noise(rows, limits),
        untrained_collapse=untrained_collapse,
        decisions=decision_facts(rows, limits),
        limits=limits,
    )
    found = findings(facts)
    suspects = facts.noise.listed(rows.label_names) if any(finding.rule == SUSPECTS for finding in found) else ()
    return Diagnosis(findings=found, suspects=suspects, facts=facts)


def _rows(
    embeddings: ArrayLike | EmbeddingBank, labels: ArrayLike | None, ids: ArrayLike | None, groups: ArrayLike | None
) -> Rows:
    """Unit rows with labels, of a bank or as given."""
    if not isinstance(embeddings, EmbeddingBank):
        if labels is None:
            raise TypeError(
                "labels are missing: pass one for each row, or an EmbeddingBank, which has them (a StoredBank's load())"
            )
        return fitted_rows(embeddings, labels, ids=ids, groups=groups, metric="cosine")
    if not labels is ids is groups is None:
        raise ValueError("labels, ids or groups were given beside a bank, which has its own: pass the bank alone")
    return replace(embeddings.table, embeddings=as_prepared(embeddings.embeddings, "cosine"))


def _figures(facts: Facts) -> list[str]:
    """The figures in a column, beside the untrained encoder's where they are known."""
    ranking, verification, collapse = facts.ranking, facts.verification, facts.collapse
    rates = [f"tar_at_far_{far:g}" for far in verification.tar_at_far if far not in verification.flagged]
    lines = []
    for report, names in ((ranking, ["rank_at_1", "map_at_r"]), (verification, ["auc", "eer", *rates])):
        after, before = report.scalars(), None if report.baseline is None else report.baseline.scalars()
        for name in names:
            untrained = "" if before is None else f"   untrained {before[name]:.3f}"
            lines.append(f"{measure(name).title:<15} {after[name]:.3f}{untrained}")
    before = facts.untrained_collapse
    untrained = "" if before is None else f"   untrained {before.effective_rank:.1f}"
    lines.append(f"{EFFECTIVE_RANK:<15} {collapse.effective_rank:.1f} of {collapse.d}{untrained}")
    lines.append(f"{'collapse':<15} {collapse.verdict or 'no verdict'}")
    lines.append(f"{'queries':<15} {ranking.queries} ({ranking.protocol.name}), {ranking.unanswerable} unanswerable")
    return lines
