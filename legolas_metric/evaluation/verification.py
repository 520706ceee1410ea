"""Tell pairs of one class from pairs of two, over all pairs: AUC, EER, TAR@FAR, and the similarity histogram."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, Metric, check_metric
from legolas_metric.evaluation import roc
from legolas_metric.evaluation.scores import row_blocks
from legolas_metric.index.protocol import Rows, fitted_rows
from legolas_metric.numerics import similarity_matrix

_BINS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """How well one threshold on the similarity tells genuine pairs (one class) from impostor pairs (two).

    Attributes:
        auc: P(genuine > impostor) + P(equal) / 2.
        eer: the rate at which false accepts and false rejects are equally frequent.
        tar_at_far: false accept rate -> share of genuine pairs accepted at it.
        flagged: the false accept rates that stand for fewer than 30 impostor pairs: too few to be believed.
        genuine: pairs of one class (of different groups, where groups are given).
        impostor: pairs of different labels.
        edges: [b + 1] borders of the similarity histogram; the outer bins are open.
        genuine_histogram: [b] genuine pairs in each bin.
        impostor_histogram: [b] impostor pairs in each bin.
        baseline: the report of the untrained encoder; None where none was given.
    """

    auc: float
    eer: float
    tar_at_far: Mapping[float, float]
    flagged: tuple[float, ...]
    genuine: int
    impostor: int
    edges: Float64[Tensor, " b1"]
    genuine_histogram: Int64[Tensor, " b"]
    impostor_histogram: Int64[Tensor, " b"]
    baseline: "VerificationReport | None" = None


def evaluate_verification(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    metric: Metric = "cosine",
    fars: Sequence[float] = (1e-2, 1e-3, 1e-4),
    baseline: ArrayLike | VerificationReport | None = None,
) -> VerificationReport:
    """Score all pairs, exactly: each impostor is counted between the sorted genuine scores, block by block.

    Scores are float64 products rounded to float32. Memory O(n d + genuine pairs) and a fixed workspace.

    Args:
        embeddings: [n, d], finite.
        labels: [n] integers; a row of -1 makes impostor pairs with every labelled row, and none with its like.
        groups: [n] session, camera or recording; where given, pairs of one class and one group are left out, as no
            honest test.
        metric: "cosine", "dot" or "euclidean".
        fars: false accept rates, each in (0, 1].
        baseline: embeddings of the same rows by the untrained encoder, or their report.

    Raises:
        TypeError: integer embeddings or float labels.
        ValueError: NaN or inf, zero rows under cosine, lengths that differ, a rate outside (0, 1], no genuine pair, or
            no impostor pair.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> report = evaluate_verification(rows, [0, 0, 1, 1])
        >>> report.auc, report.genuine, report.impostor
        (1.0, 2, 4)
    """
    check_metric(metric)
    for far in fars:
        if not 0 < far <= 1:
            raise ValueError(f"fars must lie in (0, 1], got {far}")
    rows = _by_label(fitted_rows(embeddings, labels, ids=None, groups=groups, metric=metric))
    reference = baseline
    if reference is not None and not isinstance(reference, VerificationReport):
        reference = evaluate_verification(reference, labels, groups=groups, metric=metric, fars=fars)
    genuine = _genuine_scores(rows, metric)
    if not len(genuine):
        raise ValueError("no genuine pair: give each class at least two rows (of different groups)")
    edges = _edges(rows, metric)
    counts, histogram = _count_impostors(rows, metric, genuine, edges)
    if not counts.impostors:
        raise ValueError("no impostor pair: all rows have one label; verification needs rows of another class")
    return VerificationReport(
        auc=roc.area(counts),
        eer=roc.equal_error_rate(counts),
        tar_at_far=roc.true_accept_rates(counts, fars),
        flagged=roc.too_few_errors(fars, counts.impostors),
        genuine=len(genuine),
        impostor=counts.impostors,
        edges=torch.from_numpy(edges.astype(np.float64)),
        genuine_histogram=torch.from_numpy(_binned(genuine, edges)),
        impostor_histogram=torch.from_numpy(histogram),
        baseline=reference,
    )


def _by_label(rows: Rows) -> Rows:
    """Rows in order of their labels, the unlabelled last: the rows of a class are neighbours then."""
    assert rows.labels is not None
    key = torch.where(rows.labels == UNLABELLED, torch.iinfo(torch.int64).max, rows.labels)
    return rows[key.argsort(stable=True)]


def _pair_blocks(rows: Rows, metric: Metric) -> Iterator[tuple[Float32[Tensor, "q m"], Bool[Tensor, "q m"], slice]]:
    """Similarities of labelled rows to the rows from the block's first on, and which of them are pairs i < j."""
    assert rows.labels is not None
    wide = rows.embeddings.double()
    n, labelled = len(rows), int((rows.labels != UNLABELLED).sum())
    number = torch.arange(n, device=wide.device)
    for part in row_blocks(labelled, n):
        scores = similarity_matrix(wide[part], wide[part.start :], metric).float()
        yield scores, number[part, None] < number[None, part.start :], part


def _genuine_scores(rows: Rows, metric: Metric) -> np.ndarray:
    """Similarities of all genuine pairs, ascending."""
    assert rows.labels is not None
    found = []
    for scores, pair, part in _pair_blocks(rows, metric):
        same = pair & (rows.labels[part, None] == rows.labels[None, part.start :])
        if rows.groups is not None:
            same &= rows.groups[part, None] != rows.groups[None, part.start :]
        found.append(scores[same])
    return np.sort(torch.cat(found).cpu().numpy()) if found else np.empty(0, np.float32)


def _count_impostors(
    rows: Rows, metric: Metric, genuine: np.ndarray, edges: np.ndarray
) -> tuple[roc.RocCounts, np.ndarray]:
    """Impostors above and at each distinct genuine score, and their histogram."""
    assert rows.labels is not None
    values, copies = np.unique(genuine, return_counts=True)
    not_above, below = np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
    histogram, total = np.zeros(_BINS, np.int64), 0
    for scores, pair, part in _pair_blocks(rows, metric):
        other = pair & (rows.labels[part, None] != rows.labels[None, part.start :])
        ascending = np.sort(scores[other].cpu().numpy())
        not_above += np.searchsorted(ascending, values, side="right")
        below += np.searchsorted(ascending, values, side="left")
        histogram += _binned(ascending, edges)
        total += len(ascending)
    counts = (copies, total - not_above, not_above - below)
    return roc.RocCounts(*(torch.from_numpy(column) for column in counts), impostors=total), histogram


def _edges(rows: Rows, metric: Metric) -> np.ndarray:
    """Borders of the histogram: the range that the metric can take on these rows."""
    if metric == "cosine":
        return np.linspace(-1, 1, _BINS + 1, dtype=np.float32)
    longest = float(torch.linalg.vector_norm(rows.embeddings.double(), dim=1).max())
    low, high = (-2 * longest, 0.0) if metric == "euclidean" else (-(longest**2), longest**2)
    return np.linspace(low, high, _BINS + 1, dtype=np.float32)


def _binned(ascending: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many sorted values lie in each bin [edge, next edge); the outer bins are open."""
    inner = np.searchsorted(ascending, edges[1:-1], side="left")
    return np.diff(np.concatenate([[0], inner, [len(ascending)]]))
