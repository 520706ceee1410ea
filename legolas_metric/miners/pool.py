"""Where candidates come from: a bank behind an index, or a batch as a dense matrix; both answer the same questions.

Letters: q anchors, n rows, m pairs, k negatives, d dimensions.
"""

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.compiled.jit import arrays, runs_compiled
from legolas_metric.index.interface import NeighborIndex, Want
from legolas_metric.index.top_k import similarities_of
from legolas_metric.miners.by_label import Classes
from legolas_metric.miners.masks import Relations
from legolas_metric.records import SearchStats
from legolas_metric.rows import NO_ID, Rows

Window = tuple[Float64[Tensor, " m"], Float64[Tensor, " m"]]

Ranked = tuple[Int64[Tensor, "m k"], Float32[Tensor, "m k"]]


@runtime_checkable
class Pool(Protocol):
    """Anchors, and the rows among which their positives and negatives are sought, by row number.

    Rows that do not exist are -1, with similarity -inf. Ties go to the smaller id.
    """

    anchors: Rows
    rows: Rows
    metric: Metric
    screened: bool  # similarities may be off where they do not change the choice

    @property
    def relations(self) -> Relations:
        """What the rows are to each anchor."""
        ...

    def positives(self, k: int, *, farthest: bool) -> Ranked:
        """The k most (or least) similar positives of each anchor."""
        ...

    def negatives(self, anchor: Int64[Tensor, " m"] | None, k: int, window: Window | None) -> Ranked:
        """The k most similar negatives with low < s < high; `anchor` [m] picks anchors, None takes each once."""
        ...

    def weighted(self, uniform: Float64[Tensor, "q k"], cutoffs: tuple[float, float]) -> Ranked:
        """k different negatives of each anchor, by draws in [0, 1), with Wu's weights."""
        ...

    def neighbours(self, k: int, *, of_anchors: bool) -> Int64[Tensor, "m k"]:
        """The k most similar rows of each anchor, or of each row, whatever their labels; never itself."""
        ...

    def stats(self) -> SearchStats:
        """How the searches so far were answered."""
        ...


def pair_similarities(pool: Pool, anchor: Int64[Tensor, " m"], row: Int64[Tensor, "m k"]) -> Float32[Tensor, "m k"]:
    """The reported similarity of anchors and rows; -inf where the row is -1."""
    if pool.metric != "euclidean" and runs_compiled(row.device):
        return _compiled_similarities(pool, anchor, row)
    query = anchor[:, None].expand_as(row).flatten()
    found = similarities_of(
        pool.anchors.embeddings, pool.rows.embeddings, query, row.flatten().clamp_min(0), pool.metric
    )
    return found.view(row.shape).masked_fill(row == NO_ID, -torch.inf)


def _compiled_similarities(
    pool: Pool, anchor: Int64[Tensor, " m"], row: Int64[Tensor, "m k"]
) -> Float32[Tensor, "m k"]:
    from legolas_metric.miners.kernels import similarities

    found = torch.empty(row.shape, dtype=torch.float32)
    similarities(*arrays(pool.anchors.embeddings, pool.rows.embeddings, anchor, row, found))
    return found


class IndexPool:
    """All rows of a bank, behind an index that is fitted when the first search asks for it.

    Args:
        anchor_rows: [q], ascending row numbers of the anchors.
        rows: the bank.
        index: an unfitted template of the bank's metric.
        relations: of the anchors, by equality of labels.
    """

    def __init__(self, anchor_rows: Int64[Tensor, " q"], rows: Rows, index: NeighborIndex, relations: Classes) -> None:
        self.anchors = rows[anchor_rows]
        self.rows = rows
        self.metric: Metric = index.metric
        self.screened = False
        self.relations: Classes = relations
        self._anchor_rows = anchor_rows
        self._template = index
        self._fitted: NeighborIndex | None = None
        self._sorted_ids, self._row_of_sorted = rows.ids.sort()
        self._stats: SearchStats | None = None
        self._neighbours: Int64[Tensor, "n k"] | None = None

    def positives(self, k: int, *, farthest: bool) -> Ranked:
        """See `Pool`."""
        want = "cross_group_positive" if self.relations.group is not None else "positive"
        return self._search(self._anchor_rows, k, want, farthest=farthest)

    def negatives(self, anchor: Int64[Tensor, " m"] | None, k: int, window: Window | None) -> Ranked:
        """See `Pool`."""
        where = self._anchor_rows if anchor is None else self._anchor_rows[anchor]
        return self._search(where, k, "negative", window=window)

    def weighted(self, uniform: Float64[Tensor, "q k"], cutoffs: tuple[float, float]) -> Ranked:
        """Not answered by an index: it needs the similarities of all rows."""
        raise AssertionError("distance-weighted negatives are drawn from a DensePool")

    def neighbours(self, k: int, *, of_anchors: bool) -> Int64[Tensor, "m k"]:
        """See `Pool`."""
        if self._neighbours is None or self._neighbours.shape[1] != k:
            every = torch.arange(len(self.rows), device=self._anchor_rows.device)
            self._neighbours = self._search(every, k, "any")[0]
        return self._neighbours[self._anchor_rows] if of_anchors else self._neighbours

    def stats(self) -> SearchStats:
        """See `Pool`."""
        return self._stats or SearchStats(engine="labels")

    def _search(
        self,
        where: Int64[Tensor, " m"],
        k: int,
        want: Want,
        *,
        farthest: bool = False,
        window: Window | None = None,
    ) -> Ranked:
        """Search for rows of the bank; by a self-join, with half the products, where they are most of it."""
        index, rows = self._index(), self.rows
        if 2 * len(where) > len(rows) and bool((where.diff() > 0).all()):
            bounds = None if window is None else (_spread(window[0], where, rows), _spread(window[1], where, rows))
            found = index.self_join(k, want=want, farthest=farthest, window=bounds)
            ids, similarities = found.ids[where], found.similarities[where]
        else:
            own = rows[where]
            found = index.search(
                own.embeddings,
                k,
                labels=own.labels,
                ids=own.ids,
                groups=own.groups,
                want=want,
                farthest=farthest,
                window=window,
            )
            ids, similarities = found.ids, found.similarities
        self._stats = found.stats if self._stats is None else _merged(self._stats, found.stats)
        place = torch.searchsorted(self._sorted_ids, ids).clamp_max(len(rows) - 1)
        return torch.where(ids == NO_ID, NO_ID, self._row_of_sorted[place]), similarities

    def _index(self) -> NeighborIndex:
        if self._fitted is None:
            rows = self.rows
            self._fitted = self._template.clone().fit(rows.embeddings, rows.labels, ids=rows.ids, groups=rows.groups)
        return self._fitted


def _spread(bound: Float64[Tensor, " q"], where: Int64[Tensor, " q"], rows: Rows) -> Float64[Tensor, " n"]:
    """Bounds of some rows as bounds of all; NaN, no bound, for the others."""
    return bound.new_full((len(rows),), torch.nan).index_copy_(0, where, bound)


def _merged(first: SearchStats, second: SearchStats) -> SearchStats:
    recalls = [stats.recall for stats in (first, second) if stats.recall is not None]
    shares = [stats.certified for stats in (first, second) if stats.certified is not None]
    return replace(
        second,
        recall=min(recalls, default=None),
        certified=min(shares, default=None),
        widened=first.widened + second.widened,
        details={
            name: first.details.get(name, 0.0) + second.details.get(name, 0.0)
            for name in {**first.details, **second.details}
        },
    )
