"""How the processes of a world share a call to mine: each hands in its own rows, and gets its own anchors' triplets.

Letters: n rows among which is searched, of all processes.
"""

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from legolas_metric.checks import Metric, check_number
from legolas_metric.disk.disk_rows import AnyRows, DiskRows
from legolas_metric.distributed import ALONE, World
from legolas_metric.geometry import chunks
from legolas_metric.index.exact import ExactIndex
from legolas_metric.index.interface import NeighborIndex
from legolas_metric.index.placement import Placing, place
from legolas_metric.index.shard_rows import joined
from legolas_metric.index.sharded import ShardedIndex
from legolas_metric.miners.dense import block_rows
from legolas_metric.miners.joint import JointNames, JointSearch
from legolas_metric.miners.masks import Relations
from legolas_metric.miners.pool import Searched
from legolas_metric.rows import Rows


@dataclass(frozen=True, slots=True)
class Spread:
    """The rows among which is searched, as this process reaches them.

    Attributes:
        rows: of all processes.
        start: the number of this process's first row.
        search: what answers; None where the scores of all are looked at.
        together: around the work of each process, by which an error of one ends all.
        placing: what decided where they lie.
    """

    rows: AnyRows | JointNames
    start: int
    search: Searched | JointSearch | None
    together: AbstractContextManager[object]
    placing: Placing | None = None

    @property
    def whole(self) -> Rows:
        """All rows, embeddings too: they are here where there is no `search`."""
        assert isinstance(self.rows, Rows)
        return self.rows


@dataclass(frozen=True, slots=True)
class Sharing:
    """Which processes share a call to mine.

    Attributes:
        world: the processes.
        miner: its name, for errors.
        call: what is asked for, in words that are equal on all processes that ask the same.
        candidates: that a search gives for each anchor.
        memory_mb: what a process may use, in MiB; None: what is free.
        needs_all: why all rows must lie on one process, if they must.
    """

    world: World
    miner: str = ""
    call: str = ""
    candidates: int = 1
    memory_mb: float | int | None = None
    needs_all: str | None = None

    def check(self, rows: AnyRows, index: NeighborIndex, *, dense: bool) -> None:
        """Refuse rows that stay with their owners, or on disk, to a miner that looks at all of them at once."""
        if isinstance(rows, DiskRows) and self.world.size > 1:
            raise ValueError("a bank on disk is mined by one process, not by several that share the call")
        if isinstance(rows, DiskRows) and self.memory_mb is not None:
            raise ValueError(
                "a bank on disk has a ceiling of its own: StoredBank(path, memory_mb=...), not mine(memory_mb=)"
            )
        if isinstance(rows, DiskRows) and not isinstance(index, ExactIndex | ShardedIndex):
            raise ValueError(
                f"a bank on disk is searched exactly, block by block, not by {type(index).__name__}: leave "
                "index='auto', or mine bank.load()"
            )
        if isinstance(rows, DiskRows) and dense:
            raise ValueError(
                "distances that are weighted, and relations by more than equality of labels, compare each row with "
                "each, which a bank on disk does not: mine bank.load()"
            )
        if dense and isinstance(index, ShardedIndex) and index.world.size > 1:
            raise ValueError(
                f"{self.miner} looks at all rows at once, which index=ShardedIndex() leaves on their own processes: "
                "leave index='auto' and pass world=, which gathers rows that fit"
            )

    def joined(self, rows: AnyRows, metric: Metric) -> AnyRows:
        """This process's rows with names numbered as on all, and ids that no other has."""
        if isinstance(rows, DiskRows) or self.world.size == 1:
            return rows
        return joined(rows, self.world, metric, has_ids=True)

    def spread(self, rows: AnyRows, index: NeighborIndex, *, dense: bool) -> Spread:
        """The rows of all processes: gathered on each where they fit, else each with its owner."""
        world = self.world
        if isinstance(rows, DiskRows) or world.size == 1:
            return Spread(rows, 0, None if dense else Searched(rows, index), nullcontext())
        start = sum(world.gather_objects(len(rows))[: world.rank])
        placing = None if isinstance(index, ShardedIndex) else self._placed(rows)
        if placing is None or placing.how == "sharded":
            names = JointNames.of(rows, world)
            search = JointSearch(ShardedIndex(metric=index.metric, group=world.group).take(rows), names)
            return Spread(names, start, search, search.asking, placing)
        gathered = [None if part is None else world.gather(part) for part in (rows.labels, rows.groups)]
        every = Rows(world.gather(rows.embeddings), gathered[0], world.gather(rows.ids), gathered[1])
        return Spread(every, start, None if dense else Searched(every, index), world.together("mining"), placing)

    def before(self, anchors: int, relations: Relations | None, n: int) -> int:
        """Anchors, or with their relations pairs of anchor and positive, that the processes before this one mine."""
        if self.world.size == 1:
            return 0
        count = anchors
        if relations is not None:
            parts = [relations[part] for part in chunks(anchors, block_rows(n))]
            count = sum(int(part.positives[(part.positives > 0) & (part.negatives > 0)].sum()) for part in parts)
        return sum(self.world.gather_objects(count)[: self.world.rank])

    def _placed(self, rows: Rows) -> Placing:
        return place(
            self.world,
            len(rows),
            rows.embeddings.shape[1],
            k=self.candidates,
            device=rows.embeddings.device,
            memory_mb=self.memory_mb,
            whole=self.needs_all,
        )


BY_ITSELF = Sharing(ALONE)
"""A process that mines by itself."""


def shared(
    miner: Any,
    world: World,
    candidates: int,
    memory_mb: float | int | None,
    needs_all: str | None = None,
    *,
    draws: bool = False,
) -> Sharing:
    """The processes that share a call to mine: those of the index, where it is one of several, else those given.

    `draws`: it draws at random, and in each of its calls anew.
    """
    if memory_mb is not None:
        check_number("memory_mb", memory_mb, above=0.0)
    if isinstance(miner.index, ShardedIndex):
        world = miner.index.world
    where = " at 0x[0-9a-f]+"  # in memory, which differs from process to process
    call = re.sub(where, "", f"{miner!r}.mine()") + (f", its call {miner.calls + 1}" if draws else "")
    return Sharing(world, type(miner).__name__, call, candidates, memory_mb, needs_all)
