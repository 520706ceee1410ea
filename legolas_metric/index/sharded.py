"""`ShardedIndex`: one exact index whose rows lie on several processes.

Each process keeps its own rows. Queries travel in blocks to all of them; each answers all queries of a block from its
rows, and the owner of a query merges the lists by the similarity that decides, and the id. So the answer is that of one
process with all rows, bit for bit, whatever the number of processes.

Letters: w processes, q queries, n rows, d dimensions, k neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.budgets import WORKSPACE, rows_for
from legolas_metric.checks import ArrayLike, Metric, as_tensor, check_dimension, check_metric
from legolas_metric.distributed import World
from legolas_metric.geometry import chunks
from legolas_metric.index.exact import ExactIndex
from legolas_metric.index.interface import Want, Window, check_request, window_bounds
from legolas_metric.index.request import Bounds
from legolas_metric.index.shard_rows import joined
from legolas_metric.index.top_k import best_of, exact_similarities
from legolas_metric.lookup import lookup
from legolas_metric.names import as_named
from legolas_metric.records import Neighbors, SearchStats
from legolas_metric.rows import NO_ID, Rows, fitted_rows, query_rows
from legolas_metric.signatures import typed, typed_fields

_FITTING, _SEARCHING = "fitting a sharded index", "searching a sharded index"


class ShardedIndex:
    """Exact neighbours among the rows of all processes of a group, each of which keeps its own.

    Every process makes the same calls in the same order: `fit` with its rows, `search` with its queries, `self_join`.
    Of both there may be none: a tensor of shape [0, d], and no labels. Each receives the answers to its own queries.
    What one process refuses, all refuse; one that dies, or does not come within the group's time-out, is named by the
    others.

    Memory of a process, for n rows of its own: as `ExactIndex`, and a block of queries and answers of 256 MiB; under
    "cosine", while it is fitted, 64 bytes for each row of all.

    Args:
        metric: "cosine" (rows are normalised), "dot" or "euclidean" (s = -d).
        group: the process group (default: that of the run; a single process where there is none).

    Raises:
        ValueError: an unknown metric.

    Example:
        >>> import torch
        >>> from legolas_metric import ShardedIndex
        >>> found = ShardedIndex().fit(torch.eye(3), [0, 0, 1]).self_join(2, want="positive")  # of one process
        >>> found.ids.tolist()
        [[1, -1], [0, -1], [-1, -1]]

    Source: ours.
    """

    @typed
    def __init__(self, *, metric: Metric = "cosine", group: Any = None) -> None:
        check_metric(metric)
        self.metric: Metric = metric
        self.group = group
        self._local = ExactIndex(metric=metric)
        self._rows: Rows | None = None

    def __repr__(self) -> str:
        return f"ShardedIndex(metric={self.metric!r})"

    def clone(self) -> "ShardedIndex":
        """An unfitted index with the same settings."""
        return type(self)(metric=self.metric, group=self.group)

    @property
    def world(self) -> World:
        """The processes among which the rows lie."""
        return World.current(averages_gradients=False, group=self.group)

    @property
    def rows(self) -> Rows:
        """This process's rows, checked and prepared.

        Raises:
            ValueError: before `fit`.
        """
        if self._rows is None:
            raise ValueError("this index holds no rows: call fit(embeddings, labels) on every process first")
        return self._rows

    def fit(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> "ShardedIndex":
        """Take this process's rows.

        Args:
            embeddings: [n, d]; n differs from process to process, and may be 0.
            labels: [n] integers, or names, which are numbered together; needed for every want but "any".
            ids: [n], unique over all processes (default: row numbers, counted on from process to process).
            groups: [n], needed for "cross_group_positive".

        Returns:
            self.

        Raises:
            ValueError: also where processes differ in dimension or in what they give, or share an id.
            ProcessFailed: another process refused its rows.
        """
        world = self.world
        with world.meeting(_FITTING):
            with world.together(_FITTING, call="ShardedIndex.fit"):
                rows = _own_rows(embeddings, labels, ids, groups, self.metric, merged=world.size == 1)
            return self.take(joined(rows, world, self.metric, has_ids=ids is not None))

    def take(self, rows: Rows) -> "ShardedIndex":
        """`fit` of rows that are `joined` already, and are not copied."""
        if len(rows):
            self._local.take(rows)
        self._rows = rows
        return self

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
        """The k best admissible rows, of all processes, of each query of this one; arguments as `ExactIndex.search`.

        A process without queries needs no labels, groups or window.

        Raises:
            ValueError: as `ExactIndex.search`, also where no query is given but of another dimension; or where the
                processes make different calls, or some with queries give a window and others none.
            ProcessFailed: another process refused its queries.
        """
        return self._asked("search", lambda: self._queries(queries, labels, ids, groups), (k, want, farthest), window)

    def self_join(
        self, k: int, *, want: Want = "negative", farthest: bool = False, window: Window | None = None
    ) -> Neighbors:
        """`search` with this process's rows as queries, in the order of `fit`."""
        return self._asked("self_join", lambda: self.rows, (k, want, farthest), window)

    def _asked(
        self, name: str, queries: Callable[[], Rows], given: tuple[int, Want, bool], window: Window | None
    ) -> Neighbors:
        """A call that all processes make, with queries that are checked where the others hear of it."""
        world, (k, want, farthest) = self.world, given
        call = f"ShardedIndex.{name}(k={k}, want={want!r}, farthest={farthest})"
        with world.meeting(_SEARCHING):
            with world.together(_SEARCHING, call=call):
                own, asked = queries(), Asked(k, want, farthest)
                check_request(own, self.rows, asked.k, want)
                bounds = window_bounds(window, len(own), own.ids.device)
            return self.answer(own, asked, bounds)

    def _queries(
        self, queries: ArrayLike, labels: ArrayLike | None, ids: ArrayLike | None, groups: ArrayLike | None
    ) -> Rows:
        given = as_tensor(queries, name="queries")
        if given.ndim != 2 or len(given):
            return query_rows(given, self.rows, labels=labels, ids=ids, groups=groups, metric=self.metric)
        check_dimension(given, self.rows.embeddings, names=("queries", "the fitted rows"))
        return _none_of(given, labels, ids, groups, of="queries")

    def answer(self, own: Rows, asked: "Asked", window: Bounds | None) -> Neighbors:
        """`search` of queries that are checked and prepared already, within a meeting of the processes.

        Block by block: every process's queries to all, all answers to the owner, who merges them.

        Raises:
            ValueError: some processes that have queries give a window and others none.
        """
        world = self.world
        if world.size == 1 and len(own):
            found = self._local.answer(own, asked.k, asked.want, asked.farthest, window)
            return replace(found, stats=replace(found.stats, engine="sharded"))
        told = world.gather_objects((len(own), window is not None, len(self.rows)))
        windowed = _is_windowed(told, world)
        if not len(own):
            window = (own.ids.double(), own.ids.double()) if windowed else None
        n = sum(rows for _, _, rows in told)
        within = replace(asked, k=min(asked.k, n))
        most = max(1, rows_for(WORKSPACE, 4 * own.embeddings.shape[1] + 48 * within.k + 64) // world.size)
        found, stats = [_no_answer(own, within.k)], []
        for part in chunks(max(count for count, _, _ in told), most):
            limits = None if window is None else (window[0][part], window[1][part])
            counts = [len(range(*part.indices(count))) for count, _, _ in told]
            found.append(self._exchange(own[part], limits, within, counts, stats, world))
        ids, similarities = (torch.cat(parts) for parts in zip(*found))
        missing = (0, asked.k - within.k)  # more than there are rows
        return Neighbors(
            torch.nn.functional.pad(ids, missing, value=NO_ID),
            torch.nn.functional.pad(similarities, missing, value=-torch.inf),
            _summed(stats, world.size),
        )

    def _exchange(
        self, own: Rows, bounds: Bounds | None, asked: "Asked", counts: list[int], stats: list, world: World
    ) -> tuple[Int64[Tensor, "q k"], Tensor]:
        """The answers to this process's queries of a block; what this process answered goes into `stats`."""
        joint, limits = _to_all(own, bounds, asked.want, world)
        ids = joint.ids.new_full((len(joint), asked.k), NO_ID)
        values = torch.full(ids.shape, -torch.inf, dtype=torch.float64, device=ids.device)
        with world.together(_SEARCHING):
            if len(self.rows) and len(joint):
                near = self._local.answer(joint, asked.k, asked.want, asked.farthest, limits)
                stats.append((near.stats, len(joint)))
                ids = near.ids
                query, place = (ids != NO_ID).nonzero(as_tuple=True)
                row, _ = lookup(ids[query, place], self.rows.ids)
                values[query, place] = exact_similarities(
                    joint.embeddings, self.rows.embeddings, query, row, self.metric
                )
        ids, values = (_to_owners(table, counts, world)[:, : len(own)] for table in (ids, values))
        real = ids != NO_ID
        query = real.nonzero(as_tuple=True)[1]
        return best_of(query, ids[real], values[real], q=len(own), k=asked.k, farthest=asked.farthest)


@typed_fields
@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of all processes alike."""

    k: int
    want: Want
    farthest: bool


def _own_rows(
    embeddings: ArrayLike,
    labels: ArrayLike | None,
    ids: ArrayLike | None,
    groups: ArrayLike | None,
    metric: Metric,
    *,
    merged: bool,
) -> Rows:
    """A process's rows, checked and prepared."""
    given = as_tensor(embeddings, name="embeddings")
    if given.ndim == 2 and not len(given):
        return _none_of(given, labels, ids, groups, of="embeddings")
    return fitted_rows(given, labels, ids=ids, groups=groups, metric=metric, merged=merged)


def _none_of(
    given: Tensor, labels: ArrayLike | None, ids: ArrayLike | None, groups: ArrayLike | None, *, of: str
) -> Rows:
    """No rows; what names them is none, too."""
    nothing = torch.zeros(0, dtype=torch.int64, device=given.device)
    for name, values in {"labels": labels, "ids": ids, "groups": groups}.items():
        count = 0 if values is None else len(as_named(values, None, name=name).codes)
        if count:
            raise ValueError(f"there are no {of}, but {count} {name}: give as many of both")
    return Rows(given.float(), nothing, nothing, nothing)


def _is_windowed(told: list[tuple[int, bool, int]], world: World) -> bool:
    """Whether the processes that have queries give windows; refused where some do."""
    windows = ["no queries" if not count else "a window" if windowed else "none" for count, windowed, _ in told]
    if {"a window", "none"} <= set(windows):
        raise ValueError(
            f"every process with queries must give a window, or none of them, got {world.by_process(windows)}"
        )
    return "a window" in windows


def _to_all(own: Rows, bounds: Bounds | None, want: Want, world: World) -> tuple[Rows, Bounds | None]:
    """The queries of all processes, in order of rank, with what `want` compares, and their windows."""
    names = [own.ids if values is None else values for values in (own.ids, own.labels, own.groups)]
    embeddings, joint = world.gather(own.embeddings), world.gather(torch.stack(names, 1))
    ids, labels, groups = joint.T.contiguous()
    grouped = want == "cross_group_positive"
    rows = Rows(embeddings, None if want == "any" else labels, ids, groups if grouped else None)
    if bounds is None:
        return rows, None
    low, high = world.gather(torch.stack(bounds, 1)).T.contiguous()
    return rows, (low, high)


def _to_owners(table: Tensor, counts: list[int], world: World) -> Tensor:
    """What all processes found for this one's queries: [w, the most queries of a process, k]."""
    sent = table.new_full((len(counts), max(counts), table.shape[1]), NO_ID)
    for rank, some in enumerate(table.split(counts)):
        sent[rank, : len(some)] = some
    return world.exchange(sent)


def _no_answer(own: Rows, k: int) -> tuple[Int64[Tensor, "q k"], Tensor]:
    return own.ids.new_zeros(0, k), own.embeddings.new_zeros(0, k)


def _summed(stats: list[tuple[SearchStats, int]], shards: int) -> SearchStats:
    """How this process answered, for itself and the others."""
    checked = [(one.certified, count) for one, count in stats if one.certified is not None]
    asked = sum(count for _, count in checked)
    return SearchStats(
        engine="sharded",
        precision=stats[-1][0].precision if stats else "float32",
        certified=sum(share * count for share, count in checked) / asked if asked else None,
        details={"processes": float(shards)},
    )
