"""`AutoIndex`: exact as long as that fits a time budget, then approximate, with the recall measured."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike, Metric, as_tensor, check_at_least, check_metric
from legolas_metric.index.exact import MINING, ExactIndex, plain_seconds
from legolas_metric.index.faiss import FaissIndex
from legolas_metric.index.interface import Want, Window
from legolas_metric.index.row_index import RowIndex
from legolas_metric.index.top_k import recall_of
from legolas_metric.records import Neighbors
from legolas_metric.rows import Rows
from legolas_metric.signatures import typed

_AUDITED = 256  # queries; a recall of 0.9 is then known to about 0.02
_STEP = 8  # times as many are timed beside them
_TURNS = 2  # of which the faster counts: other programs only add to a time
_ENOUGH = 0.99  # recall at which no more lists are searched

Search = Callable[[Int64[Tensor, " s"] | None, "ExactIndex | FaissIndex"], Neighbors]
"""Some of the queries (None: all) put to an index."""


class AutoIndex(RowIndex):
    """Exact neighbours while their estimated time is within a budget, beyond it FAISS with audited recall.

    A search that may pass the budget is first run exactly on two seeded samples of its queries, a small and a larger
    one. What the larger took longer is the time of a query, the rest that of preparing the rows; a self-join computes
    half the products. The estimate lies within a factor of two of the real time. Beyond the budget an IVF index
    answers, with as many lists as the budget allows (no more than a recall of 0.99 needs), and `stats.recall` is the
    share of the small sample's exact neighbours that it found. Positives are compared class by class, exactly,
    whatever the budget.

    Memory: as `ExactIndex`; beyond the budget, one more copy of the rows for FAISS.

    Args:
        budget_s: seconds that one search may take.
        metric: "cosine" (rows are normalised), "dot" or "euclidean" (s = -d).
        seed: of the audited sample.

    Raises:
        ValueError: an unknown metric, or a negative budget.

    Example:
        >>> import torch
        >>> from legolas_metric import AutoIndex
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> found = AutoIndex(budget_s=10).fit(rows, [0, 0, 1, 1]).self_join(1, want="negative")
        >>> found.ids.flatten().tolist(), found.stats.engine, found.stats.recall
        ([2, 2, 1, 1], 'exact', None)

    Source: ours.
    """

    @typed
    def __init__(self, budget_s: float | int = 60.0, *, metric: Metric = "cosine", seed: int = 0) -> None:
        check_metric(metric)
        check_at_least("budget_s", budget_s, 0)
        self.budget_s = budget_s
        self.metric: Metric = metric
        self.seed = seed
        self._exact = ExactIndex(metric=metric)
        self._faiss: FaissIndex | None = None

    def clone(self) -> "AutoIndex":
        """An unfitted index with the same settings."""
        return type(self)(self.budget_s, metric=self.metric, seed=self.seed)

    def fit(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> "AutoIndex":
        """Take the rows to be searched; arguments as `ExactIndex.fit`."""
        self._exact.fit(embeddings, labels, ids=ids, groups=groups)
        self._faiss = None
        return self

    @property
    def rows(self) -> Rows:
        """The fitted rows, checked and prepared.

        Raises:
            ValueError: before `fit`.
        """
        return self._exact.rows

    def answer(self, own: Rows, k: int, want: Want, farthest: bool, window: Window | None) -> Neighbors:
        """`search` of queries that are checked and prepared already.

        Raises:
            ValueError: as `search`.
        """

        def ask(part: Int64[Tensor, " s"] | None, index: ExactIndex | FaissIndex) -> Neighbors:
            if part is None:
                return index.answer(own, k, want, farthest, window)
            return index.answer(own[part], k, want, farthest, _part_of(window, part))

        return self._within_budget(ask, len(own), plain=self._is_plain(want, farthest), joined=own is self.rows)

    def _is_plain(self, want: Want, farthest: bool) -> bool:
        """Whether FAISS has no answer, or the same as the exact index."""
        return want in ("positive", "cross_group_positive") or (farthest and self.metric == "euclidean")

    def _within_budget(self, ask: Search, q: int, *, plain: bool, joined: bool) -> Neighbors:
        """The exact answer where it fits the budget, or where FAISS has none of its own (`plain`)."""
        n, d = self._exact.rows.embeddings.shape
        seconds = plain_seconds(q * n, d)
        if plain or q <= _AUDITED or seconds < self.budget_s:
            return ask(None, self._exact)
        MINING.worth(self._exact.rows.ids.device, seconds)  # what is timed are the loops that the whole would use
        order = torch.randperm(q, generator=torch.Generator().manual_seed(self.seed)).to(self._exact.rows.ids.device)
        truth, seconds = estimate(lambda part: ask(part, self._exact), order, joined=joined)
        if seconds <= self.budget_s:
            return ask(None, self._exact)
        sample = order[:_AUDITED]
        index, recall = self._approximate(ask, sample, truth, self.budget_s * len(sample) / q)
        found = ask(None, index)
        return replace(found, stats=replace(found.stats, recall=recall))

    def _approximate(
        self, ask: Search, sample: Int64[Tensor, " s"], truth: Neighbors, allowed_s: float
    ) -> tuple[FaissIndex, float]:
        """An IVF index that searches as many lists as `allowed_s` seconds for the sample allow, and its recall."""
        rows = self._exact.rows
        lists = max(1, min(int(4 * len(rows) ** 0.5), len(rows) // 39))
        index = self._faiss
        if index is None:
            index = FaissIndex(f"IVF{lists},Flat", metric=self.metric, audit=0)
            index.fit(rows.embeddings, rows.labels, ids=rows.ids, groups=rows.groups)
            self._faiss = index
        effort, recall = 0, 0.0
        for tried in (min(4, lists) * 2**step for step in range(16)):
            if tried > lists:
                break
            index.effort = tried
            found, seconds = _timed(lambda: ask(sample, index))
            if effort and seconds > allowed_s:
                break
            effort, recall = tried, recall_of(found.ids, truth.ids)
            if not recall < _ENOUGH:  # or there is nothing to find
                break
        index.effort = effort
        return index, recall


def estimate(
    ask: Callable[[Int64[Tensor, " s"]], Neighbors], order: Int64[Tensor, " q"], *, joined: bool
) -> tuple[Neighbors, float]:
    """The answer for the first queries of an order, and about how many seconds all of them would take."""
    few, many = order[:_AUDITED], order[: _AUDITED * _STEP]
    ask(few)  # loads what the first search of a process loads
    found, offset = min((_timed(lambda: ask(few)) for _ in range(_TURNS)), key=lambda turn: turn[1])
    longer = min(_timed(lambda: ask(many))[1] for _ in range(_TURNS))
    each = max(0.0, longer - offset) / max(1, len(many) - len(few))
    rest = (len(order) - len(few)) * each
    return found, offset + (rest / 2 if joined else rest)


def _timed(search: Callable[[], Neighbors]) -> tuple[Neighbors, float]:
    start = time.perf_counter()
    found = search()
    return found, time.perf_counter() - start


def _part_of(window: Window | None, part: Int64[Tensor, " s"]) -> Window | None:
    if window is None:
        return None
    low, high = (as_tensor(bound, name="window")[part.cpu()] for bound in window)
    return low, high
