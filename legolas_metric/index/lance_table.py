"""A table of LanceDB as rows: written, read by number, searched. The only module that imports LanceDB.

LanceDB runs in the process, keeps its tables in a folder, and searches them without loading them; where it uses no
vector index it compares a query with every row, in float32. A table is looked at in one version: what others write to
it meanwhile is not seen.

Letters: q queries, n rows, d dimensions, t pairs, m rows that are read.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import Metric
from legolas_metric.geometry import chunks, prepare
from legolas_metric.lookup import lookup
from legolas_metric.names import Names
from legolas_metric.rows import Rows, as_embeddings, named_rows

DISTANCES = {"cosine": "cosine", "dot": "dot", "euclidean": "l2"}
"""What LanceDB calls the distance of each metric."""

_NORMS = (2.0**-40, 2.0**40)


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a table's columns; None where there is none."""

    id: str = "id"
    vector: str = "vector"
    label: str | None = "label"
    group: str | None = None

    @property
    def names(self) -> tuple[str | None, str | None]:
        """What names the rows."""
        return self.label, self.group


@dataclass(frozen=True, slots=True)
class Found:
    """Pairs (query, row) that a search gives, nearest first.

    Attributes:
        query: [t], numbers of queries.
        row: [t], numbers of rows.
        vector: [t, d], the rows, prepared.
        distance: [t], as LanceDB gives it.
    """

    query: Int64[Tensor, " t"]
    row: Int64[Tensor, " t"]
    vector: Float32[Tensor, "t d"]
    distance: Float32[Tensor, " t"]


class StoredTable:
    """A table in one version, with what is known of its rows in memory, but for the embeddings.

    Args:
        table: LanceDB's, opened for this object alone.
        columns: what its columns are called.
        metric: under which its rows are prepared.

    Raises:
        TypeError: a column of another type than it must have.
        ValueError: a column that isn't there, rows that no bank would take, ids that repeat.
    """

    def __init__(self, table: Any, columns: Columns, metric: Metric) -> None:
        table.checkout(table.version)
        self.metric: Metric = metric
        self._table, self._columns = table, columns
        self._d = _dimension(table.schema, columns)
        ids, (labels, groups), self.longest = self._look_through()
        stand_in = torch.full((1, self._d), torch.nan).expand(len(ids), self._d)  # rows are read where needed
        self.rows = named_rows(stand_in, labels, ids=ids, groups=groups)

    @cached_property
    def by_label(self) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        """The labels in ascending order, and the numbers of their rows."""
        assert self.rows.labels is not None
        ordered, order = self.rows.labels.sort(stable=True)
        return ordered, order

    def read(self, number: Int64[Tensor, " m"]) -> Rows:
        """Some rows, prepared, in the order of their numbers."""
        found = self._table.take_offsets(number.unique().tolist()).select([self._columns.id, self._columns.vector])
        ids, vectors = self._unpacked(_answer(found))
        place, there = lookup(self.rows.ids[number], ids)
        if not bool(there.all()):
            raise RuntimeError("the table gave other rows than it was asked for: open it again")
        return replace(self.rows[number], embeddings=prepare(vectors, self.metric)[place])

    def search(
        self,
        queries: Float32[Tensor, "q d"],
        count: int,
        *,
        other_than: int | None,
        between: tuple[float | None, float | None] | None,
        lists: int | None,
    ) -> Found:
        """The `count` nearest rows of each query.

        Args:
            queries: [q, d], prepared.
            count: of rows.
            other_than: leave out the rows of this label, a number as in `rows.labels`.
            between: least and largest distance; None is no bound.
            lists: of the table's vector index that are searched at least, and, unless its lists hold the rows as they
                are, how many times as many rows are compared in full; None compares with every row.
        """
        request = self._table.search(queries.numpy(), vector_column_name=self._columns.vector)
        request = request.distance_type(DISTANCES[self.metric]).limit(count)
        names = self.rows.label_names
        if other_than is not None and (names is None or other_than < len(names)):
            label = f"`{self._columns.label}`"
            literal = _literal(other_than, names)
            request = request.where(f"{label} IS NULL OR {label} <> {literal}", prefilter=True)
        if between is not None:
            request = request.distance_range(*between)
        if lists is None:
            request = request.bypass_vector_index()
        else:
            request = request.minimum_nprobes(lists).maximum_nprobes(0)  # more of them where a filter leaves few
            if self.vector_index != "IVF_FLAT":
                request = request.refine_factor(lists)
        table = _answer(request.select([self._columns.id, self._columns.vector, "_distance"]))
        ids, vectors = self._unpacked(table)
        row, _ = lookup(ids, self.rows.ids)
        query = _numbers(table, "query_index") if "query_index" in table.column_names else torch.zeros_like(row)
        distance = torch.from_numpy(np.array(table["_distance"].to_numpy(), dtype=np.float32))
        return Found(query, row, prepare(vectors, self.metric), distance)

    def build_index(self) -> None:
        """Give the table a vector index: an inverted file, with as many lists as LanceDB finds right."""
        from lancedb.index import IvfFlat  # an extra

        kind: Any = IvfFlat(distance_type=DISTANCES[self.metric])  # pyright: ignore[reportArgumentType]  (a literal)
        self._table.checkout_latest()
        self._table.create_index(self._columns.vector, config=kind)
        self._table.checkout(self._table.version)

    @cached_property
    def vector_index(self) -> str | None:
        """The kind of the table's vector index, such as "IVF_PQ"; None where there is none.

        Raises:
            ValueError: an index by another distance than the metric's, which LanceDB would leave aside.
        """
        for index in self._table.list_indices():
            if index.columns == [self._columns.vector]:
                about = self._table.index_stats(index.name)
                if about.distance_type != DISTANCES[self.metric]:
                    raise ValueError(
                        f"the table's vector index is by {about.distance_type!r}, metric={self.metric!r} needs "
                        f"{DISTANCES[self.metric]!r}: make the index anew, or pass approximate=False"
                    )
                return about.index_type
        return None

    def _look_through(self) -> tuple[Int64[Tensor, " n"], tuple[np.ndarray | None, np.ndarray | None], float]:
        """Ids, labels and groups, and the largest norm; in one pass, block by block."""
        columns, longest = self._columns, 0.0
        wanted = {name: None for name in (columns.id, columns.vector, *columns.names) if name is not None}
        ids: list[Tensor] = []
        named: list[tuple[np.ndarray | None, np.ndarray | None]] = []
        request = self._table.search().select([*wanted])
        for batch in request.to_batches(rows_for(BLOCK, 8 * self._d)):
            own, vectors = self._unpacked(batch)
            as_embeddings(vectors, name="the table's rows", metric=self.metric, ids=own)
            norm = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
            longest = max(longest, float(norm.max()))
            if self.metric == "cosine" and not (_NORMS[0] <= float(norm.min()) and longest <= _NORMS[1]):
                raise ValueError(
                    f"the table's rows have norms of {float(norm.min()):.3g} to {longest:.3g}, which LanceDB can't "
                    "square in float32: write them normalised"
                )
            ids.append(own)
            named.append((_values(batch, columns.label), _values(batch, columns.group)))
        if not ids:
            raise ValueError("the table holds no rows: write some first")
        labels, groups = (None if parts[0] is None else np.concatenate(parts) for parts in zip(*named))
        return torch.cat(ids), (labels, groups), longest

    def _unpacked(self, table: Any) -> tuple[Int64[Tensor, " m"], Float32[Tensor, "m d"]]:
        """Ids and vectors of a table or batch of pyarrow."""
        column = table[self._columns.vector]
        ids = _numbers(table, self._columns.id)
        if column.null_count:
            empty = ids[torch.from_numpy(np.array(column.is_null()))]
            raise ValueError(f"{len(empty)} rows of the table have no vector (first ids: {empty[:5].tolist()})")
        flat = column.combine_chunks().flatten() if hasattr(column, "combine_chunks") else column.flatten()
        vectors = np.array(flat.to_numpy(zero_copy_only=False)).reshape(-1, self._d)
        return ids, torch.from_numpy(vectors)


def connect(folder: str | os.PathLike[str]) -> Any:
    """A database in a folder.

    Raises:
        ModuleNotFoundError: LanceDB is not installed.
    """
    try:
        import lancedb  # an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "LanceIndex needs LanceDB: pip install 'legolas-metric[vectordb]'", name="lancedb"
        ) from error
    return lancedb.connect(os.fspath(folder))


def open_table(database: Any, name: str) -> Any:
    """A table by its name.

    Raises:
        ValueError: no such table.
    """
    try:
        return database.open_table(name)
    except ValueError as error:
        known = ", ".join(map(repr, database.list_tables().tables)) or "none"
        raise ValueError(f"{database.uri} has no table {name!r} (it has {known})") from error


def write_table(database: Any, name: str, rows: Rows) -> Any:
    """A new table of prepared rows, written in blocks.

    Raises:
        ValueError: there is one of that name.
    """
    import pyarrow  # comes with LanceDB

    if name in database.list_tables().tables:
        why = "which is not overwritten: open() it, or name another"
        raise ValueError(f"{database.uri} has a table {name!r} already, {why}")
    d = rows.embeddings.shape[1]
    kinds = {"id": pyarrow.int64(), "vector": pyarrow.list_(pyarrow.float32(), d)}
    for column, codes, names in (("label", rows.labels, rows.label_names), ("group", rows.groups, rows.group_names)):
        if codes is not None:
            kinds[column] = pyarrow.int64() if names is None else pyarrow.string()
    schema = pyarrow.schema(list(kinds.items()))

    def batches() -> Iterator[Any]:
        for part in chunks(len(rows), rows_for(BLOCK, 8 * d)):
            some = rows[part]
            flat = pyarrow.array(some.embeddings.cpu().numpy().ravel())
            arrays = [pyarrow.array(some.ids.cpu().numpy()), pyarrow.FixedSizeListArray.from_arrays(flat, d)]
            for codes, names in ((some.labels, some.label_names), (some.groups, some.group_names)):
                if codes is not None:
                    arrays.append(pyarrow.array(_named(codes, names)))
            yield pyarrow.record_batch(arrays, schema=schema)

    return database.create_table(name, pyarrow.RecordBatchReader.from_batches(schema, batches()))


def _answer(request: Any) -> Any:
    """What the database gives, as a table of pyarrow.

    Raises:
        RuntimeError: the version that is looked at is no longer there.
    """
    try:
        return request.to_arrow()
    except RuntimeError as error:
        if "Not found" not in str(error):
            raise
        raise RuntimeError(
            "files of the table, as it was when it was opened, are gone: another program has cleaned up old versions, "
            "replaced or dropped it; open() it again"
        ) from error


def _named(codes: Int64[Tensor, " n"], names: Names | None) -> Any:
    """Names as users write them, None where one is missing; or the integers."""
    return codes.cpu().numpy() if names is None else [None if code < 0 else names[code] for code in codes.tolist()]


def _literal(code: int, names: Names | None) -> str:
    """A label as SQL writes it."""
    return str(code) if names is None else "'" + names[code].replace("'", "''") + "'"


def _dimension(schema: Any, columns: Columns) -> int:
    """The length of a table's vectors; raise where a column is missing, or of another type than it must have."""
    from pyarrow import types  # comes with LanceDB

    for role, name in asdict(columns).items():
        if name is not None and name not in schema.names:
            known = ", ".join(map(repr, schema.names))
            remedy = f"open({role}=...)" + (", or None where there is none" if role in ("label", "group") else "")
            raise ValueError(f"the table has no column {name!r} for {role} (it has {known}): {remedy}")
    reserved = {"query_index", "_distance"}.intersection(schema.names)
    if reserved:
        raise ValueError(f"LanceDB's answers have a column {min(reserved)!r} of their own: rename the table's")
    vector, number = schema.field(columns.vector).type, schema.field(columns.id).type
    if not (types.is_fixed_size_list(vector) and types.is_float32(vector.value_type)):
        raise TypeError(
            f"column {columns.vector!r} must hold vectors of float32 of one length, got {vector}: add a column of them"
        )
    if not types.is_integer(number):
        raise TypeError(
            f"column {columns.id!r} must hold integers, got {number}: triplets carry int64 ids, add a column of them"
        )
    for name in columns.names:
        if name is not None:
            kind = schema.field(name).type
            kind = kind.value_type if types.is_dictionary(kind) else kind
            if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
                raise TypeError(f"column {name!r} must hold integers or strings, got {kind}: add a column of them")
    return vector.list_size


def _values(batch: Any, name: str | None) -> np.ndarray | None:
    """A column as integers, or as objects where it holds strings or lacks values; None where there is none."""
    if name is None:
        return None
    column = batch[name]
    if str(column.type).startswith(("int", "uint")) and not column.null_count:
        return column.to_numpy(zero_copy_only=False)
    encoded = column.dictionary_encode()  # so that rows of one name share one string
    names = np.array([*encoded.dictionary.to_pylist(), None], dtype=object)
    return names[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]


def _numbers(table: Any, name: str) -> Int64[Tensor, " m"]:
    """A column of integers.

    Raises:
        ValueError: some are missing, or beyond int64.
    """
    column = table[name]
    if column.null_count:
        raise ValueError(f"{column.null_count} rows of the table have no {name!r}: give each a number of its own")
    try:
        return torch.from_numpy(np.array(column.cast("int64").to_numpy()))
    except ValueError as error:
        raise ValueError(f"column {name!r} of the table must hold numbers below 2^63: {error}") from error
