"""What the indexes share: queries are checked and prepared once, then answered."""

from abc import ABC, abstractmethod
from typing import Any

from legolas_metric.checks import ArrayLike, Metric
from legolas_metric.index.interface import Want, Window
from legolas_metric.records import Neighbors
from legolas_metric.rows import Rows, query_rows
from legolas_metric.signatures import typed


class RowIndex(ABC):
    """`search` and `self_join` of an index, by what it answers to queries that are prepared."""

    metric: Metric

    @property
    @abstractmethod
    def rows(self) -> Any:
        """The fitted rows, checked and prepared; refused where there are none."""

    @abstractmethod
    def answer(self, own: Any, k: int, want: Want, farthest: bool, window: Window | None) -> Neighbors:
        """`search` of queries that are checked and prepared already; `rows` themselves are a self-join.

        Raises:
            ValueError: as `search`.
        """

    def queries(
        self, queries: ArrayLike, *, labels: ArrayLike | None, ids: ArrayLike | None, groups: ArrayLike | None
    ) -> Rows:
        """The queries of `search`, checked and prepared."""
        return query_rows(queries, self.rows, labels=labels, ids=ids, groups=groups, metric=self.metric)

    @typed
    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        labels: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        want: Want = "any",
        farthest: bool = False,
        window: Window | None = None,
    ) -> Neighbors:
        """The k best admissible rows of each query.

        Args:
            queries: [q, d].
            k: neighbours of each query.
            labels, ids, groups: [q], the queries' own; a fitted row with the query's id is the query itself.
            want: "negative" (another label), "positive" (the same), "cross_group_positive" (and another group), "any".
            farthest: the least similar rows instead, least similar first.
            window: (low [q], high [q]), keeps low < s < high; NaN is no bound.
        """
        own = self.queries(queries, labels=labels, ids=ids, groups=groups)
        return self.answer(own, k, want, farthest, window)

    @typed
    def self_join(
        self, k: int, *, want: Want = "negative", farthest: bool = False, window: Window | None = None
    ) -> Neighbors:
        """`search` with the fitted rows as queries, in their order."""
        return self.answer(self.rows, k, want, farthest, window)
