"""Similarities of all unordered pairs, by blocks: those of one class, and those of two.

Rows stand in order of their labels, the unlabelled last. So the pairs of one class lie in a band along the diagonal,
and everything to the right of it is an impostor.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, Metric
from legolas_metric.geometry import chunks, similarity_matrix
from legolas_metric.rows import Rows

Scores = Callable[[], Iterator[Float64[Tensor, " t"]]]
"""Blocks of scores, not yet rounded to float32. Threads that ask at once share them out. Each block is to be used
before the next is asked for, which takes its memory."""

_BAND_ROWS = 64
_ROWS = 256
_BLOCK = 1 << 22
"""Similarities of the pairs of one class, at most, that are worked out at a time."""
_TILE = 512
"""Columns of a tile: its float64 products stay in the cache."""


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


def genuine_scores(rows: Rows, metric: Metric) -> Scores:
    """Similarities of the pairs of one class (and of different groups, where there are groups)."""
    labels, groups = rows.labels, rows.groups
    assert labels is not None
    wide, ends = rows.embeddings.double(), _class_ends(rows)
    blocks = _blocks(rows, _BAND_ROWS)

    def scores() -> Iterator[Float64[Tensor, " t"]]:
        for part in blocks:
            band = slice(part.start, int(ends[part.stop - 1]))
            same = labels[part, None] == labels[None, band]
            if groups is not None:
                same &= groups[part, None] != groups[None, band]
            yield similarity_matrix(wide[part], wide[band], metric)[same.triu(1)]

    return scores


def impostor_scores(rows: Rows, metric: Metric) -> Scores:
    """Similarities of the pairs of different labels; two unlabelled rows make no pair."""
    labels = rows.labels
    assert labels is not None
    wide, ends = rows.embeddings.double(), _class_ends(rows)
    blocks = _blocks(rows, _ROWS)

    def scores() -> Iterator[Float64[Tensor, " t"]]:
        room = wide.new_empty(min(_ROWS * _TILE, len(wide) ** 2))
        for part in blocks:
            end = int(ends[part.stop - 1])
            other = labels[part, None] != labels[None, part.start : end]
            yield similarity_matrix(wide[part], wide[part.start : end], metric)[other.triu(1)]
            for right in chunks(len(wide) - end, _TILE):
                some = wide[end + right.start : end + right.stop]
                if metric == "euclidean":
                    yield similarity_matrix(wide[part], some, metric).flatten()
                    continue
                tile = room[: (part.stop - part.start) * len(some)]  # fresh memory costs half as much again
                torch.mm(wide[part], some.T, out=tile.view(-1, len(some)))
                yield tile

    return scores


def _blocks(rows: Rows, most: int) -> Iterator[slice]:
    """Blocks of labelled rows, so few that they fit with the largest class. Threads may draw from them at once."""
    assert rows.labels is not None
    labelled = rows.labels[rows.labels != UNLABELLED]
    largest = int(labelled.unique(return_counts=True)[1].max()) if len(labelled) else 1
    return iter(list(chunks(len(labelled), max(1, min(most, _BLOCK // largest)))))


def _class_ends(rows: Rows) -> Int64[Tensor, " n"]:
    """For each row, where its class ends."""
    assert rows.labels is not None
    count = rows.labels.unique_consecutive(return_counts=True)[1]
    return count.cumsum(0).repeat_interleave(count)
