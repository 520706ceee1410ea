"""Small frozen records in which results travel: what was found, and what was not."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike, as_integers


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStats:
    """How an index answered: which engine, how exactly, and at what cost.

    Attributes:
        engine: name of what did the work, for example "exact" or "faiss:Flat".
        precision: "float32", "bfloat16" or "int16": of the screening; the answers are the same in any case.
        recall: None where the search is exact; else the share of the true neighbours that were found, measured on a
            sample of the queries; NaN where that was not measured.
        certified: share of the rows whose screening was certified without a rescan; None where nothing is screened.
        widened: queries for which the first search held too few admissible rows and was widened.
        details: further figures by name; of the exact engine: tiles, groups_per_row (whose scores were looked at),
            scores_per_row, reranked_per_row, and rescanned (rows). How many groups and scores were looked at varies
            from run to run, with which thread comes first.
    """

    engine: str
    precision: str = "float32"
    recall: float | None = None
    certified: float | None = None
    widened: int = 0
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Neighbors:
    """The k best admissible rows of each query, best first.

    Attributes:
        ids: int64 [n, k]; -1 where fewer than k admissible rows exist.
        similarities: float32 [n, k]; -inf there.
        stats: how they were found.

    Example:
        >>> import torch
        >>> from legolas_metric import ExactIndex
        >>> found = ExactIndex().fit(torch.eye(3), [0, 0, 1]).self_join(2, want="positive")
        >>> found.ids.tolist()
        [[1, -1], [0, -1], [-1, -1]]
    """

    ids: Int64[Tensor, "n k"]
    similarities: Float32[Tensor, "n k"]
    stats: SearchStats


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningStats:
    """What a miner was asked, what it could not do, and how it went about it. Counts are anchors unless said otherwise.

    Attributes:
        anchors: anchors asked for (rows with a label).
        no_positive: without another row of their class.
        no_negative: without a row of another class.
        outside_window: with negatives, but none inside the window (semi-hard) or at the ranks; counted for each
            positive where `positive="all"`, and so are the next three.
        fallback: served by `on_empty="hardest"` instead of the rule.
        exhausted: dropped, because a guard rejected all their candidates.
        short: served with fewer negatives than `per_anchor`, because there are no more.
        filtered: candidates rejected by a guard, by reason.
        widened: searches that were widened until enough negatives were found.
        engine, precision, recall, certified: of the index, see `SearchStats`.
        seconds: wall time.
        max_age: encoder steps between the oldest row of the bank and its newest, or the step that the miner was told.
        drift: mean cosine between the rows of the bank's last update and their rewrites; None before any.
        details: further figures of the index, by name, summed over its searches; see `SearchStats`.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, FullHardMiner
        >>> stats = FullHardMiner().mine(EmbeddingBank(torch.eye(4), [0, 0, 1, 2])).stats
        >>> stats.anchors, stats.no_positive, stats.recall
        (4, 2, None)
    """

    anchors: int
    no_positive: int = 0
    no_negative: int = 0
    outside_window: int = 0
    fallback: int = 0
    exhausted: int = 0
    short: int = 0
    filtered: Mapping[str, int] = field(default_factory=dict)
    widened: int = 0
    engine: str
    precision: str = "float32"
    recall: float | None = None
    certified: float | None = None
    seconds: float
    max_age: int = 0
    drift: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Triplets:
    """Mined triplets, by id.

    Attributes:
        anchor, positive, negative: int64 [t], ids (not row numbers of a batch).
        s_ap, s_an: float32 [t], similarities at mining time; they chose the triplets, a loss computes its own.
        stats: what was asked and what was found.

    Example:
        >>> from legolas_metric import EmbeddingBank, HardMiner
        >>> import torch
        >>> bank = EmbeddingBank(torch.eye(4), torch.tensor([0, 0, 1, 1]))
        >>> triplets = HardMiner().mine(bank)
        >>> len(triplets), triplets.stats.anchors
        (4, 4)
    """

    anchor: Int64[Tensor, " t"]
    positive: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]
    s_ap: Float32[Tensor, " t"]
    s_an: Float32[Tensor, " t"]
    stats: MiningStats

    def __len__(self) -> int:
        return len(self.anchor)

    def locate(self, batch_ids: ArrayLike) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " m"], Int64[Tensor, " m"]]:
        """Positions inside a batch, as pytorch-metric-learning's `indices_tuple`.

        Args:
            batch_ids: [b], the ids of the batch's rows, each once.

        Returns:
            (a, p, n): positions of the triplets that lie wholly inside the batch; empty tensors where none does.
        """
        given = as_integers(batch_ids, None, name="batch_ids")
        ordered, order = given.to(self.anchor.device).sort()
        names = torch.stack([self.anchor, self.positive, self.negative])
        if len(ordered) == 0 or len(self) == 0:
            empty = names.new_empty(0)
            return empty, empty.clone(), empty.clone()
        place = torch.searchsorted(ordered, names).clamp_max(len(ordered) - 1)
        inside = (ordered[place] == names).all(0)
        a, p, n = order[place[:, inside]].to(given.device).unbind(0)
        return a, p, n


@dataclass(frozen=True, slots=True)
class Pairs:
    """Mined pairs, by id: (anchor_p, positive) and (anchor_n, negative), the four parts of a PML tuple.

    Attributes:
        anchor_p, positive: int64 [s], ids (not row numbers of a batch).
        anchor_n, negative: int64 [t], ids.
        s_ap: float32 [s], s_an: float32 [t], similarities at mining time.
        stats: what was asked and what was found.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, MultiSimilarityMiner
        >>> pairs = MultiSimilarityMiner().mine(EmbeddingBank(torch.eye(4), [0, 0, 1, 1]))
        >>> len(pairs.anchor_p) == len(pairs.positive) == len(pairs.s_ap)
        True
    """

    anchor_p: Int64[Tensor, " s"]
    positive: Int64[Tensor, " s"]
    anchor_n: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]
    s_ap: Float32[Tensor, " s"]
    s_an: Float32[Tensor, " t"]
    stats: MiningStats
