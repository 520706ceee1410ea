"""The miner of pairs: informative positives and negatives of each anchor, chosen apart (Wang et al. 2019).

Letters: q anchors, m positives and k negatives of an anchor, s positive and t negative pairs.
"""

import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, check_at_least, check_whole
from legolas_metric.disk.stored_bank import StoredBank
from legolas_metric.distributed import ALONE, World
from legolas_metric.miners.batch_rows import Batch, batch_ids
from legolas_metric.miners.dense import DensePool
from legolas_metric.miners.foreign_arguments import explains
from legolas_metric.miners.index_option import Index, batch_metric, check_shared, template
from legolas_metric.miners.miner import check_age, described
from legolas_metric.miners.pool import Pool
from legolas_metric.miners.sharing import shared
from legolas_metric.miners.sources import Source, bank_source, batch_source
from legolas_metric.records import MiningStats, Pairs, SearchStats
from legolas_metric.relations import LabelRelation
from legolas_metric.rows import NO_ID
from legolas_metric.signatures import typed_fields

PairTuple = tuple[Int64[Tensor, " s"], Int64[Tensor, " s"], Int64[Tensor, " t"], Int64[Tensor, " t"]]


@explains()
@typed_fields
@dataclass(eq=False, repr=False)
class MultiSimilarityMiner:
    """Negatives nearer than the farthest positive, positives farther than the nearest negative (Wang et al. 2019).

    Of anchor a, a negative n is kept if s_an > min_p s_ap - epsilon, a positive p if s_ap < max_n s_an + epsilon.

    Behaviour in corner cases: an anchor without a positive or without a negative gives no pair; an anchor whose every
    negative is farther than its positives by epsilon is counted as outside the window.

    Args:
        epsilon: in similarity.
        max_negatives: of each anchor of a bank, nearest first; the anchors that have more are counted in
            `stats.filtered["max_negatives"]`. A batch gives all.
        index: an unfitted template; "auto" is `ExactIndex` of the bank's metric. Its metric is also that of batches.
        relation: what is positive and negative, see `LabelRelation` (default: the same label, another label).
        max_staleness: in steps; an older bank is refused.

    Raises:
        ValueError: a negative epsilon, `max_negatives` below 1; when it mines, a bank that is too old.

    Example:
        >>> import torch
        >>> from legolas_metric import MultiSimilarityMiner
        >>> angle = torch.tensor([0.0, 0.6, 0.8, 3.0])
        >>> embeddings = torch.stack([angle.cos(), angle.sin()], 1)
        >>> a1, p, a2, n = MultiSimilarityMiner()(embeddings, torch.tensor([0, 0, 1, 1]))
        >>> list(zip(a2.tolist(), n.tolist()))
        [(1, 2), (2, 0), (2, 1)]

    Source: Wang et al. (2019), Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning.
    """

    epsilon: float = 0.1
    _: KW_ONLY
    max_negatives: int = 64
    index: Index = "auto"
    relation: LabelRelation | None = None
    max_staleness: int | None = None

    def __post_init__(self) -> None:
        check_shared(self.index, self.relation)
        check_at_least("epsilon", self.epsilon, 0)
        check_whole("max_negatives", self.max_negatives, 1)
        if self.max_staleness is not None:
            check_whole("max_staleness", self.max_staleness, 0)

    def __repr__(self) -> str:
        return described(self)

    def mine(
        self,
        bank: EmbeddingBank | StoredBank,
        anchors: ArrayLike | None = None,
        *,
        candidates: ArrayLike | None = None,
        step: int | None = None,
        world: World = ALONE,
        memory_mb: float | int | None = None,
    ) -> Pairs:
        """Mine the whole bank; arguments, memory and errors as the other miners' `mine`, 20 bytes a pair.

        Raises:
            ValueError: a bank older than `max_staleness`, or without labels.
        """
        started = time.perf_counter()
        sharing = shared(self, world, self.max_negatives + 1, memory_mb)
        with sharing.world.meeting("mining"):
            with sharing.world.together("mining", call=sharing.call):
                age = check_age(bank, step, self.max_staleness)
            source = bank_source(
                bank,
                anchors,
                candidates,
                template(self.index, bank.metric),
                self.relation,
                dense=False,
                every_positive=True,
                sharing=sharing,
            )
            with source.together:
                found = _mined(source, self.epsilon, self.max_negatives, started, age, bank.drift)
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
    ) -> PairTuple:
        """Mine a batch by pytorch-metric-learning's convention; arguments and errors as the other miners' call.

        Peak memory above the inputs: 16 bytes a pair that is kept, b r bytes that tell which, and some 16 MB of blocks.

        Returns:
            (a1, p, a2, n): rows of `embeddings`, of the reference, of `embeddings`, of the reference.
        """
        metric = batch_metric(self.index)
        batch = Batch.of(embeddings, labels, ref_emb, ref_labels, groups, ref_groups, metric)
        source = batch_source(batch, metric, self.relation)
        kept = [
            (block.names, *block.pool.informative(self.epsilon))
            for block in source.blocks
            if len(block.names) and isinstance(block.pool, DensePool)
        ]
        a1, p = _listed([(names, rows != NO_ID, rows) for names, rows, _ in kept], source.names)
        a2, n = _listed([(names, over, None) for names, _, over in kept], source.names)
        return a1, p, a2, n

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
    ) -> Pairs:
        """A batch's choice, all of it, with what fell short in `stats`; arguments as the other miners' `mine_batch`."""
        started = time.perf_counter()
        metric = batch_metric(self.index)
        batch = Batch.of(embeddings, labels, ref_emb, ref_labels, groups, ref_groups, metric)
        names = batch_ids(ids, batch)
        source = batch_source(batch, metric, self.relation)
        mined = _mined(source, self.epsilon, None, started, 0, None)
        of_rows = names if ref_emb is None or ref_labels is labels else batch.rows.ids
        return Pairs(
            names[mined.anchor_p],
            of_rows[mined.positive],
            names[mined.anchor_n],
            of_rows[mined.negative],
            mined.s_ap,
            mined.s_an,
            mined.stats,
        )

    def state_dict(self) -> dict[str, Any]:
        """Nothing: there are no random choices."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state, which is empty."""


def _listed(
    kept: list[tuple[Int64[Tensor, " q"], Bool[Tensor, "q m"], Int64[Tensor, "q m"] | None]],
    none: Int64[Tensor, " b"],
) -> tuple[Int64[Tensor, " s"], Int64[Tensor, " s"]]:
    """Names and rows of the entries of masks, written where they stay: millions of pairs are not held twice."""
    counts = [int(mask.sum()) for _, mask, _ in kept]
    anchor, row = none.new_empty(sum(counts)), none.new_empty(sum(counts))
    start = 0
    for (names, mask, rows), count in zip(kept, counts):
        part, each = slice(start, start + count), mask.sum(1)
        entry = _set_entries(mask)
        anchor[part] = names.repeat_interleave(each)
        if rows is None:
            first = torch.arange(0, mask.numel(), max(1, mask.shape[1]), device=mask.device)
            torch.sub(entry, first.repeat_interleave(each), out=row[part])
        else:
            row[part] = rows.flatten()[entry]
        start += count
    return anchor, row


def _set_entries(mask: Bool[Tensor, "q m"]) -> Int64[Tensor, " s"]:
    """Numbers of the set entries of a mask, row after row; on the processor by NumPy, in a tenth of the time."""
    flat = mask.flatten()
    return torch.from_numpy(np.flatnonzero(flat.numpy())) if mask.device.type == "cpu" else flat.nonzero()[:, 0]


def _mined(source: Source, epsilon: float, limit: int | None, started: float, age: int, drift: float | None) -> Pairs:
    """The pairs of all blocks, with their similarities, and what fell short."""
    found: list[tuple[Tensor, ...]] = []
    no_positive = no_negative = outside = capped = 0
    searched = SearchStats(engine="labels")
    ids = source.rows.ids
    for block in source.blocks:
        no_positive += block.no_positive
        no_negative += block.no_negative
        if not len(block.names):
            continue
        a1, p, a2, n, over = _pairs_of(block.pool, epsilon, limit)
        outside += len(block.names) - len(a2.unique())
        capped += over
        s = [block.pool.similarities(a, row[:, None])[:, 0].float() for a, row in ((a1, p), (a2, n))]
        found.append((block.names[a1], ids[p], block.names[a2], ids[n], *s))
        searched = block.pool.stats()
    stats = MiningStats(
        anchors=len(source.names),
        no_positive=no_positive,
        no_negative=no_negative,
        outside_window=outside,
        filtered={"max_negatives": capped} if capped else {},
        search=searched,
        seconds=time.perf_counter() - started,
        max_age=age,
        drift=drift,
    )
    none = source.names[:0]
    nothing = torch.empty(0, device=none.device)
    columns = zip((none,) * 4 + (nothing,) * 2, *found)
    return Pairs(*(torch.cat(column) for column in columns), stats=stats)


def _pairs_of(
    pool: Pool, epsilon: float, limit: int | None
) -> tuple[Int64[Tensor, " s"], Int64[Tensor, " s"], Int64[Tensor, " t"], Int64[Tensor, " t"], int]:
    """Numbers of anchors and rows of the pairs to keep, and how many anchors have more negatives than the limit."""
    if limit is None:
        assert isinstance(pool, DensePool)
        row, over = pool.informative(epsilon)
        a1, place = (row != NO_ID).nonzero(as_tuple=True)
        a2, n = over.nonzero(as_tuple=True)
        return a1, row[a1, place], a2, n, 0
    every = torch.arange(len(pool.anchors), device=pool.rows.ids.device)
    negative = pool.negatives(every, min(limit + 1, len(pool.rows)), None)
    positive = pool.relations.list_positives()
    s_an, s_ap = pool.similarities(every, negative), pool.similarities(every, positive)
    near = s_an > _least(s_ap)[:, None] - epsilon
    near &= negative != NO_ID
    capped = int(near[:, limit].sum()) if near.shape[1] > limit else 0
    near[:, limit:] = False
    under = (s_ap < s_an.amax(1, keepdim=True) + epsilon) & (positive != NO_ID)
    a1, place = under.nonzero(as_tuple=True)
    a2, rank = near.nonzero(as_tuple=True)
    return a1, positive[a1, place], a2, negative[a2, rank], capped


def _least(s: Float64[Tensor, "q m"]) -> Float64[Tensor, " q"]:
    """The least similarity of each row that there is."""
    return s.masked_fill(s == -torch.inf, torch.inf).amin(1)
