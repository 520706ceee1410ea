"""The miner of pairs: informative positives and negatives of each anchor, chosen apart (Wang et al. 2019).

Letters: q anchors, m positives and k negatives of an anchor, s positive and t negative pairs.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, check_at_least
from legolas_metric.miners.dense import DensePool, PairTuple, gaps
from legolas_metric.miners.fused import FusedPool
from legolas_metric.miners.miner import Index, batch_metric, check_age, check_index, template
from legolas_metric.miners.pool import Pool, pair_similarities
from legolas_metric.miners.screened import ScreenedPool
from legolas_metric.miners.sources import Batch, Source, bank_source, batch_source
from legolas_metric.records import MiningStats, Pairs, SearchStats
from legolas_metric.relations import LabelRelation


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

    Example:
        >>> import torch
        >>> from legolas_metric import MultiSimilarityMiner
        >>> angle = torch.tensor([0.0, 0.6, 0.8, 3.0])
        >>> embeddings = torch.stack([angle.cos(), angle.sin()], 1)
        >>> a1, p, a2, n = MultiSimilarityMiner()(embeddings, torch.tensor([0, 0, 1, 1]))
        >>> list(zip(a2.tolist(), n.tolist()))
        [(1, 2), (2, 0), (2, 1)]
    """

    def __init__(
        self,
        *,
        epsilon: float = 0.1,
        max_negatives: int = 64,
        index: Index = "auto",
        relation: LabelRelation | None = None,
        max_staleness: int | None = None,
    ) -> None:
        check_index(index)
        check_at_least("epsilon", epsilon, 0)
        check_at_least("max_negatives", max_negatives, 1)
        check_at_least("max_staleness", max_staleness or 0, 0)
        self.epsilon = epsilon
        self.max_negatives = max_negatives
        self.index: Index = index
        self.relation = relation
        self.max_staleness = max_staleness

    def mine(self, bank: EmbeddingBank, anchors: ArrayLike | None = None, *, step: int | None = None) -> Pairs:
        """Mine the whole bank; arguments and errors as the other miners' `mine`."""
        started = time.perf_counter()
        age = check_age(bank, step, self.max_staleness)
        source = bank_source(bank, anchors, template(self.index, bank.metric), self.relation, dense=False)
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
    ) -> PairTuple:
        """Mine a batch by pytorch-metric-learning's convention; arguments and errors as the other miners' call.

        Returns:
            (a1, p, a2, n): rows of `embeddings`, of the reference, of `embeddings`, of the reference.
        """
        metric = batch_metric(self.index)
        batch = Batch.of(embeddings, labels, ref_emb, ref_labels, groups, ref_groups, metric)
        source = batch_source(batch, metric, self.relation, screened=True)
        found: list[PairTuple] = []
        for block in source.blocks:
            if len(block.names):
                assert isinstance(block.pool, DensePool | ScreenedPool | FusedPool)
                a1, p, a2, n = block.pool.informative(self.epsilon)
                if len(block.names) < len(batch.anchors):
                    a1, a2 = block.names[a1], block.names[a2]
                found.append((a1, p, a2, n))
        if len(found) == 1:  # millions of pairs: not copied
            return found[0]
        none = (source.names[:0],) * 4
        a1, p, a2, n = (torch.cat(column) for column in zip(none, *found))
        return a1, p, a2, n

    def state_dict(self) -> dict[str, Any]:
        """Nothing: there are no random choices."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state, which is empty."""

    def _mine(self, source: Source, started: float, age: int, drift: float | None) -> Pairs:
        parts: list[tuple[Int64[Tensor, " q"], _Informative]] = []
        no_positive = no_negative = 0
        searched = SearchStats(engine="labels")
        for block in source.blocks:
            no_positive += block.no_positive
            no_negative += block.no_negative
            if len(block.names):
                parts.append((block.names, _informative(block.pool, self.epsilon, self.max_negatives)))
                searched = block.pool.stats()
        capped = sum(part.capped for _, part in parts)
        stats = MiningStats(
            anchors=len(source.names),
            no_positive=no_positive,
            no_negative=no_negative,
            outside_window=sum(part.outside for _, part in parts),
            filtered={"max_negatives": capped} if capped else {},
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
        none, nothing, rows = source.names[:0], source.rows.embeddings[:0, 0], source.rows
        return Pairs(
            torch.cat([none, *(names[part.anchor_p] for names, part in parts)]),
            torch.cat([none, *(rows.ids[part.positive] for _, part in parts)]),
            torch.cat([none, *(names[part.anchor_n] for names, part in parts)]),
            torch.cat([none, *(rows.ids[part.negative] for _, part in parts)]),
            torch.cat([nothing, *(part.s_ap[part.anchor_p, part.place_p] for _, part in parts)]),
            torch.cat([nothing, *(part.s_an[part.anchor_n, part.place_n] for _, part in parts)]),
            stats,
        )


@dataclass(frozen=True, slots=True)
class _Informative:
    """The pairs of a pool that were kept: numbers of anchors and of rows, and where their similarities are found."""

    anchor_p: Int64[Tensor, " s"]
    place_p: Int64[Tensor, " s"]
    positive: Int64[Tensor, " s"]
    s_ap: Float32[Tensor, "q m"]
    anchor_n: Int64[Tensor, " t"]
    place_n: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]
    s_an: Float32[Tensor, "q k"]
    outside: int
    capped: int


def _informative(pool: Pool, epsilon: float, limit: int) -> _Informative:
    """The pairs to keep, of the nearest negatives of each anchor, up to the limit."""
    negative, s_an = pool.negatives(None, limit + 1, None)
    positive = pool.relations.list_positives()
    s_ap = pair_similarities(pool, torch.arange(len(positive), device=positive.device), positive)
    under, over = gaps(s_ap, s_an, epsilon)
    near = over > 0
    capped = int(near[:, limit].sum())
    near[:, limit:] = False
    anchor_p, place_p = (under > 0).nonzero(as_tuple=True)
    anchor_n, place_n = near.nonzero(as_tuple=True)
    return _Informative(
        anchor_p,
        place_p,
        positive[anchor_p, place_p],
        s_ap,
        anchor_n,
        place_n,
        negative[anchor_n, place_n],
        s_an,
        int((~near.any(1)).sum()),
        capped,
    )
