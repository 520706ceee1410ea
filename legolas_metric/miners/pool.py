"""Where candidates come from: a bank behind an index, or a dense search of a batch; both answer the same questions.

Letters: q anchors, n rows, m pairs, k negatives, d dimensions.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import CACHE, rows_for
from legolas_metric.checks import Metric
from legolas_metric.disk.disk_rows import AnyRows, DiskRows
from legolas_metric.geometry import chunks, exact_similarity
from legolas_metric.index.interface import NeighborIndex, Want
from legolas_metric.index.stored_index import StoredIndex
from legolas_metric.lookup import lookup
from legolas_metric.miners.by_label import Classes
from legolas_metric.miners.joint import JointNames
from legolas_metric.miners.masks import Relations
from legolas_metric.records import SearchStats
from legolas_metric.rows import NO_ID, Rows

Window = tuple[Float64[Tensor, " m"], Float64[Tensor, " m"]]


@runtime_checkable
class Pool(Protocol):
    """Anchors, and the rows among which their positives and negatives are sought, by row number.

    Rows that do not exist are -1. Order, windows and ties are decided by `exact_similarity`; ties go to the smaller id.
    """

    anchors: Rows
    metric: Metric

    @property
    def rows(self) -> AnyRows | JointNames:
        """Among which is sought."""
        ...

    @property
    def relations(self) -> Relations:
        """What the rows are to each anchor."""
        ...

    @property
    def longest(self) -> float:
        """The largest norm of a row."""
        ...

    def positives(self, *, farthest: bool) -> Int64[Tensor, " q"]:
        """The most (or least) similar positive of each anchor."""
        ...

    def negatives(self, anchor: Int64[Tensor, " m"], k: int, window: Window | None) -> Int64[Tensor, "m k"]:
        """The k most similar negatives with low < s < high of some anchors, which may repeat."""
        ...

    def weighted(
        self, anchor: Int64[Tensor, " m"], uniform: Float64[Tensor, "m k"], cutoffs: tuple[float, float]
    ) -> Int64[Tensor, "m k"]:
        """k different negatives of some anchors, by draws in [0, 1), with Wu's weights."""
        ...

    def neighbours(self, k: int, rows: Int64[Tensor, " m"] | None) -> Int64[Tensor, "m k"]:
        """The k most similar rows of some rows (None: of each anchor), whatever their labels; never itself."""
        ...

    def similarities(self, anchor: Int64[Tensor, " m"], row: Int64[Tensor, "m k"]) -> Float64[Tensor, "m k"]:
        """The similarity that decides, of anchors and rows; -inf where the row is -1."""
        ...

    def stats(self) -> SearchStats:
        """How the searches so far were answered."""
        ...


def similarities_between(
    anchors: Rows,
    read: Callable[[Int64[Tensor, "b k"]], Float[Tensor, "b k d"]],
    metric: Metric,
    anchor: Int64[Tensor, " m"],
    row: Int64[Tensor, "m k"],
) -> Float64[Tensor, "m k"]:
    """The similarity that decides, of anchors and rows that are read a block at a time; -inf where the row is -1."""
    x = anchors.embeddings
    out = torch.empty(row.shape, dtype=torch.float64, device=row.device)
    for part in chunks(len(row), rows_for(CACHE, 24 * x.shape[1] * row.shape[1])):
        near = read(row[part].clamp_min(0))
        out[part] = exact_similarity(x[anchor[part]][:, None].expand_as(near), near, metric)
    return out.masked_fill_(row == NO_ID, -torch.inf)


@runtime_checkable
class Searching(Protocol):
    """Rows that are searched, for all blocks of anchors; numbers of rows are those of `rows`."""

    @property
    def rows(self) -> AnyRows | JointNames:
        """What is known of them."""
        ...

    @property
    def metric(self) -> Metric:
        """Of the rows."""
        ...

    @property
    def stats(self) -> SearchStats | None:
        """How the searches so far were answered."""
        ...

    @property
    def longest(self) -> float:
        """The largest norm of a row."""
        ...

    def search(
        self,
        own: Rows,
        place: Int64[Tensor, " m"],
        k: int,
        want: Want,
        *,
        farthest: bool = False,
        window: Window | None = None,
    ) -> Int64[Tensor, "m k"]:
        """Search for some queries, each of which is the row `place` (-1: none)."""
        ...

    def neighbours(self, k: int, rows: Int64[Tensor, " m"]) -> Int64[Tensor, "m k"]:
        """The k nearest rows of some rows."""
        ...

    def similarities(
        self, anchors: Rows, anchor: Int64[Tensor, " m"], row: Int64[Tensor, "m k"]
    ) -> Float64[Tensor, "m k"]:
        """The similarity that decides, of anchors and rows; -inf where the row is -1."""
        ...


class Searched:
    """Rows behind an index that is fitted when the first search asks for it; shared by all blocks of anchors.

    Args:
        rows: among which is searched.
        index: an unfitted template of their metric; rows on disk have an index of their own.
    """

    def __init__(self, rows: AnyRows, index: NeighborIndex) -> None:
        self.rows = rows
        self.metric: Metric = index.metric
        self.stats: SearchStats | None = None
        self._template = index
        self._fitted: NeighborIndex | StoredIndex | None = None
        self._near: tuple[int, Int64[Tensor, "n k"]] | None = None

    @property
    def longest(self) -> float:
        """The largest norm of a row."""
        return self.rows.longest

    def search(
        self,
        own: AnyRows,
        place: Int64[Tensor, " m"],
        k: int,
        want: Want,
        *,
        farthest: bool = False,
        window: Window | None = None,
    ) -> Int64[Tensor, "m k"]:
        """Search for some queries, each of which is the row `place` (-1: none); by a self-join, with half the products,
        where they are most of the rows.
        """
        if self._fitted is None:
            self._fitted = self._fit(self.rows)
        n = len(self.rows)
        k = min(k, n)
        if isinstance(self._fitted, StoredIndex):
            found = self._fitted.answer(own, k, want, farthest, window)
            ids = found.ids
        elif 2 * len(place) > n and int(place[0]) >= 0 and bool((place.diff() > 0).all()):
            bounds = None if window is None else (_spread(window[0], place, n), _spread(window[1], place, n))
            found = self._fitted.self_join(k, want=want, farthest=farthest, window=bounds)
            ids = found.ids[place]
        else:
            assert isinstance(own, Rows)
            found = self._fitted.search(
                own.embeddings,
                k,
                labels=own.labels,
                ids=own.ids,
                groups=own.groups,
                want=want,
                farthest=farthest,
                window=window,
            )
            ids = found.ids
        self.stats = merged(self.stats, found.stats)
        row, there = lookup(ids, self.rows.ids)
        return torch.where(there, row, NO_ID)

    def _fit(self, rows: AnyRows) -> NeighborIndex | StoredIndex:
        if isinstance(rows, DiskRows):
            return StoredIndex.of_rows(rows, self.metric)
        return self._template.clone().fit(rows.embeddings, rows.labels, ids=rows.ids, groups=rows.groups)

    def neighbours(self, k: int, rows: Int64[Tensor, " m"]) -> Int64[Tensor, "m k"]:
        """The k nearest rows of some rows."""
        if self._near is None or self._near[0] != k:
            every = torch.arange(len(self.rows), device=self.rows.ids.device)
            self._near = k, self.search(self.rows, every, k, "any")
        return self._near[1][rows]

    def similarities(
        self, anchors: Rows, anchor: Int64[Tensor, " m"], row: Int64[Tensor, "m k"]
    ) -> Float64[Tensor, "m k"]:
        """The similarity that decides, of anchors and rows; -inf where the row is -1."""
        return similarities_between(anchors, self.rows.embeddings.__getitem__, self.metric, anchor, row)


class IndexPool:
    """Some anchors, and rows behind an index.

    Args:
        searched: the rows.
        anchors: in the order of their rows.
        relations: of the anchors, by equality of labels.
    """

    def __init__(self, searched: Searching, anchors: Rows, relations: Classes) -> None:
        self.anchors: Rows = anchors
        self.rows: AnyRows | JointNames = searched.rows
        self.metric: Metric = searched.metric
        self.relations: Classes = relations
        self._searched = searched

    @property
    def longest(self) -> float:
        """See `Pool`."""
        return self._searched.longest

    def positives(self, *, farthest: bool) -> Int64[Tensor, " q"]:
        """See `Pool`."""
        want = "cross_group_positive" if self.relations.group is not None else "positive"
        return self._searched.search(self.anchors, self.relations.self_row, 1, want, farthest=farthest)[:, 0]

    def negatives(self, anchor: Int64[Tensor, " m"], k: int, window: Window | None) -> Int64[Tensor, "m k"]:
        """See `Pool`."""
        return self._searched.search(
            self.anchors[anchor], self.relations.self_row[anchor], k, "negative", window=window
        )

    def weighted(
        self, anchor: Int64[Tensor, " m"], uniform: Float64[Tensor, "m k"], cutoffs: tuple[float, float]
    ) -> Int64[Tensor, "m k"]:
        """Not answered by an index: it needs the similarities of all rows."""
        raise AssertionError("distance-weighted negatives are drawn from a DensePool")

    def neighbours(self, k: int, rows: Int64[Tensor, " m"] | None) -> Int64[Tensor, "m k"]:
        """See `Pool`."""
        own = self.relations.self_row
        if rows is None and int(own.min()) < 0:
            return self._searched.search(self.anchors, own, k, "any")
        return self._searched.neighbours(k, own if rows is None else rows)

    def similarities(self, anchor: Int64[Tensor, " m"], row: Int64[Tensor, "m k"]) -> Float64[Tensor, "m k"]:
        """See `Pool`."""
        return self._searched.similarities(self.anchors, anchor, row)

    def stats(self) -> SearchStats:
        """See `Pool`."""
        return self._searched.stats or SearchStats(engine="labels")


def _spread(bound: Float64[Tensor, " q"], where: Int64[Tensor, " q"], n: int) -> Float64[Tensor, " n"]:
    """Bounds of some rows as bounds of all; NaN, no bound, for the others."""
    return bound.new_full((n,), torch.nan).index_copy_(0, where, bound)


def merged(first: SearchStats | None, second: SearchStats) -> SearchStats:
    """How two searches were answered, one after the other; None: there was no first."""
    if first is None:
        return second
    recalls = [stats.recall for stats in (first, second) if stats.recall is not None]
    shares = [stats.certified for stats in (first, second) if stats.certified is not None]
    unmeasured = any(recall != recall for recall in recalls)
    return replace(
        second,
        recall=torch.nan if unmeasured else min(recalls, default=None),
        certified=min(shares, default=None),
        widened=first.widened + second.widened,
        details={
            name: first.details.get(name, 0.0) + second.details.get(name, 0.0)
            for name in {**first.details, **second.details}
        },
    )
