"""Where the bank of a run lies, whole on every process or on each its own part; made, rewritten and mined accordingly.

Letters: n rows of the data set, m of them.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import check_number
from legolas_metric.distributed import ALONE, World
from legolas_metric.geometry import chunks
from legolas_metric.index.placement import Placing, place
from legolas_metric.index.sharded import ShardedIndex
from legolas_metric.lookup import lookup
from legolas_metric.miners.miner import Miner
from legolas_metric.miners.schedule import MiningSchedule, NoMiner, TripletMiner
from legolas_metric.miners.select import counted
from legolas_metric.records import MiningStats, Triplets
from legolas_metric.samplers.class_means import ClassMeans
from legolas_metric.samplers.draws import fingerprint
from legolas_metric.training.embedder import Embedder, Placed
from legolas_metric.training.feeding import Near
from legolas_metric.training.history import RunHistory
from legolas_metric.training.rounds import check_found
from legolas_metric.training.settings import Feeding

log = logging.getLogger(__name__)

_SHOWN = 1 << 16  # rows that are looked at where no process has all of them


class Holding:
    """Keeps the bank of a run on one process, or on several as `placing` says, which is decided once.

    Args:
        embedder: of the whole data set.
        memory_mb: what bank and mining may take on a process; None: what is free.
        history: in which the decision is noted.
    """

    def __init__(self, embedder: Embedder, memory_mb: float | int | None, history: RunHistory | None) -> None:
        if memory_mb is not None:
            check_number("memory_mb", memory_mb, above=0.0)
        self.embedder, self.memory_mb, self.history = embedder, memory_mb, history
        self.join(ALONE)

    def join(self, world: World) -> None:
        """Hold the bank together with the processes of a world."""
        self.world = world
        self.embedder.join(world)
        self.placing: Placing | None = None
        self._part: Embedder | None = None  # of this process's rows, where each keeps its own

    @property
    def sharded(self) -> bool:
        """Whether each process holds its own rows alone."""
        return self._part is not None

    def place(self, placed: Placed, schedule: MiningSchedule, *, epoch: int, step: int) -> None:
        """Decide, once, where the rows lie, by their number and dimension and the memory of all processes.

        Raises:
            ValueError: they fit in no way, with the figures.
        """
        if self.world.size == 1 or self.placing is not None:
            return
        miners, n = [miner for _, miner in schedule.stages], len(self.embedder.inputs)
        whole = None if n >= self.world.size else f"they are fewer than the {self.world.size} processes"
        with self.world.meeting("deciding where the bank lies"):
            with self.world.together("embedding a first example"):
                first = self.embedder.first(placed)
            self.placing = place(
                self.world,
                len(range(*self.world.part(n).indices(n))),
                first.shape[1],
                k=max(miner.strategy.depth if isinstance(miner, Miner) else 1 for miner in miners),
                device=first.device,
                memory_mb=self.memory_mb,
                whole=next((why for miner in miners if (why := needs_all(miner)) is not None), whole),
                apart=any(isinstance(getattr(miner, "index", None), ShardedIndex) for miner in miners),
            )
        if self.placing.how == "sharded":
            self._part = self.embedder.part(self.world.part(n))
        if self.world.rank == 0:
            log.info("the bank: %s", self.placing.sentence())
            if self.history is not None:
                self.history.event(epoch=epoch, step=step, what="placing", why=self.placing.sentence())

    def embed(self, placed: Placed, schedule: MiningSchedule, *, epoch: int, step: int) -> EmbeddingBank:
        """A bank of what this process holds, which is decided first."""
        self.place(placed, schedule, epoch=epoch, step=step)
        if self._part is None:
            return self.embedder.embed(placed, step=step)
        with self.world.meeting("embedding"):
            self.embedder.lead(placed)
            with self.world.together("embedding"):
                return self._part.embed(placed, step=step)

    def rewrite(
        self, bank: EmbeddingBank, placed: Placed, *, step: int, rows: Int64[Tensor, " m"] | None = None
    ) -> None:
        """Write all rows of the data set anew, or some: those that this process holds; drift is that of all."""
        every = len(self.embedder.inputs) if rows is None else len(rows)
        if not every:
            return
        if self._part is None:
            self.embedder.rewrite(bank, placed, step=step, rows=rows)
            return
        if rows is not None:
            first = self.world.part(len(self.embedder.inputs)).start
            rows = rows[(rows >= first) & (rows < first + len(bank))] - first
        count, drift = len(bank) if rows is None else len(rows), 0.0
        with self.world.meeting("embedding"):
            self.embedder.lead(placed)
            with self.world.together("embedding"):
                if count:
                    self._part.rewrite(bank, placed, step=step, rows=rows)
                    drift = bank.drift or 0.0
            told = self.world.gather_objects(count * drift)
        bank.drift = sum(told) / every

    @property
    def own(self) -> slice:
        """The rows of the data set that this process holds."""
        n = len(self.embedder.inputs)
        return slice(0, n) if self._part is None else self.world.part(n)

    def saved(self, bank: EmbeddingBank) -> dict[str, Any]:
        """What a saved state holds of the bank: this process's rows, and which ones they are."""
        rows, steps = bank.embeddings.clone(), bank.steps.clone()
        return {"embeddings": rows, "steps": steps, "drift": bank.drift, "first": self.own.start}

    def saved_by_all(self, bank: EmbeddingBank) -> dict[str, Any]:
        """`saved` of all rows, which the first process gets; the others what is theirs."""
        parts = []
        with self.world.meeting("saving the bank"):
            self.world.tell(None, "saving the bank")
            most = self.world.most(len(bank), bank.ids.device)
            for part in chunks(most, rows_for(BLOCK, 4 * bank.embeddings.shape[1] * self.world.size)):
                ids, steps = self.world.gather(bank.ids[part]), self.world.gather(bank.steps[part])
                rows = self.world.gather(bank.embeddings[part])
                if self.world.rank == 0:
                    parts.append((ids, steps, rows.cpu()))
        if self.world.rank:
            return self.saved(bank)
        ids, steps, rows = (torch.cat(column) for column in zip(*parts))
        order = lookup(self.embedder.ids.to(ids.device), ids)[0]
        return {"embeddings": rows[order.cpu()], "steps": steps[order], "drift": bank.drift, "first": 0}

    def is_saved(self, saved: Mapping[str, Any], *, needed: bool) -> bool:
        """Whether every process finds its rows in its saved state; each asks.

        Raises:
            ValueError: some do not, and the rows are `needed`, as of a rotating bank, which are of different ages.
        """
        own, first = self.own, saved["first"]
        end = first + len(saved["embeddings"])
        with self.world.meeting("resuming"):
            held = self.world.tell(first <= own.start and own.stop <= end, "resuming")
        if needed and not all(held):
            rank = held.index(False)
            raise ValueError(
                f"the bank rotates, and process {rank} of {self.world.size} has no saved state of its rows (here: rows "
                f"{first} to {end} of {len(self.embedder.inputs)} are saved, {own.start} to {own.stop} are needed): "
                "give each process the state that it saved itself, and start as many processes as saved it"
            )
        return all(held)

    def of_saved(self, saved: Mapping[str, Any], device: torch.device | None) -> EmbeddingBank:
        """The bank that a saved state holds; a copy, since the state is the caller's."""
        part = slice(self.own.start - saved["first"], self.own.stop - saved["first"])
        rows = saved["embeddings"][part].to(device, copy=True)
        return (self._part or self.embedder).of_rows(rows, saved["steps"][part], saved["drift"])

    def mine(self, miner: TripletMiner, bank: EmbeddingBank, *, epoch: int) -> Triplets:
        """The triplets of all anchors, which every process gets.

        Raises:
            ValueError: there is none.
            RuntimeError: the processes found different ones.
        """
        triplets = self._together(miner, bank) if self._part is not None else miner.mine(bank)
        check_found(type(miner).__name__, epoch, triplets)
        _check_agreement(self.world, triplets, epoch, bank.embeddings.device)
        return triplets

    def _together(self, miner: TripletMiner, bank: EmbeddingBank) -> Triplets:
        if not isinstance(miner, Miner):
            return miner.mine(bank)
        assert self.placing is not None
        found = miner.mine(bank, world=self.world, memory_mb=self.placing.budget / 2**20)
        columns = (found.anchor, found.positive, found.negative, found.s_ap, found.s_an)
        with self.world.meeting("gathering triplets"):
            stats = _summed(self.world.gather_objects(found.stats))
            return Triplets(*(self.world.gather(column) for column in columns), stats=stats)

    def near(self, bank: EmbeddingBank, settings: Feeding) -> Near:
        """What tells which classes are near each other, where batches ask for that; every process calls it."""
        if self._part is None or not settings.ever("neighbors"):
            return bank
        whole = self.embedder
        with self.world.meeting("adding up classes"):
            return ClassMeans.of(bank, whole.labels, whole.ids, whole.groups, self.world)

    def sample(self, bank: EmbeddingBank) -> tuple[Float32[Tensor, "m d"], Int64[Tensor, " m"]]:
        """All rows with their labels, or an even choice of 65,536 where no process has all; every process asks."""
        if self._part is None:
            return bank.embeddings, bank.labels
        n = len(self.embedder.inputs)
        chosen = torch.arange(0, len(bank), max(1, -(-n // _SHOWN)), device=bank.ids.device)
        with self.world.meeting("looking at the bank"):
            return self.world.gather(bank.embeddings[chosen]), self.world.gather(bank.labels[chosen])


def needs_all(miner: TripletMiner) -> str | None:
    """Why a miner needs all rows on one process, if it does."""
    if isinstance(miner, NoMiner):
        return None
    return miner.needs_all if isinstance(miner, Miner) else f"{type(miner).__name__} mines those of one process"


def _summed(stats: list[MiningStats]) -> MiningStats:
    """What several processes say of their anchors, as what one would say of all."""
    counts = ("anchors", "no_positive", "no_negative", "outside_window", "fallback", "exhausted", "short", "contested")
    searched = [one.search for one in stats if one.search.engine != "labels"] or [stats[0].search]
    certified = [search.certified for search in searched if search.certified is not None]
    return replace(
        stats[0],
        **{name: sum(getattr(one, name) for one in stats) for name in counts},
        filtered=counted([dict(one.filtered) for one in stats]),
        search=replace(searched[0], certified=min(certified, default=None)),
        seconds=max(one.seconds for one in stats),
        max_age=max(one.max_age for one in stats),
    )


def _check_agreement(world: World, triplets: Triplets, epoch: int, device: torch.device) -> None:
    """Raise where the processes of a world have mined different triplets."""
    names = (triplets.anchor, triplets.positive, triplets.negative)
    digest = fingerprint(*(part.cpu().numpy() for part in names)) if world.size > 1 else 0
    if not world.agree(digest, device):
        raise RuntimeError(
            f"the processes mined different triplets in epoch {epoch}: they must hold equal data, labels, schedules "
            f"and seeds, and see the same value of a monitored metric (self.log(..., sync_dist=True))"
        )
