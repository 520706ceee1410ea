"""The one `mine`: over a whole bank through an index, or over a batch as pytorch-metric-learning calls it."""

import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import (
    UNLABELLED,
    ArrayLike,
    Metric,
    as_embeddings,
    as_ids,
    as_labels,
    check_at_least,
    check_device,
    check_dimension,
)
from legolas_metric.index.auto import AutoIndex
from legolas_metric.index.protocol import NO_ID, NeighborIndex, Rows
from legolas_metric.miners.classes import Classes
from legolas_metric.miners.pool import IndexPool, dense_pools
from legolas_metric.miners.strategy import Draws, Strategy, select
from legolas_metric.numerics import prepare
from legolas_metric.records import MiningStats, Triplets

Index = NeighborIndex | Literal["auto"]
Tuple = tuple[Int64[Tensor, " t"], Int64[Tensor, " t"], Int64[Tensor, " t"]]


class Miner:
    """Chooses triplets by a `Strategy`; the public miners are short constructors of it.

    Args:
        strategy: the rules.
        index: an unfitted template, cloned and fitted by each `mine`; "auto" is `AutoIndex` of the bank's metric.
        seed: of the miner's own random choices. Each call draws anew; the sequence of calls repeats with the seed.
    """

    def __init__(self, strategy: Strategy, *, index: Index, seed: int) -> None:
        if isinstance(index, str) and index != "auto":
            raise ValueError(f"index must be 'auto' or an index such as ExactIndex(), got {index!r}")
        check_at_least("seed", seed, 0)
        self.strategy = strategy
        self.index = index
        self.seed = seed
        self.calls = 0

    def __repr__(self) -> str:
        rules = self.strategy
        return (
            f"{type(self).__name__}(positive={rules.positive!r}, margin={rules.margin}, "
            f"per_anchor={rules.per_anchor}, on_empty={rules.on_empty!r}, seed={self.seed})"
        )

    def mine(self, bank: EmbeddingBank, anchors: ArrayLike | None = None) -> Triplets:
        """Mine the whole bank.

        Args:
            bank: the rows among which positives and negatives are sought.
            anchors: ids of the rows that need triplets (default: all with a label).

        Returns:
            Triplets by id, ordered by the anchor's row, and what fell short in `stats`.

        Raises:
            ValueError: one class only, no class of two examples, no label at all, unknown or unlabelled anchors, an
                index of another metric, or, with `on_empty="raise"`, any anchor without a triplet.
        """
        started = time.perf_counter()
        index = AutoIndex(metric=bank.metric) if isinstance(self.index, str) else self.index
        if index.metric != bank.metric:
            raise ValueError(
                f"the index has metric={index.metric!r}, the bank {bank.metric!r}: give both the same metric"
            )
        _refuse_hopeless(bank.labels)
        rows = Rows(bank.embeddings, bank.labels, bank.ids, bank.groups)
        asked = _anchor_rows(bank, anchors)
        classes = Classes.of(rows[asked], asked, rows)
        usable, no_positive, no_negative = _usable(classes)
        asked_usable = asked[usable]
        pool = IndexPool(asked_usable, rows, index, classes[usable])
        chosen = select(pool, self.strategy, self._draw(len(asked), bank.ids.device)[usable])
        searched = pool.stats()
        stats = MiningStats(
            anchors=len(asked),
            no_positive=no_positive,
            no_negative=no_negative,
            outside_window=chosen.outside_window,
            fallback=chosen.fallback,
            widened=searched.widened,
            engine=searched.engine,
            precision=searched.precision,
            recall=searched.recall,
            certified=searched.certified,
            seconds=time.perf_counter() - started,
            max_age=bank.max_age,
        )
        self._raise_if_short(stats.anchors, no_positive, no_negative, stats.outside_window)
        names = (bank.ids[asked_usable[chosen.anchor]], bank.ids[chosen.positive], bank.ids[chosen.negative])
        return Triplets(*names, chosen.s_ap, chosen.s_an, stats)

    def __call__(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike,
        ref_emb: ArrayLike | None = None,
        ref_labels: ArrayLike | None = None,
    ) -> Tuple:
        """Mine a batch, or a batch against reference rows, by pytorch-metric-learning's convention.

        A batch without any positive or negative gives empty tensors. An anchor is not its own positive where `ref_emb`
        is None or `ref_labels` is `labels`, the same object.

        Args:
            embeddings: [b, d].
            labels: [b].
            ref_emb: [r, d], the rows among which positives and negatives are sought (default: the batch).
            ref_labels: [r].

        Returns:
            (a, p, n): rows of `embeddings`, of the reference, of the reference.

        Raises:
            ValueError: as `EmbeddingBank`; or, with `on_empty="raise"`, any anchor without a triplet.
        """
        metric: Metric = "cosine" if isinstance(self.index, str) else self.index.metric
        anchors = _batch_rows(embeddings, labels, metric, "embeddings", "labels")
        own = ref_emb is None or ref_labels is labels
        if (ref_emb is None) != (ref_labels is None):
            raise ValueError("ref_emb and ref_labels go together: pass both or neither")
        rows = anchors
        if ref_emb is not None and ref_labels is not None:
            rows = _batch_rows(ref_emb, ref_labels, metric, "ref_emb", "ref_labels")
            check_device(anchors.embeddings, rows.embeddings, names=("embeddings", "ref_emb"))
            check_dimension(anchors.embeddings, rows.embeddings, names=("embeddings", "ref_emb"))
        self_row = anchors.ids if own else torch.full_like(anchors.ids, NO_ID)
        return self._mine_batch(anchors, rows, self_row, metric)

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs: how many calls the seed has served."""
        return {"calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state, so that the next call draws what it would have drawn."""
        self.calls = state["calls"]

    def _mine_batch(self, anchors: Rows, rows: Rows, self_row: Int64[Tensor, " b"], metric: Metric) -> Tuple:
        assert anchors.labels is not None
        asked = (anchors.labels != UNLABELLED).nonzero()[:, 0]
        classes = Classes.of(anchors[asked], self_row[asked], rows)
        usable, no_positive, no_negative = _usable(classes)
        draws = self._draw(len(asked), asked.device)[usable]
        kept = asked[usable]
        found = [
            (part.start, select(pool, self.strategy, draws[part]))
            for part, pool in dense_pools(anchors[kept], rows, classes[usable], metric)
        ]
        self._raise_if_short(len(asked), no_positive, no_negative, sum(chosen.outside_window for _, chosen in found))
        if not found:
            empty = kept.new_empty(0)
            return empty, empty.clone(), empty.clone()
        anchor = torch.cat([chosen.anchor + start for start, chosen in found])
        positive = torch.cat([chosen.positive for _, chosen in found])
        return kept[anchor], positive, torch.cat([chosen.negative for _, chosen in found])

    def _draw(self, q: int, device: torch.device) -> Draws:
        """Random numbers for q anchors: the miner's seed and the number of the call decide them."""
        (state,) = np.random.SeedSequence([self.seed, self.calls]).generate_state(1, np.uint64)
        self.calls += 1
        return Draws.of(q, self.strategy.per_anchor, torch.Generator().manual_seed(int(state)), device)

    def _raise_if_short(self, anchors: int, no_positive: int, no_negative: int, outside_window: int) -> None:
        if self.strategy.on_empty == "raise" and no_positive + no_negative + outside_window:
            raise ValueError(
                f"{no_positive + no_negative + outside_window} of {anchors} anchors have no triplet: "
                f"{no_positive} without a positive, {no_negative} without a negative, {outside_window} without a "
                f"negative inside the window. Use on_empty='skip' or 'hardest', a wider margin, or other anchors"
            )


def _batch_rows(embeddings: ArrayLike, labels: ArrayLike, metric: Metric, name: str, name_of_labels: str) -> Rows:
    raw = as_embeddings(embeddings, name=name, metric=metric)
    n, device = len(raw), raw.device
    own = as_labels(labels, n, name=name_of_labels, of=name).to(device)
    return Rows(prepare(raw, metric), own, torch.arange(n, device=device), None)


def _anchor_rows(bank: EmbeddingBank, anchors: ArrayLike | None) -> Int64[Tensor, " q"]:
    """Ascending rows of the anchors asked for."""
    if anchors is None:
        return (bank.labels != UNLABELLED).nonzero()[:, 0]
    rows = bank.rows(as_ids(anchors, len(anchors), of="anchors")).sort().values
    unlabelled = bank.ids[rows[bank.labels[rows] == UNLABELLED]]
    if len(unlabelled):
        raise ValueError(
            f"{len(unlabelled)} of {len(rows)} anchors are unlabelled (first: {unlabelled[:5].tolist()}): "
            "rows with label -1 are never anchors, leave them out"
        )
    return rows


def _usable(classes: Classes) -> tuple[Int64[Tensor, " m"], int, int]:
    """Numbers of the anchors that have a positive and a negative; anchors without a positive, without a negative."""
    positive, negative = classes.positives > 0, classes.negatives > 0
    return (positive & negative).nonzero()[:, 0], int((~positive).sum()), int((positive & ~negative).sum())


def _refuse_hopeless(labels: Int64[Tensor, " n"]) -> None:
    """Raise where no triplet exists at all."""
    classes, counts = labels[labels != UNLABELLED].unique(return_counts=True)
    n, labelled = len(labels), int(counts.sum())
    if labelled == 0:
        raise ValueError(f"all {n} rows are unlabelled (-1): miners need labels")
    if labelled == n and len(classes) == 1:
        raise ValueError(f"no negatives: all {n} rows have the label {int(classes[0])}. Miners need two classes")
    if int(counts.max()) == 1:
        raise ValueError(f"no positives: each of {len(classes)} classes has one row. Miners need a class of two rows")
