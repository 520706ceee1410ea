"""Similarities of all unordered pairs, by blocks: those of one class, and those of two.

Rows stand in order of their labels, the unlabelled last. So the pairs of one class lie in a band along the diagonal,
and everything to the right of it is an impostor.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, Metric
from legolas_metric.index.protocol import Rows
from legolas_metric.numerics import chunks, similarity_matrix

_BLOCK = 1 << 21


def by_label(rows: Rows) -> Rows:
    """Rows in order of their labels, the unlabelled last."""
    assert rows.labels is not None
    key = torch.where(rows.labels == UNLABELLED, torch.iinfo(torch.int64).max, rows.labels)
    return rows[key.argsort(stable=True)]


def score_range(rows: Rows, metric: Metric) -> tuple[float, float]:
    """Bounds that no similarity of these rows can pass."""
    if metric == "cosine":
        return -1.0, 1.0
    longest = float(torch.linalg.vector_norm(rows.embeddings.double(), dim=1).max())
    return (-2 * longest, 0.0) if metric == "euclidean" else (-(longest**2), longest**2)


def genuine_scores(rows: Rows, metric: Metric) -> Iterator[Float32[Tensor, " t"]]:
    """Similarities of the pairs of one class (and of different groups, where there are groups)."""
    assert rows.labels is not None
    wide, ends = rows.embeddings.double(), _class_ends(rows)
    for part in _blocks(rows):
        band = slice(part.start, int(ends[part.stop - 1]))
        same = rows.labels[part, None] == rows.labels[None, band]
        if rows.groups is not None:
            same &= rows.groups[part, None] != rows.groups[None, band]
        yield similarity_matrix(wide[part], wide[band], metric).float()[same.triu(1)]


def impostor_scores(rows: Rows, metric: Metric) -> Iterator[Float32[Tensor, " t"]]:
    """Similarities of the pairs of different labels; two unlabelled rows make no pair."""
    assert rows.labels is not None
    wide, ends = rows.embeddings.double(), _class_ends(rows)
    for part in _blocks(rows):
        end = int(ends[part.stop - 1])
        other = rows.labels[part, None] != rows.labels[None, part.start : end]
        yield similarity_matrix(wide[part], wide[part.start : end], metric).float()[other.triu(1)]
        if end < len(rows):
            yield similarity_matrix(wide[part], wide[end:], metric).float().flatten()


def _blocks(rows: Rows) -> Iterator[slice]:
    """Blocks of labelled rows."""
    assert rows.labels is not None
    labelled = int((rows.labels != UNLABELLED).sum())
    return chunks(labelled, max(1, _BLOCK // len(rows)))


def _class_ends(rows: Rows) -> Int64[Tensor, " n"]:
    """For each row, where its class ends."""
    assert rows.labels is not None
    count = rows.labels.unique_consecutive(return_counts=True)[1]
    return count.cumsum(0).repeat_interleave(count)
