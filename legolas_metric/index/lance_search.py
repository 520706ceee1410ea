"""Exact answers from a table of LanceDB: it finds candidates in float32, the similarity that decides chooses of them.

More are asked for until nothing that was not fetched can be better.

Letters: q queries, n rows, d dimensions, k neighbours, t pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import WORKSPACE, rows_for
from legolas_metric.checks import UNLABELLED
from legolas_metric.index.admissible import admissible_pairs
from legolas_metric.index.brute_force import scan_classes
from legolas_metric.index.interface import Want
from legolas_metric.index.lance_table import StoredTable
from legolas_metric.index.request import Bounds, Request, part_of
from legolas_metric.index.top_k import best_of, exact_similarities, inside_window
from legolas_metric.index.widening import Fetched, beats, no_answer, widen
from legolas_metric.lookup import runs_of
from legolas_metric.rows import NO_ID, Rows

_UNIT = 2.0**-24  # half a unit in the last place of float32
_TINY = 2.0**-120  # what denormals that are flushed can add up to
_NORMS = 2.0**-20  # above |<x, y> - (1 - |x - y|^2 / 2)| of rows that are unit to 2^-22
_SPARE = 8  # rows beyond k that are asked for: the query itself, and some to tell the k-th from what is beyond
_SMALL_CLASS = 32  # rows; up to here a class is asked for and dropped, which lets queries of many classes go at once
_LARGEST = 2.0**127
_ALL = -1  # stands for the label that a query leaves out where it leaves out none

Answer = tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"]]


@dataclass(frozen=True, slots=True)
class TableSearch:
    """Some queries put to a table; arguments as `LanceIndex.search`, checked.

    Attributes:
        stored: the table.
        own: the queries.
        k, want, farthest: what is asked.
        bounds: their windows.
        lists: of the table's vector index that are searched at least; None compares with every row.
    """

    stored: StoredTable
    own: Rows
    k: int
    want: Want
    farthest: bool
    bounds: Bounds | None
    lists: int | None

    def __getitem__(self, part: Int64[Tensor, " s"]) -> "TableSearch":
        return replace(self, own=self.own[part], bounds=part_of(self.bounds, part))

    def of_class(self) -> Answer:
        """The k best of each query's own class, the rows of which are read, some classes at a time."""
        own, rows = self.own, self.stored.rows
        assert own.labels is not None
        answer = ids, values = no_answer(len(own), self.k, own.embeddings)
        ordered, order = self.stored.by_label
        classes = own.labels[own.labels != UNLABELLED].unique()
        size = runs_of(classes, ordered)[1]
        most = rows_for(WORKSPACE, 16 * rows.embeddings.shape[1])
        for several in classes.split((size.cumsum(0) // most).unique(return_counts=True)[1].tolist()):
            part = torch.isin(own.labels, several).nonzero()[:, 0]
            members = order[torch.isin(ordered, several)]
            if len(members):
                search = self[part]
                read, metric = self.stored.read(members), self.stored.metric
                asked = Request(search.own, read, self.k, self.want, metric, self.farthest, search.bounds)
                ids[part], values[part] = scan_classes(asked)
        return answer

    def nearest(self) -> tuple[Int64[Tensor, "q k"], Float32[Tensor, "q k"], int]:
        """The k best rows of each query, and how many queries had to ask again."""
        own = self.own
        ids, values = no_answer(len(own), self.k, own.embeddings)
        asked = self._left_out().argsort(stable=True)
        spare = _SPARE
        if self.want == "negative":
            assert own.labels is not None
            asked = asked[own.labels[asked] != UNLABELLED]
            spare += _SMALL_CLASS
        n, d = self.stored.rows.embeddings.shape
        widened = widen(
            asked,
            lambda part, count: self[part]._fetch(count),
            (ids, values),
            first=self.k + spare,
            most=n,
            step=lambda count: rows_for(WORKSPACE, (16 * d + 96) * count * (self.lists or 1)),
        )
        return ids, values, widened

    def _fetch(self, count: int) -> Fetched:
        """One search: the k best admissible of the `count` rows that the database gives, and which queries are done."""
        own, stored = self.own, self.stored
        found = [
            (part, stored.search(-own.embeddings[part] if self.farthest else own.embeddings[part], count,
                                 other_than=label, between=self._distances(part), lists=self.lists))
            for part, label in self._calls()
        ]  # fmt: skip
        query = torch.cat([part[hits.query] for part, hits in found])
        row, vector, distance = (
            torch.cat([getattr(hits, name) for _, hits in found]) for name in ("row", "vector", "distance")
        )
        last = distance.new_full((len(own),), -torch.inf).scatter_reduce_(0, query, distance, "amax")
        exhausted = torch.bincount(query, minlength=len(own)) < count
        kept = admissible_pairs(self.want, own, stored.rows, query, row).nonzero()[:, 0]
        query, row = query[kept], row[kept]
        value = exact_similarities(own.embeddings, vector, query, kept, stored.metric)
        inside = inside_window(value, query, self.bounds)
        ids, values = best_of(
            query[inside],
            stored.rows.ids[row[inside]],
            value[inside],
            q=len(own),
            k=self.k,
            farthest=self.farthest,
        )
        enough = ids[:, -1] != NO_ID
        if self.lists is None:
            enough &= beats(values[:, -1], self._beyond(last.double()), farthest=self.farthest)
        return ids, values, exhausted | enough

    def _left_out(self) -> Int64[Tensor, " q"]:
        """The label that the database leaves out for each query: one a call, so that small classes are let through."""
        labels = self.own.labels
        if self.want != "negative" or labels is None:
            return torch.full((len(self.own),), _ALL)
        if self.bounds is not None:
            return labels
        size = runs_of(labels, self.stored.by_label[0])[1]
        return labels.masked_fill(size <= _SMALL_CLASS, _ALL)

    def _calls(self) -> Iterator[tuple[Int64[Tensor, " s"], int | None]]:
        """Queries that can be asked at once, with the label that is left out; with a window one by one."""
        left_out = self._left_out()
        every = torch.arange(len(left_out))
        for run in every.split(left_out.unique_consecutive(return_counts=True)[1].tolist()):
            label = int(left_out[run[0]])
            for part in run.split(1 if self.bounds is not None else len(run)):
                yield part, None if label == _ALL else label

    def _relative(self) -> float:
        """How far rounding moves a sum of d terms in float32, as a share of the sum of their sizes; twice over."""
        return 4 * (self.own.embeddings.shape[1] + 8) * _UNIT

    def _error(self, s: Float64[Tensor, " q"]) -> Float64[Tensor, " q"]:
        """How far a similarity near s, by the database's distance 1 - s, can lie from the one that decides."""
        if self.stored.metric == "cosine":
            return torch.full_like(s, self._relative() + _NORMS)
        norm = torch.linalg.vector_norm(self.own.embeddings, dim=1, dtype=torch.float64)
        return self._relative() * norm * self.stored.longest + 8 * _UNIT * (1 + s.abs()) + _TINY

    def _beyond(self, last: Float64[Tensor, " q"]) -> Float64[Tensor, " q"]:
        """A bound on the similarity of all rows that were not fetched, by the largest distance of those that were."""
        if self.stored.metric == "euclidean":
            squared = (last * (1 - self._relative()) - _TINY).clamp_min(0)
            return -squared.sqrt() * (1 - 2 * _UNIT)
        edge = (1 - last) + self._error(1 - last)
        return -edge if self.farthest else edge

    def _distances(self, part: Int64[Tensor, " s"]) -> tuple[float | None, float | None] | None:
        """The window of one query as distances, wider by what rounding can do."""
        if self.bounds is None:
            return None
        low, high = (bound[part] for bound in self.bounds)
        if self.stored.metric == "euclidean":
            near, far = ((-bound).clamp_min(0).square() for bound in (high, low))
            near, far = near * (1 - self._relative()) - _TINY, far * (1 + self._relative()) + _TINY
        else:
            if self.farthest:
                low, high = -high, -low
            search = self[part]
            near, far = 1 - high - search._error(high), 1 - low + search._error(low)
        return _limit(near), _limit(far)


def _limit(distance: Float64[Tensor, " 1"]) -> float | None:
    """A bound as the database takes it: in float32, or none."""
    return float(distance) if abs(float(distance)) < _LARGEST else None
