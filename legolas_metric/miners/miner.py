"""The one `mine`: over a whole bank through an index, or over a batch as pytorch-metric-learning calls it."""

import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, check_whole
from legolas_metric.disk.stored_bank import StoredBank
from legolas_metric.distributed import ALONE, World
from legolas_metric.index.exact import ExactIndex
from legolas_metric.index.interface import StoredRows
from legolas_metric.index.sharded import ShardedIndex
from legolas_metric.miners.batch_rows import Batch, batch_ids
from legolas_metric.miners.false_negatives import FalseNegativeGuard
from legolas_metric.miners.index_option import Index, batch_metric, check_shared, template
from legolas_metric.miners.select import Selection, select, together
from legolas_metric.miners.sharing import shared
from legolas_metric.miners.sources import Source, bank_source, batch_source
from legolas_metric.miners.stored import stored_source
from legolas_metric.miners.strategy import Draws, OnEmpty, Strategy
from legolas_metric.records import MiningStats, SearchStats, Triplets
from legolas_metric.relations import LabelRelation

_log = logging.getLogger(__name__)

Tuple = tuple[Int64[Tensor, " t"], Int64[Tensor, " t"], Int64[Tensor, " t"]]


@dataclass(eq=False, repr=False)
class Miner:
    """Chooses triplets by a `Strategy`; a public miner is this with fields of its own and a `strategy` made of them.

    Args:
        index: an unfitted template, cloned and fitted by each `mine`; "auto" is `ExactIndex` of the bank's metric. Its
            metric is also that of batches.
        per_anchor: negatives for each pair of anchor and positive.
        relation: what is positive and negative to an anchor; None is equality of labels.
        on_empty: what to do where no negative lies in the window.
        max_staleness: in steps; an older bank is refused.
        seed: of the miner's own random choices. Each call draws anew; the sequence of calls repeats with the seed.
    """

    _: KW_ONLY
    index: Index = "auto"
    per_anchor: int = 1
    relation: LabelRelation | None = None
    on_empty: OnEmpty = "skip"
    max_staleness: int | None = None
    seed: int = 0
    calls: int = field(default=0, init=False, repr=False)
    warned: bool = field(default=False, init=False, repr=False)
    told: bool = field(default=False, init=False, repr=False)  # where the rows of several processes lie

    def __post_init__(self) -> None:
        check_shared(self.index, self.relation)
        self.seed = check_whole("seed", self.seed, 0)
        self.strategy = self._strategy()

    def _strategy(self) -> Strategy:
        raise NotImplementedError

    @property
    def needs_all(self) -> str | None:
        """Why all rows must lie on one process to be mined, if they must."""
        if self.strategy.negative == "distance_weighted" or not (self.relation is None or self.relation.by_label):
            return f"{type(self).__name__} looks at all of them at once"
        own = self.index == "auto" or isinstance(self.index, ExactIndex | ShardedIndex)
        return None if own else f"{type(self.index).__name__} searches those of one process"

    def _rules(self, **chosen: Any) -> Strategy:
        """A strategy of what was chosen and of the fields that it shares with this miner."""
        own = {rule.name: getattr(self, rule.name) for rule in fields(Strategy) if hasattr(self, rule.name)}
        return Strategy(**{**own, **chosen})

    def __repr__(self) -> str:
        return described(self)

    def mine(
        self,
        bank: EmbeddingBank | StoredBank | StoredRows,
        anchors: ArrayLike | None = None,
        *,
        candidates: ArrayLike | None = None,
        step: int | None = None,
        world: World = ALONE,
        memory_mb: float | int | None = None,
    ) -> Triplets:
        """Mine the whole bank, of one process or of several.

        Peak memory above the bank: the index's, 64 bytes a triplet, 200 MB of blocks; a `StoredBank` has its ceiling.

        Of several processes each hands in a bank of its own rows, and gets the triplets of its own anchors: those that
        one process finds with all rows, in order of rank. The rows are gathered on each process where they fit the
        poorest one, else each keeps its own and answers the others (`ShardedIndex`); which of the two is logged once.
        With `index=ShardedIndex(group=...)` they stay where they are, without being asked.

        Args:
            bank: the rows among which positives and negatives are sought, in memory or on disk; or an index that they
                live in, such as `LanceIndex`, which then searches them itself; its anchors are read in blocks.
            anchors: ids of the rows that need triplets (default: all with a label); of several processes this one's.
            candidates: ids of the rows among which positives and negatives are sought (default: all): the corpus of
                queries, the gallery of probes; of several processes this one's.
            step: the encoder's step, from which the bank's age is counted (default: that of its newest row).
            world: the processes that share the call, `World.current(averages_gradients=False)`; all of them make it.
            memory_mb: of several processes, what each may take, in MiB (default: an equal part of what is free).

        Returns:
            Triplets by id, ordered by the anchor's row, and what fell short in `stats`.

        Raises:
            TypeError: something that is no `EmbeddingBank`.
            ValueError: one class only, no class of two examples, no label at all, unknown or unlabelled anchors, an
                index of another metric, no groups where the relation needs them, a bank older than `max_staleness`,
                what rows that live in an index don't serve, or, with `on_empty="raise"`, any anchor without a triplet;
                rows of several processes that do not fit.
            ProcessFailed: another process refused its part. RuntimeError: one has died, or did not come in time.
        """
        started = time.perf_counter()
        if isinstance(bank, StoredRows):
            given = {"candidates": candidates, "step": step, "memory_mb": memory_mb}
            own = {"several processes": world.size > 1, "an index of the miner's": not isinstance(self.index, str)}
            given = {name: value is not None for name, value in given.items()} | own
            source = stored_source(bank, anchors, self.strategy, self.relation, given=given)
            return self._record(source, *self._choose(source, started, 0, None))
        dense = self.strategy.negative == "distance_weighted"
        sharing = shared(self, world, self.strategy.depth, memory_mb, self.needs_all, draws=self.strategy.is_random)
        with sharing.world.meeting("mining"):
            with sharing.world.together("mining", call=sharing.call):
                age = check_age(bank, step, self.max_staleness)
                if dense and bank.metric != "cosine":
                    raise ValueError(
                        f"distances are weighted on the sphere: the bank's metric must be 'cosine', got {bank.metric!r}"
                    )
            source = bank_source(
                bank,
                anchors,
                candidates,
                template(self.index, bank.metric),
                self.relation,
                dense=dense,
                every_positive=self.strategy.positive == "all",
                sharing=sharing,
            )
            if source.placing is not None and not self.told:
                self.told = True
                _log.log(logging.DEBUG if sharing.world.rank else logging.INFO, "%s", source.placing.sentence())
            with source.together:
                found = self._record(source, *self._choose(source, started, age, bank.drift))
            return replace(found, stats=source.answered(found.stats))

    def __call__(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike,
        ref_emb: ArrayLike | None = None,
        ref_labels: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        ref_groups: ArrayLike | None = None,
    ) -> Tuple:
        """Mine a batch, or a batch against reference rows, by pytorch-metric-learning's convention.

        A batch without any positive or negative gives empty tensors. An anchor is not its own positive: by position
        where `ref_emb` is None or `ref_labels` is `labels`, the same object; elsewhere the first reference row of its
        label that is equal to it, bit for bit, is taken for the anchor itself.

        Peak memory above the inputs: 8 (b + r) d bytes, some 16 MB of blocks, and 24 bytes a triplet.

        Args:
            embeddings: [b, d].
            labels: [b].
            ref_emb: [r, d], the rows among which positives and negatives are sought (default: the batch).
            ref_labels: [r].
            groups, ref_groups: [b] and [r], where the relation compares groups.

        Returns:
            (a, p, n): rows of `embeddings`, of the reference, of the reference.

        Raises:
            ValueError: as `EmbeddingBank`; or, with `on_empty="raise"`, any anchor without a triplet.
        """
        batch = Batch.of(embeddings, labels, ref_emb, ref_labels, groups, ref_groups, batch_metric(self.index))
        source = batch_source(batch, batch_metric(self.index), self.relation)
        chosen, _ = self._choose(source, time.perf_counter(), 0, None, reported=False)
        return chosen.anchor, chosen.positive, chosen.negative

    def mine_batch(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike,
        *,
        ids: ArrayLike | None = None,
        ref_emb: ArrayLike | None = None,
        ref_labels: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        ref_groups: ArrayLike | None = None,
    ) -> Triplets:
        """A batch's choice with what fell short in `stats`: what the call finds, as a record.

        Args:
            embeddings, labels, ref_emb, ref_labels, groups, ref_groups: as the call's.
            ids: [b], names of the batch's rows (default: their positions). Reference rows are named by position, unless
                `ref_labels` is `labels`, the same object.

        Raises:
            ValueError: as the call.
        """
        started = time.perf_counter()
        batch = Batch.of(embeddings, labels, ref_emb, ref_labels, groups, ref_groups, batch_metric(self.index))
        source = batch_source(batch, batch_metric(self.index), self.relation)
        chosen, stats = self._choose(source, started, 0, None)
        found = self._record(source, chosen, stats)
        names = batch_ids(ids, batch)
        of_rows = names if ref_emb is None or ref_labels is labels else batch.rows.ids
        return replace(
            found,
            anchor=names[found.anchor],
            positive=of_rows[found.positive],
            negative=of_rows[found.negative],
        )

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs: how many calls the seed has served."""
        return {"calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state, so that the next call draws what it would have drawn."""
        self.calls = state["calls"]

    def _record(self, source: Source, chosen: Selection, stats: MiningStats) -> Triplets:
        ids = source.rows.ids
        return Triplets(chosen.anchor, ids[chosen.positive], ids[chosen.negative], chosen.s_ap, chosen.s_an, stats)

    def _choose(
        self, source: Source, started: float, age: int, drift: float | None, *, reported: bool = True
    ) -> tuple[Selection, MiningStats]:
        device = source.names.device
        draws = None
        if self.strategy.is_random:
            draws = Draws((self.seed, self.calls), min(self.per_anchor, len(source.rows)), device)
            draws.skip(source.before)
        self.calls += 1
        found: list[Selection] = []
        no_positive = no_negative = 0
        searched = SearchStats(engine="labels")
        for block in source.blocks:
            no_positive += block.no_positive
            no_negative += block.no_negative
            if block.names.shape[0]:
                asked = (draws, block.number, block.asked)
                found.append(select(block.pool, block.names, self.strategy, *asked, reported=reported))
                searched = block.pool.stats()
            elif draws is not None and self.strategy.positive != "all":
                draws.take(block.asked)
        chosen = together(found, device)
        stats = MiningStats(
            anchors=source.names.shape[0],
            no_positive=no_positive,
            no_negative=no_negative,
            outside_window=chosen.outside_window,
            fallback=chosen.fallback,
            exhausted=chosen.exhausted,
            short=chosen.short,
            filtered=chosen.filtered,
            contested=chosen.contested,
            search=searched,
            seconds=time.perf_counter() - started,
            max_age=age,
            drift=drift,
        )
        self._complain(stats, chosen, source)
        return chosen, stats

    def _complain(self, stats: MiningStats, chosen: Selection, source: Source) -> None:
        """Raise on a shortfall where that was asked for; say once where the guard rejects most of what is found."""
        if 2 * chosen.contested > chosen.pairs and not self.warned:
            self.warned = True
            warnings.warn(_share_rejected(stats, chosen, source), stacklevel=4)
        served_all = stats.no_positive + stats.no_negative + stats.outside_window + stats.exhausted == 0
        if self.on_empty == "raise" and not served_all:
            raise ValueError(
                f"of {stats.anchors} anchors, {stats.no_positive} are without a positive, {stats.no_negative} without "
                f"a negative, {stats.outside_window} without a negative inside the window, {stats.exhausted} without "
                "one that the guard lets pass: use on_empty='skip' or 'hardest', a wider window, or other anchors"
            )


@dataclass(eq=False, repr=False)
class RankingMiner(Miner):
    """A miner whose negatives are ranked by their distance.

    Args:
        ranks: (first, last), counted from 1: negatives are drawn at random from these ranks.
        mix: share of the negatives that are drawn at random from all; one of these may repeat a mined one.
        guard: replaces probable false negatives by the next candidate, see `FalseNegativeGuard`.
    """

    _: KW_ONLY
    ranks: tuple[int, int] | None = None
    mix: float = 0.0
    guard: FalseNegativeGuard | None = None


def described(miner: Any) -> str:
    """A miner by its name, its margin, and the settings that are not the default ones, its own before the shared."""
    shared = {setting.name for setting in fields(RankingMiner)}
    shown = [
        f"{setting.name}={getattr(miner, setting.name)!r}"
        for setting in sorted(fields(miner), key=lambda setting: setting.name in shared)
        if setting.init and (setting.name == "margin" or getattr(miner, setting.name) != setting.default)
    ]
    return f"{type(miner).__name__}({', '.join(shown)})"


def _share_rejected(stats: MiningStats, chosen: Selection, source: Source) -> str:
    """What the guard did, and how to judge it."""
    reasons = ", ".join(f"{reason}: {count} candidates" for reason, count in stats.filtered.items() if count)
    some = ", ".join(f"({a}, {int(source.rows.ids[n])})" for a, n in chosen.doubted[:5])
    return (
        f"the guard rejected the first candidate of {chosen.contested} of {chosen.pairs} pairs ({reasons}). Rejected "
        f"is not mislabelled, and the share grows while training brings classes together: read some of these (anchor, "
        f"candidate) pairs by id to judge whether they are of one class: {some}. This is said once a miner; "
        "stats.contested and stats.filtered have the counts of each round"
    )


def check_age(bank: EmbeddingBank | StoredBank, step: int | None, max_staleness: int | None) -> int:
    """Steps since the bank's oldest row was written; raise where they are too many, or where there is no bank."""
    if not isinstance(bank, EmbeddingBank | StoredBank):
        raise TypeError(
            f"mine() takes an EmbeddingBank or a StoredBank as bank, got {type(bank).__name__}: "
            "mine(EmbeddingBank(embeddings, labels)), or call the miner itself for a batch, miner(embeddings, labels)"
        )
    step = step if step is None else check_whole("step", step, 0)
    age = bank.max_age if step is None else step - bank.step + bank.max_age
    if step is not None and step < bank.step:
        raise ValueError(f"step {step} is before the step {bank.step} of the bank: steps only grow")
    if max_staleness is not None and age > max_staleness:
        raise ValueError(
            f"the bank's oldest row is {age} steps old, max_staleness={max_staleness}: "
            "encode the data set again, or update() its oldest rows"
        )
    return age
