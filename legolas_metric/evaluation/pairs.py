"""Similarities of all unordered pairs, by blocks: those of one class, and those of two.

Rows stand in order of their labels, the unlabelled last. So the pairs of one class lie in a band along the diagonal,
and everything to the right of it is an impostor.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, Metric
from legolas_metric.index.protocol import Rows
from legolas_metric.numerics import chunks, similarity_matrix

_ROWS = 512
_BLOCK = 1 << 22
"""Similarities of a block."""
_TILE = 2048
"""Columns that are multiplied at a time: their float64 products stay in the cache."""


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
    """Similarities of the pairs of different labels; two unlabelled rows make no pair.

    Each block is to be used before the next is asked for, which takes its memory.
    """
    assert rows.labels is not None
    wide, ends = rows.embeddings.double(), _class_ends(rows)
    room = rows.embeddings.new_empty(min(_BLOCK, len(rows) ** 2))
    tile = wide.new_empty(min(_ROWS * _TILE, len(rows) ** 2))
    for part in _blocks(rows):
        end = int(ends[part.stop - 1])
        other = rows.labels[part, None] != rows.labels[None, part.start : end]
        yield similarity_matrix(wide[part], wide[part.start : end], metric).float()[other.triu(1)]
        height = part.stop - part.start
        for right in chunks(len(rows) - end, max(1, _BLOCK // height)):
            columns = wide[end + right.start : end + right.stop]
            block = room[: height * len(columns)]
            for some, place in zip(columns.split(_TILE), block.split(height * _TILE)):
                place.copy_(_product(wide[part], some, metric, tile[: len(place)]))
            yield block


def _product(
    x: Float64[Tensor, "q d"], y: Float64[Tensor, "n d"], metric: Metric, room: Float64[Tensor, " t"]
) -> Float64[Tensor, " t"]:
    """All similarities, in the memory given where they are products: fresh memory costs half as much again."""
    if metric == "euclidean":
        return similarity_matrix(x, y, metric).flatten()
    torch.mm(x, y.T, out=room.view(len(x), len(y)))
    return room


def _blocks(rows: Rows) -> Iterator[slice]:
    """Blocks of labelled rows, so few that they fit with the largest class."""
    assert rows.labels is not None
    labelled = rows.labels[rows.labels != UNLABELLED]
    largest = int(labelled.unique(return_counts=True)[1].max()) if len(labelled) else 1
    return chunks(len(labelled), max(1, min(_ROWS, _BLOCK // largest)))


def _class_ends(rows: Rows) -> Int64[Tensor, " n"]:
    """For each row, where its class ends."""
    assert rows.labels is not None
    count = rows.labels.unique_consecutive(return_counts=True)[1]
    return count.cumsum(0).repeat_interleave(count)
