"""Tell pairs of one class from pairs of two, over all pairs: AUC, EER, TAR@FAR, and the similarity histogram."""

import torch
from jaxtyping import Float64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, Metric
from legolas_metric.datasets.labels import class_sizes
from legolas_metric.evaluation import roc
from legolas_metric.evaluation.arguments import as_fars, as_table, rows_of_baseline
from legolas_metric.evaluation.identity_pairs import PairsOfRows
from legolas_metric.evaluation.pairs import by_label, genuine_scores, impostor_scores, score_range
from legolas_metric.evaluation.scores import Ties, score_block, turned, widened
from legolas_metric.evaluation.tally import ExactTally, GridTally
from legolas_metric.evaluation.verification_report import VerificationReport, report_of
from legolas_metric.rows import Rows
from legolas_metric.signatures import typed

_BINS = 200
_SAMPLE = 512
_ALL_KEPT = 1_000_000
"""Pairs up to which impostor scores are kept too, so that what any threshold does is known exactly."""
_MOST_GENUINE = 4_000_000
"""Genuine pairs up to which their scores are kept, and all counts are exact."""


@typed
def evaluate_verification(
    embeddings: ArrayLike | EmbeddingBank,
    labels: ArrayLike | None = None,
    *,
    groups: ArrayLike | None = None,
    metric: Metric = "cosine",
    fars: float | ArrayLike = (1e-2, 1e-3, 1e-4),
    exact: bool = True,
    baseline: ArrayLike | EmbeddingBank | VerificationReport | None = None,
) -> VerificationReport:
    """Score all pairs: each impostor is counted between the sorted genuine scores, block by block.

    Scores are `geometry.exact_similarity`, in float64, and tie where only rounding tells them apart. Exact up to 4
    million genuine pairs; beyond, or on request, both kinds are counted on a grid of 2^18 cells, and `auc_error` says
    what that leaves open. Peak memory, in bytes, with g genuine pairs and t threads: 24 n d + 128 MB and, where
    counting is exact, 190 g + 16 g t, of which the latter is 256 MB at most.

    Args:
        embeddings: [n, d], finite; or a bank, whose labels, groups and metric are taken.
        labels: [n] integers; a row of -1 makes impostor pairs with every labelled row, and none with its like.
        groups: [n] session, camera or recording; where given, pairs of one class and one group are left out, as no
            honest test.
        metric: "cosine", "dot" or "euclidean".
        fars: false accept rates, each in (0, 1], or one of them.
        exact: False counts on the grid, in two thirds of the time, however few the genuine pairs are.
        baseline: embeddings of the same rows by the untrained encoder (or a bank of them), or their report.

    Raises:
        TypeError: integer embeddings or float labels; no labels; fars that are no numbers.
        ValueError: NaN or inf, zero rows under cosine, rows whose similarities overflow float32, lengths
            that differ, a rate outside (0, 1], no genuine pair, or
            no impostor pair.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> report = evaluate_verification(rows, [0, 0, 1, 1])
        >>> report.auc, report.genuine, report.impostor
        (1.0, 2, 4)

    Source: ours; of the AUC, Hanley and McNeil (1982), The Meaning and Use of the Area under a Receiver Operating
    Characteristic (ROC) Curve.
    """
    rates = as_fars(fars)
    rows, metric = as_table(embeddings, labels, groups=groups, metric=metric)
    reference = baseline
    if reference is not None and not isinstance(reference, VerificationReport):
        reference = evaluate_verification(
            rows_of_baseline(reference, rows), rows.labels, groups=rows.groups, metric=metric, fars=rates, exact=exact
        )
    rows = by_label(rows)
    edges = _edges(rows, metric)
    counts, error = count_pairs(rows, metric, edges, exact=exact)
    pairs = PairsOfRows(rows, metric)
    return report_of(counts, edges, rates, auc_error=error, pairs=pairs, metric=metric, baseline=reference)


def count_pairs(
    rows: Rows, metric: Metric, cuts: Float64[Tensor, " b"], *, exact: bool = True
) -> tuple[roc.RocCounts, float]:
    """All pairs of rows in order of their labels, counted; and by how much the AUC may err.

    Raises:
        ValueError: no genuine or no impostor pair.
    """
    tally = _tally_genuine(rows, metric, cuts, exact)
    tally.add(impostor_scores(rows, metric))
    counts = tally.counts()
    if not int(counts.genuine.sum()):
        raise ValueError("no genuine pair: give each class at least two rows (of different groups)")
    if not counts.impostors:
        raise ValueError("no impostor pair: all rows have one label; verification needs rows of another class")
    return counts, 0.0 if isinstance(tally, ExactTally) else roc.area_error(counts)


def _tally_genuine(rows: Rows, metric: Metric, edges: Float64[Tensor, " b1"], exact: bool) -> ExactTally | GridTally:
    """A tally that knows the genuine scores."""
    assert rows.labels is not None
    members = class_sizes(rows.labels)[1]
    pairs = len(rows) * (len(rows) - 1) // 2
    if exact and int((members * (members - 1) // 2).sum()) <= _MOST_GENUINE:
        genuine = torch.cat([*genuine_scores(rows, metric)(), edges.new_empty(0)])
        few = impostor_scores(rows, metric)() if pairs <= _ALL_KEPT else ()
        cuts = torch.cat([edges, *(scores.clone() for scores in few)])
        return ExactTally(genuine, cuts, Ties.of(rows.embeddings, metric), pairs)
    tally = GridTally(*score_range(rows, metric), rows.embeddings.device, pairs)
    tally.add_genuine(genuine_scores(rows, metric))
    return tally


def _edges(rows: Rows, metric: Metric) -> Float64[Tensor, " b1"]:
    """Borders of the histogram: all of [-1, 1] under cosine, else what a sample of rows spans; outer bins are open."""
    device = rows.embeddings.device
    if metric == "cosine":
        return torch.arange(-_BINS // 2, _BINS // 2 + 1, dtype=torch.float64, device=device) / (_BINS // 2)
    sample = rows.embeddings[torch.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE), device=device).long()]
    first, second = torch.triu_indices(len(sample), len(sample), offset=1, device=device)
    wide = widened(sample, metric)
    scores = score_block(turned(wide, metric), wide, metric)[first, second]
    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 0.0)
    return torch.linspace(low, high if high > low else low + 1, _BINS + 1, dtype=torch.float64, device=device)
