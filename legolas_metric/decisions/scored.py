"""Verification by a scorer: all pairs of rows, scored by what is no metric."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import UNLABELLED, ArrayLike
from legolas_metric.evaluation.arguments import as_table
from legolas_metric.evaluation.given_scores import verification_from_scores
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
) -> VerificationReport:
    """`evaluate_verification` by `ScoreNorm`, `PLDA` or `KReciprocal`; its intervals draw identities as there.

    Memory: 80 bytes a pair.

    Args:
        scorer: what scores a pair.
        embeddings, labels, groups, fars: as in `evaluate_verification`.
        ids: [n], which `KReciprocal` knows rows by (default: row numbers).

    Raises:
        ValueError: more than 50 million pairs; people whom the scorer refuses; what `evaluate_verification` refuses.

    Example:
        >>> import torch
        >>> from legolas_metric import PLDA
        >>> y = torch.arange(80) // 4
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(20, 6, generator=generator)[y] + 0.3 * torch.randn(80, 6, generator=generator)
        >>> verify_by(PLDA().fit(x[:40], y[:40]), x[40:], y[40:]).auc > 0.9
        True

    Source: ours.
    """
    rows, _ = as_table(embeddings, labels, ids=ids, groups=groups, metric="cosine")
    assert rows.labels is not None
    pairs = len(rows) * (len(rows) - 1) // 2
    if pairs > _MOST_PAIRS:
        raise ValueError(f"{len(rows)} rows have {pairs} pairs, {_MOST_PAIRS} at most are scored: take fewer rows")
    scorer.check(rows.labels, rows.label_names)
    table = scorer.transform(rows.embeddings, rows.ids)
    scores, same, who = zip(*(_block(scorer, rows, table, part) for part in _blocks(len(rows))))
    return verification_from_scores(torch.cat(scores), torch.cat(same), identities=torch.cat(who), fars=fars)


def _blocks(n: int) -> list[slice]:
    return list(chunks(n, rows_for(BLOCK, 64 * n)))


def _block(
    scorer: Scorer, rows: Rows, table: Float64[Tensor, "n e"], part: slice
) -> tuple[Float64[Tensor, " t"], Tensor, Int64[Tensor, "t 2"]]:
    """Scores of the pairs of some rows with later ones, whether they are genuine, and whose they are."""
    labels, groups = rows.labels, rows.groups
    assert labels is not None
    later = table[part.start :]
    scores = scorer.compare(table[part], later)
    one, other = labels[part, None], labels[None, part.start :]
    same = one == other
    wanted = torch.ones_like(same).triu(1) & ~(same & (one == UNLABELLED))
    if groups is not None:
        wanted &= ~(same & (groups[part, None] == groups[None, part.start :]))
    first, second = wanted.nonzero().unbind(1)
    who = torch.stack([labels[part][first], labels[part.start :][second]], 1)
    # An unlabelled row is nobody: the pair counts for the other side alone.
    who = torch.where(who == UNLABELLED, who.flip(1), who)
    return scores[first, second], same[first, second], who
