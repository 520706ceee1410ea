"""The one `mine`: over a whole bank through an index, or over a batch as pytorch-metric-learning calls it."""

import time
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, Metric, check_at_least
from legolas_metric.index.exact import ExactIndex
from legolas_metric.index.interface import NeighborIndex
from legolas_metric.miners.fused import fits_gram, plain_triplets
from legolas_metric.miners.select import Selection, select, together
from legolas_metric.miners.sources import Batch, Source, bank_source, batch_source
from legolas_metric.miners.strategy import NO_DRAWS, Draws, Strategy
from legolas_metric.records import MiningStats, SearchStats, Triplets
from legolas_metric.relations import LabelRelation

Index = NeighborIndex | Literal["auto"]
Tuple = tuple[Int64[Tensor, " t"], Int64[Tensor, " t"], Int64[Tensor, " t"]]


class Miner:
    """Chooses triplets by a `Strategy`; the public miners are short constructors of it.

    Args:
        strategy: the rules.
        index: an unfitted template, cloned and fitted by each `mine`; "auto" is `ExactIndex` of the bank's metric.
        relation: what is positive and negative to an anchor; None is equality of labels.
        seed: of the miner's own random choices. Each call draws anew; the sequence of calls repeats with the seed.
    """

    def __init__(self, strategy: Strategy, *, index: Index, relation: LabelRelation | None, seed: int) -> None:
        check_index(index)
        check_at_least("seed", seed, 0)
        self.strategy = strategy
        self.index: Index = index
        self.relation = relation
        self.seed = seed
        self.calls = 0

    def __repr__(self) -> str:
        rules = self.strategy
        return (
            f"{type(self).__name__}(positive={rules.positive!r}, margin={rules.margin}, "
            f"per_anchor={rules.per_anchor}, on_empty={rules.on_empty!r}, seed={self.seed})"
        )

    def mine(self, bank: EmbeddingBank, anchors: ArrayLike | None = None, *, step: int | None = None) -> Triplets:
        """Mine the whole bank.

        Args:
            bank: the rows among which positives and negatives are sought.
            anchors: ids of the rows that need triplets (default: all with a label).
            step: the encoder's step, from which the bank's age is counted (default: that of its newest row).

        Returns:
            Triplets by id, ordered by the anchor's row, and what fell short in `stats`.

        Raises:
            ValueError: one class only, no class of two examples, no label at all, unknown or unlabelled anchors, an
                index of another metric, no groups where the relation needs them, a bank older than `max_staleness`,
                or, with `on_empty="raise"`, any anchor without a triplet.
        """
        started = time.perf_counter()
        age = check_age(bank, step, self.strategy.max_staleness)
        dense = self.strategy.negative == "distance_weighted"
        source = bank_source(bank, anchors, template(self.index, bank.metric), self.relation, dense=dense)
        return self._mine(source, started, age, bank.drift)

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

        A batch without any positive or negative gives empty tensors. An anchor is not its own positive where `ref_emb`
        is None or `ref_labels` is `labels`, the same object.

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
        metric = batch_metric(self.index)
        batch = Batch.of(embeddings, labels, ref_emb, ref_labels, groups, ref_groups, metric)
        found = self._plain(batch, metric)
        if found is not None:
            return found
        screened = self.strategy.guard is None  # a guard compares similarities, to a bit
        mined = self._mine(batch_source(batch, metric, self.relation, screened=screened), time.perf_counter(), 0, None)
        return mined.anchor, mined.positive, mined.negative

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs: how many calls the seed has served."""
        return {"calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state, so that the next call draws what it would have drawn."""
        self.calls = state["calls"]

    def _plain(self, batch: Batch, metric: Metric) -> Tuple | None:
        """A small batch's triplets by a plain strategy, in one compiled call: the rest takes longer than the choice."""
        rules, rows = self.strategy, batch.rows
        if not (rules.is_plain and self.relation is None and batch.anchors is rows and fits_gram(rows, metric)):
            return None
        found = plain_triplets(
            rows, farthest=rules.positive == "farthest", semi_hard=rules.semi_hard, margin=rules.margin
        )
        self.calls += found is not None
        return found

    def _mine(self, source: Source, started: float, age: int, drift: float | None) -> Triplets:
        anchors, device = source.names.shape[0], source.names.device
        draws = self._draw(anchors, device)
        found: list[Selection] = []
        no_positive = no_negative = 0
        searched = SearchStats(engine="labels")
        for block in source.blocks:
            no_positive += block.no_positive
            no_negative += block.no_negative
            if block.names.shape[0]:
                own = draws[block.number] if self.strategy.is_random else draws
                found.append(select(block.pool, block.names, self.strategy, own))
                searched = block.pool.stats()
        chosen = together(found, device)
        stats = MiningStats(
            anchors=anchors,
            no_positive=no_positive,
            no_negative=no_negative,
            outside_window=chosen.outside_window,
            fallback=chosen.fallback,
            exhausted=chosen.exhausted,
            short=chosen.short,
            filtered=chosen.filtered,
            widened=searched.widened,
            engine=searched.engine,
            precision=searched.precision,
            recall=searched.recall,
            certified=searched.certified,
            seconds=time.perf_counter() - started,
            max_age=age,
            drift=drift,
            details=searched.details,
        )
        self._complain(stats, chosen.contested, chosen.pairs)
        ids = source.rows.ids
        positive, negative = ids.index_select(0, chosen.positive), ids.index_select(0, chosen.negative)
        return Triplets(chosen.anchor, positive, negative, chosen.s_ap, chosen.s_an, stats)

    def _draw(self, q: int, device: torch.device) -> Draws:
        """Random numbers for q anchors: the miner's seed and the number of the call decide them."""
        self.calls += 1
        k = self.strategy.per_anchor
        if not self.strategy.is_random:
            return NO_DRAWS
        return Draws.of(q, k, (self.seed, self.calls - 1), device)

    def _complain(self, stats: MiningStats, contested: int, pairs: int) -> None:
        """Raise on a shortfall where that was asked for; warn where the guard rejects most of what is found."""
        if 2 * contested > pairs:
            warnings.warn(
                f"the guard rejected the first candidate of {contested} of {pairs} pairs "
                f"({', '.join(f'{reason}: {count}' for reason, count in stats.filtered.items() if count)} candidates): "
                "loosen the rule that rejects most, or mine after a warm-up, when the embeddings say more",
                stacklevel=4,
            )
        served_all = stats.no_positive + stats.no_negative + stats.outside_window + stats.exhausted == 0
        if self.strategy.on_empty == "raise" and not served_all:
            raise ValueError(
                f"of {stats.anchors} anchors, {stats.no_positive} are without a positive, {stats.no_negative} without "
                f"a negative, {stats.outside_window} without a negative inside the window, {stats.exhausted} without "
                "one that the guard lets pass: use on_empty='skip' or 'hardest', a wider window, or other anchors"
            )


def check_index(index: Index) -> None:
    """Raise where a word stands for an index, unless it is "auto"."""
    if isinstance(index, str) and index != "auto":
        raise ValueError(f"index must be 'auto' or an index such as ExactIndex(), got {index!r}")


def template(index: Index, metric: Metric) -> NeighborIndex:
    """The index that a bank of a metric is searched with."""
    return ExactIndex(metric=metric) if isinstance(index, str) else index


def batch_metric(index: Index) -> Metric:
    """The metric of batches: the index's, or "cosine"."""
    return "cosine" if isinstance(index, str) else index.metric


def check_age(bank: EmbeddingBank, step: int | None, max_staleness: int | None) -> int:
    """Steps since the bank's oldest row was written; raise where they are too many."""
    age = bank.max_age if step is None else step - bank.step + bank.max_age
    if step is not None and step < bank.step:
        raise ValueError(f"step {step} is before the step {bank.step} of the bank: steps only grow")
    if max_staleness is not None and age > max_staleness:
        raise ValueError(
            f"the bank's oldest row is {age} steps old, max_staleness={max_staleness}: "
            "encode the data set again, or update() its oldest rows"
        )
    return age
