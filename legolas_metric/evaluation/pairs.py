"""Similarities of all unordered pairs, by blocks: those of one class, and those of two.

Rows stand in order of their labels, the unlabelled last. So the pairs of one class lie in a band along the diagonal,
and everything to the right of it is an impostor.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, CACHE, rows_for
from legolas_metric.checks import UNLABELLED, Metric
from legolas_metric.datasets.labels import largest_class
from legolas_metric.evaluation.scores import score_block, turned, widened
from legolas_metric.geometry import chunks
from legolas_metric.rows import Rows

Scores = Callable[[], Iterator[Float64[Tensor, " t"]]]
"""Blocks of scores. Threads that ask at once share them out. Each block is to be used
before the next is asked for, which takes its memory."""

_BAND_ROWS = 64
_ROWS = 256


def by_label(rows: Rows) -> Rows:
    """Rows in order of their labels, the unlabelled last."""
    assert rows.labels is not None
    key = torch.where(rows.labels == UNLABELLED, torch.iinfo(torch.int64).max, rows.labels)
    return rows[key.argsort(stable=True)]


def score_range(rows: Rows, metric: Metric) -> tuple[float, float]:
    """Bounds that no similarity of these rows can pass, as tight as a ball around all of them makes them."""
    x = rows.embeddings
    if metric == "dot":
        longest = float(torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).max())
        return -(longest**2), longest**2
    centre = x.mean(0, dtype=torch.float64)
    radius = max(
        float(torch.linalg.vector_norm(x[part].double() - centre, dim=1).max())
        for part in chunks(len(x), rows_for(CACHE, 8 * x.shape[1]))
    )
    return (-2 * radius, 0.0) if metric == "euclidean" else (max(-1.0, 1 - 2 * radius**2), 1.0)


def genuine_scores(rows: Rows, metric: Metric) -> Scores:
    """Similarities of the pairs of one class (and of different groups, where there are groups)."""
    labels, groups = rows.labels, rows.groups
    assert labels is not None
    wide, ends = widened(rows.embeddings, metric), _class_ends(rows)
    blocks = _blocks(rows, _BAND_ROWS)

    def scores() -> Iterator[Float64[Tensor, " t"]]:
        for part in blocks:
            band = slice(part.start, int(ends[part.stop - 1]))
            same = labels[part, None] == labels[None, band]
            if groups is not None:
                same &= groups[part, None] != groups[None, band]
            yield score_block(turned(wide[part], metric), wide[band], metric)[same.triu(1)]

    return scores


def impostor_scores(rows: Rows, metric: Metric) -> Scores:
    """Similarities of the pairs of different labels; two unlabelled rows make no pair."""
    labels = rows.labels
    assert labels is not None
    wide, ends = widened(rows.embeddings, metric), _class_ends(rows)
    blocks = _blocks(rows, _ROWS)

    tile = rows_for(CACHE // 4, 8 * _ROWS)  # columns, so that the products stay in the cache beside their rows

    def scores() -> Iterator[Float64[Tensor, " t"]]:
        room = wide.new_empty(min(_ROWS * tile, len(wide) ** 2))
        for part in blocks:
            end = int(ends[part.stop - 1])
            asking = turned(wide[part], metric)
            other = labels[part, None] != labels[None, part.start : end]
            yield score_block(asking, wide[part.start : end], metric)[other.triu(1)]
            for right in chunks(len(wide) - end, tile):
                some = wide[end + right.start : end + right.stop]
                if metric == "euclidean":
                    yield score_block(asking, some, metric).flatten()
                    continue
                scored = room[: len(asking) * len(some)]  # fresh memory costs half as much again
                torch.mm(asking, some.T, out=scored.view(-1, len(some)))
                yield scored

    return scores


def _blocks(rows: Rows, most: int) -> Iterator[slice]:
    """Blocks of labelled rows, so few that they fit with the largest class. Threads may draw from them at once."""
    assert rows.labels is not None
    labelled = int((rows.labels != UNLABELLED).sum())
    return iter(list(chunks(labelled, min(most, rows_for(BLOCK // 2, 8 * max(1, largest_class(rows.labels)))))))


def _class_ends(rows: Rows) -> Int64[Tensor, " n"]:
    """For each row, where its class ends."""
    assert rows.labels is not None
    count = rows.labels.unique_consecutive(return_counts=True)[1]
    return count.cumsum(0).repeat_interleave(count)
