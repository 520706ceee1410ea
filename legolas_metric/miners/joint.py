"""Rows that lie on several processes, as the pools of one of them see them.

Labels, ids and groups are known to all; embeddings stay with their owner, and travel when they are asked for.

Letters: n rows of all processes, m of them that are asked for, q anchors, k neighbours, d dimensions.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float64, Int64, Shaped
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import Metric
from legolas_metric.distributed import World
from legolas_metric.geometry import chunks
from legolas_metric.index.asking import Asking
from legolas_metric.index.interface import Want, Window, window_bounds
from legolas_metric.index.sharded import Asked, ShardedIndex
from legolas_metric.index.top_k import exact_similarities
from legolas_metric.lookup import lookup
from legolas_metric.records import SearchStats
from legolas_metric.rows import NO_ID, Rows


@dataclass(frozen=True, slots=True)
class JointNames:
    """What every process knows of the rows of all, in order of rank.

    Attributes:
        ids, labels, groups: [n].
        counts: rows of each process.
        longest: the largest norm of a row.
    """

    ids: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    groups: Int64[Tensor, " n"] | None
    counts: tuple[int, ...]
    longest: float

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, own: Rows, world: World) -> "JointNames":
        """Of each process's own rows; all call it."""
        assert own.labels is not None
        counts, lengths = zip(*world.gather_objects((len(own), own.longest if len(own) else 0.0)))
        ids, labels = world.gather(own.ids), world.gather(own.labels)
        groups = None if own.groups is None else world.gather(own.groups)
        return cls(ids, labels, groups, counts, max(lengths))


@dataclass(slots=True)
class JointSearch:
    """Searches among the rows of all processes, and similarities to them, for the anchors of one; see `Searched`.

    Every method asks all processes, within the `asking` of a call to mine; numbers of rows are those of `rows`.

    Attributes:
        index: fitted with each process's own rows.
        rows: what is known of all of them.
        stats: how this process has answered so far.
    """

    index: ShardedIndex
    rows: JointNames
    asking: Asking = field(init=False)
    stats: SearchStats | None = field(default=None, init=False)
    _near: dict[int, Int64[Tensor, "o k"]] = field(default_factory=dict, init=False)  # of each process's own rows

    def __post_init__(self) -> None:
        self.asking = Asking(self.index.world, "mining", self._answer)

    @property
    def metric(self) -> Metric:
        """Of the rows."""
        return self.index.metric

    @property
    def longest(self) -> float:
        """The largest norm of a row."""
        return self.rows.longest

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
        """The best rows for some queries of this process."""
        return self.asking.ask(Asked(min(k, len(self.rows)), want, farthest), (own, window))

    def neighbours(self, k: int, rows: Int64[Tensor, " m"]) -> Int64[Tensor, "m k"]:
        """The k nearest rows of some rows."""
        return self._fetched(k, rows)

    def similarities(
        self, anchors: Rows, anchor: Int64[Tensor, " m"], row: Int64[Tensor, "m k"]
    ) -> Float64[Tensor, "m k"]:
        """The similarity that decides, of anchors of this process and any rows; -inf where the row is -1."""
        x = anchors.embeddings
        out = torch.full(row.shape, -torch.inf, dtype=torch.float64, device=row.device)
        for part in chunks(len(row), rows_for(BLOCK, 4 * x.shape[1] * row.shape[1])):
            line, place = (row[part] != NO_ID).nonzero(as_tuple=True)
            number, which = row[part][line, place].unique(return_inverse=True)
            near = self._fetched(0, number)
            out[part][line, place] = exact_similarities(x, near, anchor[part][line], which, self.metric)
        return out

    def _fetched(self, k: int, rows: Int64[Tensor, " m"]) -> Shaped[Tensor, "m w"]:
        """Of some rows the k nearest, or for k = 0 the embeddings, a block at a time."""
        width = 4 * self.index.rows.embeddings.shape[1] + 8 * k
        parts = [self.asking.ask(k, rows[part]) for part in chunks(len(rows), rows_for(BLOCK, width))]
        return torch.cat(parts) if parts else self.asking.ask(k, rows)

    # What all processes do together

    def _answer(self, request: Asked | int, given: tuple[Rows, Window | None] | Int64[Tensor, " m"] | None) -> Tensor:
        own = self.index.rows
        if isinstance(request, Asked):
            rows, window = given if isinstance(given, tuple) else (own[:0], None)
            return self._searched(rows, request, window)
        wanted = given if isinstance(given, Tensor) else own.ids[:0]
        if request and request not in self._near:
            self._near[request] = self._searched(own, Asked(request, "any", False), None)
        return self._delivered(self._near[request] if request else own.embeddings, wanted)

    def _searched(self, own: Rows, asked: Asked, window: Window | None) -> Int64[Tensor, "m k"]:
        found = self.index.answer(own, asked, window_bounds(window, len(own), own.ids.device))
        shares = [stats.certified for stats in (self.stats, found.stats) if stats and stats.certified is not None]
        self.stats = replace(found.stats, certified=min(shares, default=None))
        row, there = lookup(found.ids, self.rows.ids)
        return torch.where(there, row, NO_ID)

    def _delivered(self, table: Shaped[Tensor, "o w"], rows: Int64[Tensor, " m"]) -> Shaped[Tensor, "m w"]:
        """Lines of the owners' tables, by number of the row."""
        world, ends = self.index.world, torch.tensor(self.rows.counts, device=rows.device).cumsum(0)
        owner = torch.searchsorted(ends, rows, right=True)
        order = owner.argsort(stable=True)
        starts = ends - torch.tensor(self.rows.counts, device=rows.device)
        sizes = torch.bincount(owner, minlength=world.size).tolist()
        wanted = world.deliver((rows - starts[owner])[order].split(sizes))
        found = torch.cat(world.deliver([table[numbers] for numbers in wanted]))
        out = torch.empty_like(found)
        out[order] = found
        return out
