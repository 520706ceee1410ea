"""`LanceIndex`: a vector database as index, whose rows stay where they are.

Letters: q queries, n rows, k neighbours.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.budgets import WORKSPACE, rows_for
from legolas_metric.checks import ArrayLike, Metric, as_tensor, check_metric, check_whole
from legolas_metric.index.arithmetic import exact_arithmetic
from legolas_metric.index.interface import Want, Window, check_request, window_bounds
from legolas_metric.index.lance_search import TableSearch
from legolas_metric.index.lance_table import Columns, StoredTable, connect, open_table, write_table
from legolas_metric.index.request import part_of
from legolas_metric.index.row_index import RowIndex
from legolas_metric.index.widening import audited, no_answer
from legolas_metric.records import Neighbors, SearchStats
from legolas_metric.rows import Rows, fitted_rows, query_rows
from legolas_metric.signatures import typed


class LanceIndex(RowIndex):
    """Neighbours among rows that live in a table of LanceDB, on disk.

    `fit` writes rows to a new table; `open` takes a table that is there, and leaves it as it is. Without a vector index
    the answers are those of `ExactIndex`, and `stats.recall` is None. With `approximate` they come by the table's
    vector index, and `stats.recall` is the share of the exact neighbours of `audit` of the queries that were found.

    Behaviour in corner cases:
        - labels are filtered by the database, before it searches;
        - positives are compared class by class, exactly, without a search;
        - a window is searched exactly, whatever the index: distances by compressed rows would not respect its bounds;
        - `farthest` searches with -q; under "euclidean" the database has no such search and it is refused;
        - what others write to the table after `open` is not seen.

    Memory: ids, labels and groups, 24 bytes a row; the answer; and up to 512 MiB for what is read. `fit` has the rows
    as well. The rows of a class are read together.

    Args:
        folder: of the database, or an address that LanceDB knows; None: a temporary one, for this index alone.
        table: its name.
        metric: "cosine" (rows are normalised when they are read), "dot" or "euclidean" (s = -d).
        approximate: search by the vector index of the table; `fit` makes an inverted file.
        effort: lists of the vector index that are searched at least. Unless these hold the rows as they are
            ("IVF_FLAT"), `effort` times as many rows as are asked for are compared in full as well.
        audit: queries, drawn by a fixed seed, whose neighbours an approximate search is measured by; 0 for none.

    Raises:
        ModuleNotFoundError: LanceDB is not installed.
        ValueError: an unknown metric.

    Example:
        >>> import torch
        >>> from legolas_metric import LanceIndex
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> found = LanceIndex().fit(rows, ["a", "a", "b", "b"], ids=[10, 11, 12, 13]).self_join(1, want="negative")
        >>> found.ids.flatten().tolist()
        [12, 12, 11, 11]

    Source: ours; LanceDB, https://lancedb.com.
    """

    @typed
    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        table: str = "rows",
        *,
        metric: Metric = "cosine",
        approximate: bool = False,
        effort: int = 20,
        audit: int = 256,
    ) -> None:
        check_metric(metric)
        self.effort, self.audit = check_whole("effort", effort, 1), check_whole("audit", audit, 0)
        self.metric: Metric = metric
        self.approximate = approximate
        self.name = table
        if folder is None:
            folder = tempfile.mkdtemp(prefix="legolas-metric-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._database: Any = connect(folder)
        self._stored: StoredTable | None = None
        self._device = torch.device("cpu")

    def clone(self) -> "LanceIndex":
        """An unfitted index with the same settings, and a temporary folder of its own."""
        return type(self)(metric=self.metric, approximate=self.approximate, effort=self.effort, audit=self.audit)

    def fit(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> "LanceIndex":
        """Write rows to a new table with the columns id, vector, label, group; arguments as `ExactIndex.fit`.

        Raises:
            ValueError: the folder has a table of this name.
        """
        rows = fitted_rows(embeddings, labels, ids=ids, groups=groups, metric=self.metric)
        columns = Columns(label=None if labels is None else "label", group=None if groups is None else "group")
        stored = StoredTable(write_table(self._database, self.name, rows), columns, self.metric)
        if self.approximate:
            stored.build_index()
        self._stored, self._device = stored, rows.ids.device
        return self

    @typed
    def open(
        self, *, id: str = "id", vector: str = "vector", label: str | None = "label", group: str | None = None
    ) -> "LanceIndex":
        """Take a table that is there, in its present version; its rows are looked through once, block by block.

        Args:
            id: column of integers >= 0, all different, by which answers name the rows.
            vector: column of vectors of float32.
            label: column of integers >= -1, of strings, or of categories (a dictionary of either); missing ones are
                unlabelled. None: there is none.
            group: the same of sessions, cameras, recordings.

        Returns:
            self.

        Raises:
            TypeError: a column of another type.
            ValueError: no such table or column, rows that hold NaN or are all zero, ids that repeat or are missing, a
                vector index of another metric or, with `approximate`, none.
        """
        stored = StoredTable(open_table(self._database, self.name), Columns(id, vector, label, group), self.metric)
        if self.approximate and stored.vector_index is None:
            raise ValueError(
                f"table {self.name!r} has no vector index: make one, table.create_index(...), or pass approximate=False"
            )
        self._stored = stored
        return self

    def queries(
        self, queries: ArrayLike, *, labels: ArrayLike | None, ids: ArrayLike | None, groups: ArrayLike | None
    ) -> Rows:
        """The queries of `search`, checked and prepared."""
        given, rows = as_tensor(queries, name="queries"), self.table
        own = query_rows(given.cpu(), rows, labels=labels, ids=ids, groups=groups, metric=self.metric)
        return _moved(own, given.device)

    @property
    def rows(self) -> Rows:
        """`table`."""
        return self.table

    @property
    def table(self) -> Rows:
        """What is known of the rows, in the table's order; in place of their embeddings, which `read` gives, is NaN.

        Raises:
            ValueError: before `fit` or `open`.
        """
        return self._held.rows

    @property
    def longest(self) -> float:
        """The largest norm of a row as it lies in the table."""
        return self._held.longest

    def read(self, number: Int64[Tensor, " m"]) -> Rows:
        """Rows by their number in the table, prepared, with their embeddings."""
        return self._held.read(number)

    def answer(self, own: Rows, k: int, want: Want, farthest: bool, window: Window | None) -> Neighbors:
        """`search` of queries that are checked and prepared already; of `table` itself, read block by block."""
        joined = own is self.table
        here = _moved(own, torch.device("cpu"))
        found = self._answered(here, self.read if joined else here.__getitem__, k, want, farthest, window)
        device = self._device if joined else own.ids.device
        return replace(found, ids=found.ids.to(device), similarities=found.similarities.to(device))

    @property
    def _held(self) -> StoredTable:
        if self._stored is None:
            raise ValueError("this index holds no rows: call fit(embeddings, labels), or open(), first")
        return self._stored

    def _answered(
        self,
        about: Rows,
        take: Callable[[Int64[Tensor, " m"]], Rows],
        k: int,
        want: Want,
        farthest: bool,
        window: Window | None,
    ) -> Neighbors:
        """The answer to queries of which `about` tells all but the embeddings, and that `take` gives some of."""
        stored = self._held
        check_request(about, stored.rows, k, want)
        bounds = window_bounds(window, len(about), about.ids.device)
        by_class = want in ("positive", "cross_group_positive")
        if farthest and self.metric == "euclidean" and not by_class:
            raise ValueError("LanceDB finds no farthest rows under metric='euclidean': use ExactIndex")
        lists = self.effort if self.approximate and bounds is None and not by_class else None

        def exactly(sample: Int64[Tensor, " s"]) -> Int64[Tensor, "s k"]:
            return TableSearch(stored, take(sample), k, want, farthest, part_of(bounds, sample), None).nearest()[0]

        with exact_arithmetic(about.ids.device):
            (ids, values), widened = no_answer(len(about), k, about.embeddings), 0
            for part in torch.arange(len(about)).split(rows_for(WORKSPACE, 16 * about.embeddings.shape[1])):
                search = TableSearch(stored, take(part), k, want, farthest, part_of(bounds, part), lists)
                if by_class:
                    ids[part], values[part] = search.of_class()
                else:
                    ids[part], values[part], some = search.nearest()
                    widened += some
            recall = None if lists is None else audited(ids, self.audit, exactly)
        engine = "lance:flat" if lists is None else f"lance:{stored.vector_index}"
        return Neighbors(ids, values, SearchStats(engine=engine, widened=widened, recall=recall))


def _moved(rows: Rows, device: torch.device) -> Rows:
    labels, groups = (None if values is None else values.to(device) for values in (rows.labels, rows.groups))
    return replace(rows, embeddings=rows.embeddings.to(device), ids=rows.ids.to(device), labels=labels, groups=groups)
