"""Where candidates come from: a bank behind an index, or a batch as a dense matrix; both answer the same questions.

Letters: q anchors, n rows, m pairs, k negatives, d dimensions.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.index.protocol import NO_ID, NeighborIndex, Rows
from legolas_metric.index.ranking import best_of, similarities_of
from legolas_metric.miners.classes import Classes
from legolas_metric.numerics import chunks, similarity_matrix
from legolas_metric.records import SearchStats

Window = tuple[Float64[Tensor, " m"], Float64[Tensor, " m"]]
Ranked = tuple[Int64[Tensor, "m k"], Float32[Tensor, "m k"]]

_BLOCK_ELEMENTS = 1 << 18
_LEAST_BLOCK = 64


@runtime_checkable
class Pool(Protocol):
    """Anchors, and the rows among which their positives and negatives are sought, by row number.

    Rows that do not exist are -1, with similarity -inf. Ties go to the smaller id.
    """

    anchors: Rows
    rows: Rows
    metric: Metric
    classes: Classes

    def positives(self, k: int, *, farthest: bool) -> Ranked:
        """The k most (or least) similar positives of each anchor."""
        ...

    def negatives(self, anchor: Int64[Tensor, " m"] | None, k: int, window: Window | None) -> Ranked:
        """The k most similar negatives with low < s < high; `anchor` [m] picks anchors, None takes each once."""
        ...

    def stats(self) -> SearchStats:
        """How the searches so far were answered."""
        ...


def pair_similarities(pool: Pool, anchor: Int64[Tensor, " m"], row: Int64[Tensor, "m k"]) -> Float32[Tensor, "m k"]:
    """The reported similarity of anchors and rows; -inf where the row is -1."""
    query = anchor[:, None].expand_as(row).flatten()
    found = similarities_of(
        pool.anchors.embeddings, pool.rows.embeddings, query, row.flatten().clamp_min(0), pool.metric
    )
    return found.view(row.shape).masked_fill(row == NO_ID, -torch.inf)


class IndexPool:
    """All rows of a bank, behind an index that is fitted when the first search asks for it.

    Args:
        anchor_rows: [q], ascending row numbers of the anchors.
        rows: the bank.
        index: an unfitted template of the bank's metric.
        classes: of the anchors.
    """

    def __init__(self, anchor_rows: Int64[Tensor, " q"], rows: Rows, index: NeighborIndex, classes: Classes) -> None:
        self.anchors = rows[anchor_rows]
        self.rows = rows
        self.metric: Metric = index.metric
        self.classes = classes
        self._anchor_rows = anchor_rows
        self._template = index
        self._fitted: NeighborIndex | None = None
        self._sorted_ids, self._row_of_sorted = rows.ids.sort()
        self._stats: SearchStats | None = None

    def positives(self, k: int, *, farthest: bool) -> Ranked:
        """See `Pool`."""
        return self._search(None, k, negative=False, farthest=farthest, window=None)

    def negatives(self, anchor: Int64[Tensor, " m"] | None, k: int, window: Window | None) -> Ranked:
        """See `Pool`."""
        return self._search(anchor, k, negative=True, farthest=False, window=window)

    def stats(self) -> SearchStats:
        """See `Pool`."""
        return self._stats or SearchStats(engine="labels")

    def _search(
        self,
        anchor: Int64[Tensor, " m"] | None,
        k: int,
        *,
        negative: bool,
        farthest: bool,
        window: Window | None,
    ) -> Ranked:
        index, rows = self._index(), self.rows
        want = "negative" if negative else "positive"
        where = self._anchor_rows if anchor is None else self._anchor_rows[anchor]
        if anchor is None and 2 * len(where) > len(rows):  # a self-join does every product once
            bounds = None if window is None else tuple(_spread(bound, where, len(rows)) for bound in window)
            found = index.self_join(k, want=want, farthest=farthest, window=bounds)  # pyright: ignore[reportArgumentType]
            ids, similarities = found.ids[where], found.similarities[where]
        else:
            own = rows[where]
            found = index.search(
                own.embeddings, k, labels=own.labels, ids=own.ids, groups=own.groups,
                want=want, farthest=farthest, window=window,
            )  # fmt: skip
            ids, similarities = found.ids, found.similarities
        self._stats = found.stats if self._stats is None else _merged(self._stats, found.stats)
        place = torch.searchsorted(self._sorted_ids, ids).clamp_max(len(rows) - 1)
        return torch.where(ids == NO_ID, NO_ID, self._row_of_sorted[place]), similarities

    def _index(self) -> NeighborIndex:
        if self._fitted is None:
            rows = self.rows
            self._fitted = self._template.clone().fit(rows.embeddings, rows.labels, ids=rows.ids, groups=rows.groups)
        return self._fitted


def _spread(bound: Float64[Tensor, " q"], rows: Int64[Tensor, " q"], n: int) -> Float64[Tensor, " n"]:
    return bound.new_full((n,), torch.nan).index_copy_(0, rows, bound)


def _merged(first: SearchStats, second: SearchStats) -> SearchStats:
    recalls = [stats.recall for stats in (first, second) if stats.recall is not None]
    shares = [stats.certified for stats in (first, second) if stats.certified is not None]
    return replace(
        second,
        recall=min(recalls, default=None),
        certified=min(shares, default=None),
        widened=first.widened + second.widened,
    )


class DensePool:
    """A block of anchors and its whole matrix of similarities, for a batch or a set of reference rows.

    Products are in float64 and rounded to float32, so that a batch is mined exactly like a small bank.

    Args:
        anchors: [q], a block of them.
        rows: [n], with ascending ids.
        wide: the rows' embeddings in float64, shared by all blocks.
        classes: of the anchors.
        metric: of the similarity.
    """

    def __init__(
        self, anchors: Rows, rows: Rows, wide: Float64[Tensor, "n d"], classes: Classes, metric: Metric
    ) -> None:
        self.anchors, self.rows, self.classes = anchors, rows, classes
        self.metric: Metric = metric
        self._wide = wide
        self._screened: tuple[Tensor, Tensor, Tensor] | None = None

    def positives(self, k: int, *, farthest: bool) -> Ranked:
        """See `Pool`."""
        _, row, similarity = self._screen()
        signed = similarity if not farthest else torch.where(row == NO_ID, -torch.inf, -similarity)
        place, value = _best(signed, k)
        found = torch.where(value == -torch.inf, NO_ID, row.gather(1, place.clamp_min(0)))
        return found, value if not farthest else torch.where(found == NO_ID, -torch.inf, -value)

    def negatives(self, anchor: Int64[Tensor, " m"] | None, k: int, window: Window | None) -> Ranked:
        """See `Pool`."""
        score = self._screen()[0]
        if anchor is not None:
            score = score[anchor]
        if window is not None:
            score = torch.where(score < _float32(window[1], up=True)[:, None], score, -torch.inf)
        place, value = _best(score, k)
        if window is not None:  # the best below `high` are sorted, so `low` can wait until they are chosen
            value = torch.where(value > _float32(window[0], up=False)[:, None], value, -torch.inf)
        return torch.where(value == -torch.inf, NO_ID, place), value

    def stats(self) -> SearchStats:
        """See `Pool`."""
        return SearchStats(engine="dense")

    def _screen(self) -> tuple[Float32[Tensor, "q n"], Int64[Tensor, "q m"], Float32[Tensor, "q m"]]:
        """Similarities with the anchor's class at -inf, and the positives: rows (-1 past the last), similarities."""
        if self._screened is None:
            score = similarity_matrix(self.anchors.embeddings.double(), self._wide, self.metric).float()
            row, filled = self.classes.list_positives()
            similarity = score.gather(1, row).masked_fill_(~filled, -torch.inf)
            same, known = self.classes.list_class()
            score.scatter_(1, same, torch.where(known[:, None], -torch.inf, score.gather(1, same)))
            self._screened = score, row.masked_fill_(~filled, NO_ID), similarity
        return self._screened


def dense_pools(anchors: Rows, rows: Rows, classes: Classes, metric: Metric) -> Iterator[tuple[slice, DensePool]]:
    """Blocks of anchors whose matrices fit the processor's cache; with the part of the anchors that each covers."""
    wide = rows.embeddings.double()
    for part in chunks(len(anchors), max(_LEAST_BLOCK, _BLOCK_ELEMENTS // len(rows))):
        yield part, DensePool(anchors[part], rows, wide, classes[part], metric)


def _best(score: Float32[Tensor, "m n"], k: int) -> Ranked:
    """Places and values of the k largest entries of each row, ties to the smaller place; -inf past the last."""
    q, n = score.shape
    if n == 0:
        return torch.full((q, k), NO_ID, device=score.device), score.new_full((q, k), -torch.inf)
    if k == 1:  # max() returns the first of equals
        value, place = score.max(1, keepdim=True)
        return place, value
    least = score.topk(min(k, n), 1).values[:, -1:]
    query, place = ((score >= least) & (score > -torch.inf)).nonzero(as_tuple=True)
    return best_of(query, place, score[query, place], q=q, k=k, farthest=False)


def _float32(bound: Float64[Tensor, " m"], *, up: bool) -> Float32[Tensor, " m"]:
    """The nearest float32 not below (`up`) or not above: comparing float32 values with it is comparing in float64."""
    near = bound.float()
    off = near.double() < bound if up else near.double() > bound
    return torch.where(off, torch.nextafter(near, near.new_tensor(torch.inf if up else -torch.inf)), near)
