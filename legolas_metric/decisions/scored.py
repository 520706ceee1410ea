"""Verification by a scorer: all pairs of rows, scored by what is no metric."""

from dataclasses import replace

import torch
from jaxtyping import Float64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import UNLABELLED, ArrayLike
from legolas_metric.evaluation.arguments import as_table
from legolas_metric.evaluation.given_scores import verification_from_scores
from legolas_metric.evaluation.identity_pairs import PairsOfRows
from legolas_metric.evaluation.pairs import by_label
from legolas_metric.evaluation.scores import Scorer
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.geometry import chunks
from legolas_metric.rows import Rows

_MOST_PAIRS = 50_000_000


def verify_by(
    scorer: Scorer,
    embeddings: ArrayLike | EmbeddingBank,
    labels: ArrayLike | None = None,
    *,
    ids: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    fars: float | ArrayLike = (1e-2, 1e-3, 1e-4),
    baseline: VerificationReport | None = None,
) -> VerificationReport:
    """`evaluate_verification` by `ScoreNorm`, `PLDA` or `KReciprocal`; its intervals draw identities as there.

    Memory: 80 bytes a pair.

    Args:
        scorer: what scores a pair.
        embeddings, labels, groups, fars: as in `evaluate_verification`.
        ids: [n], which `KReciprocal` knows rows by (default: row numbers).
        baseline: the report of the same rows without the scorer, to which `difference` is paired.

    Raises:
        ValueError: more than 50 million pairs; people whom the scorer refuses; what `evaluate_verification` refuses.

    Example:
        >>> import torch
        >>> from legolas_metric import PLDA, evaluate_verification
        >>> y = torch.arange(80) // 4
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(20, 6, generator=generator)[y] + 0.3 * torch.randn(80, 6, generator=generator)
        >>> plain = evaluate_verification(x[40:], y[40:])
        >>> found = verify_by(PLDA().fit(x[:40], y[:40]), x[40:], y[40:], baseline=plain)
        >>> found.auc > 0.9, found.difference("eer").value == found.eer - plain.eer
        (True, True)

    Source: ours.
    """
    rows, metric = as_table(embeddings, labels, ids=ids, groups=groups, metric="cosine")
    assert rows.labels is not None
    pairs = len(rows) * (len(rows) - 1) // 2
    if pairs > _MOST_PAIRS:
        raise ValueError(f"{len(rows)} rows have {pairs} pairs, {_MOST_PAIRS} at most are scored: take fewer rows")
    scorer.check(rows.labels, rows.label_names)
    rows = by_label(rows)
    rows = replace(rows, embeddings=scorer.transform(rows.embeddings, rows.ids))
    scores, same = zip(*(_block(scorer, rows, part) for part in chunks(len(rows), rows_for(BLOCK, 64 * len(rows)))))
    report = verification_from_scores(torch.cat(scores), torch.cat(same), fars=fars)
    return replace(report, pairs=PairsOfRows(rows, metric, scorer=scorer), baseline=baseline)


def _block(scorer: Scorer, rows: Rows, part: slice) -> tuple[Float64[Tensor, " t"], Tensor]:
    """Scores of the pairs of some rows with later ones, and whether they are genuine."""
    table, labels, groups = rows.embeddings, rows.labels, rows.groups
    assert labels is not None
    scores = scorer.compare(table[part], table[part.start :])
    one, other = labels[part, None], labels[None, part.start :]
    same = one == other
    wanted = torch.ones_like(same).triu(1) & ~(same & (one == UNLABELLED))
    if groups is not None:
        wanted &= ~(same & (groups[part, None] == groups[None, part.start :]))
    return scores[wanted], same[wanted]
