"""Exact search of a bank on disk: block by block of rows, within a ceiling of memory.

Each block is searched by the exact engine, for what is at least as good as the k best that are known; the lists are
merged by the similarity that decides, and the id. So the answer is that of all rows in memory, bit for bit.

Letters: q queries, n rows, d dimensions, k neighbours.
"""

from dataclasses import dataclass
from itertools import count

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import rows_for
from legolas_metric.checks import ArrayLike, Metric, check_choice
from legolas_metric.disk.disk_rows import AnyRows, DiskRows, some_of
from legolas_metric.disk.stored_bank import StoredBank
from legolas_metric.geometry import chunks
from legolas_metric.index.exact import ExactIndex
from legolas_metric.index.exact.precision import Precision
from legolas_metric.index.interface import Want, Window, check_request, window_bounds
from legolas_metric.index.request import Bounds, part_of
from legolas_metric.index.row_index import RowIndex
from legolas_metric.index.top_k import exact_similarities
from legolas_metric.lookup import lookup
from legolas_metric.records import Neighbors, SearchStats
from legolas_metric.rows import NO_ID, Rows, query_rows
from legolas_metric.signatures import typed

_MERGED = 110  # bytes that a neighbour, known or new, takes at most while lists are merged
_FEWEST_ROWS, _FEWEST_QUERIES = 1024, 256  # below that, blocks cost more than what is in them


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is looked at together: so many queries, against so many rows.

    Attributes:
        queries: each with a float32 row, its tables, its candidates and answers.
        rows: of a block: as stored, in float32, and in the engine's tables.
        workspace_mb: of plain scans.
    """

    queries: int
    rows: int
    workspace_mb: int

    @classmethod
    def of(cls, rows: DiskRows, q: int, k: int) -> "Plan":
        """What fits the rows' ceiling of memory.

        Raises:
            ValueError: not even a small block does.
        """
        n, d = rows.embeddings.shape
        a_query, a_row = 20 * d + 28 * (2 * k + 384) + 40 * k + 150, 24 * d + 150
        least = min(q, _FEWEST_QUERIES) * a_query + min(n, _FEWEST_ROWS) * a_row

        def beside(memory_mb: int) -> tuple[int, int]:
            workspace = max(1, min(256, memory_mb // 32))
            return workspace, rows.within(memory_mb) - (2 * workspace + 2 * torch.get_num_threads() << 20)

        workspace, left = beside(rows.memory_mb)
        if left < least:
            enough = next(mb for mb in count(rows.memory_mb) if beside(mb)[1] >= least)
            raise ValueError(
                f"memory_mb={rows.memory_mb} is too little to search {n:,} rows of {d} dimensions for {k} neighbours: "
                f"open the bank with memory_mb={enough} or more"
            )
        queries = max(min(q, _FEWEST_QUERIES), min(q, left // 3 // a_query))
        return cls(queries, min(n, (left - queries * a_query) // a_row), workspace)


class StoredIndex(RowIndex):
    """Exact neighbours among the rows of a `StoredBank`, as they are stored, within its `memory_mb`.

    Answers as `ExactIndex` fitted with `bank.load()`, bit for bit, for every metric, want and window. A block is as
    large as the ceiling allows: the file is read once for each block of queries.

    Args:
        bank: on disk.
        precision: see `ExactIndex`.

    Raises:
        ValueError: another precision.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from legolas_metric import EmbeddingBank, StoredBank, StoredIndex
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> with TemporaryDirectory() as folder:
        ...     bank = StoredBank.write(Path(folder) / "bank", EmbeddingBank(rows, [0, 0, 1, 1]), storage="int8")
        ...     StoredIndex(bank).self_join(1, want="negative").ids.flatten().tolist()
        [2, 2, 1, 1]

    Source: ours.
    """

    @typed
    def __init__(self, bank: StoredBank, *, precision: Precision = "auto") -> None:
        check_choice("precision", precision, ("auto", "int16", "bfloat16", "float32"))
        self._rows: DiskRows = bank.table
        self.metric: Metric = bank.metric
        self.precision: Precision = precision

    @classmethod
    def of_rows(cls, rows: DiskRows, metric: Metric) -> "StoredIndex":
        """Of some rows of a bank."""
        index = cls.__new__(cls)
        index._rows, index.metric, index.precision = rows, metric, "auto"
        return index

    @property
    def rows(self) -> DiskRows:
        """The bank's rows, on disk."""
        return self._rows

    def queries(
        self, queries: ArrayLike, *, labels: ArrayLike | None, ids: ArrayLike | None, groups: ArrayLike | None
    ) -> Rows:
        """The queries of `search`, checked and prepared."""
        return query_rows(queries, self.rows.named, labels=labels, ids=ids, groups=groups, metric=self.metric)

    def answer(self, own: AnyRows, k: int, want: Want, farthest: bool, window: Window | None) -> Neighbors:
        """`search` of queries that are checked and prepared already, or on disk.

        Raises:
            ValueError: what the rows cannot answer, or too little memory.
        """
        check_request(own.named if isinstance(own, DiskRows) else own, self.rows.named, k, want)
        bounds = window_bounds(window, len(own), own.ids.device)
        rows = self.rows
        if want in ("positive", "cross_group_positive"):  # no others are read
            assert rows.labels is not None
            assert own.labels is not None
            rows = some_of(rows, torch.isin(rows.labels, own.labels).nonzero().flatten())
        ids = torch.full((len(own), k), NO_ID)
        similarities = torch.full((len(own), k), -torch.inf)
        asked, stats = min(k, len(rows)), []
        if not asked:
            return Neighbors(ids, similarities, _summed(stats, len(own)))
        plan = Plan.of(rows, len(own), asked)
        for part in chunks(len(own), plan.queries):
            some, limits = own[part], part_of(bounds, part)
            best = _Best(len(some), asked, farthest)
            for block in chunks(len(rows), plan.rows):
                found = self._of_block(some, rows[block], asked, want, best, limits, plan)
                stats.append((found, len(some)))
            ids[part, :asked], similarities[part, :asked] = best.ids, best.reported
        return Neighbors(ids, similarities, _summed(stats, len(own)))

    def _of_block(
        self, own: Rows, block: Rows, k: int, want: Want, best: "_Best", bounds: Bounds | None, plan: Plan
    ) -> SearchStats:
        """Take what a block has into the best; returns how it was searched."""
        index = ExactIndex(metric=self.metric, precision=self.precision, workspace_mb=plan.workspace_mb).take(block)
        near = index.answer(own, min(k, len(block)), want, best.farthest, best.within(bounds))
        width = best.ids.shape[1] + near.ids.shape[1]
        for part in chunks(len(own), rows_for(plan.workspace_mb << 20, _MERGED * width)):
            ids = near.ids[part]
            query, place = (ids != NO_ID).nonzero(as_tuple=True)
            row, _ = lookup(ids[query, place], block.ids)
            values = best.nothing(ids)
            values[query, place] = exact_similarities(own.embeddings[part], block.embeddings, query, row, self.metric)
            best.take(part, ids, values)
        return near.stats


class _Best:
    """The k best of each query so far, by the similarity that decides, then the id; -1 past the last."""

    def __init__(self, q: int, k: int, farthest: bool) -> None:
        self.farthest = farthest
        self.ids: Int64[Tensor, "q k"] = torch.full((q, k), NO_ID)
        self.values: Float64[Tensor, "q k"] = self.nothing(self.ids)

    def nothing(self, ids: Int64[Tensor, "q m"]) -> Float64[Tensor, "q m"]:
        """Values that lose to every other."""
        return torch.full(ids.shape, torch.inf if self.farthest else -torch.inf, dtype=torch.float64)

    def within(self, bounds: Bounds | None) -> Bounds:
        """A window, narrowed to what is as good as the last of the k best: a tie may still win by its id."""
        last = self.values[:, -1]
        low, high = bounds or (torch.full_like(last, -torch.inf), torch.full_like(last, torch.inf))
        just = torch.nextafter(last, torch.full_like(last, torch.inf if self.farthest else -torch.inf))
        return (low, torch.minimum(high, just)) if self.farthest else (torch.maximum(low, just), high)

    def take(self, part: slice, ids: Int64[Tensor, "q m"], values: Float64[Tensor, "q m"]) -> None:
        """Merge those of some queries with more."""
        ids, values = torch.cat([self.ids[part], ids], 1), torch.cat([self.values[part], values], 1)
        order = ids.argsort(1)
        order = order.gather(1, values.gather(1, order).argsort(dim=1, stable=True, descending=not self.farthest))
        order = order[:, : self.ids.shape[1]]
        self.ids[part], self.values[part] = ids.gather(1, order), values.gather(1, order)

    @property
    def reported(self) -> Float32[Tensor, "q k"]:
        """The similarities as they are told; -inf past the last."""
        return self.values.float().masked_fill(self.ids == NO_ID, -torch.inf)


def _summed(stats: list[tuple[SearchStats, int]], q: int) -> SearchStats:
    """How the blocks were searched; certified is the share of them all."""
    checked = [(one.certified, count) for one, count in stats if one.certified is not None]
    asked = sum(count for _, count in checked)
    return SearchStats(
        engine="stored",
        precision=stats[-1][0].precision if stats else "float32",
        certified=sum(share * count for share, count in checked) / asked if asked else None,
        details={"blocks": float(len(stats))},
    )
