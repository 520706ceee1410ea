"""The public miners of triplets: a positive rule and a negative rule each, and nothing else of their own."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from legolas_metric.checks import check_choice
from legolas_metric.miners.foreign_arguments import explains
from legolas_metric.miners.index_option import batch_metric
from legolas_metric.miners.miner import Miner, RankingMiner
from legolas_metric.miners.strategy import Positive, Reference, Strategy
from legolas_metric.signatures import typed_fields


@explains()
@typed_fields
@dataclass(eq=False, repr=False)
class RandomMiner(Miner):
    """A random positive and random negatives of each anchor: the baseline, and the warm-up of a schedule.

    There are no `ranks`, `mix` and `guard`: to draw from a window of ranks, with a guard, is `HardMiner(ranks=...)`,
    and a negative drawn from all rows is seldom so near that a guard would doubt it.

    Args:
        index: gives the metric of batches; nothing is searched.
        per_anchor: triplets per anchor, with different negatives.
        relation: what is positive and negative, see `LabelRelation` (default: the same label, another label).
        on_empty: "raise" refuses anchors without a positive or a negative; "skip" and "hardest" count them.
        max_staleness: in steps; an older bank is refused.
        seed: of the choices; each call draws anew, and the sequence of calls repeats with the seed.

    Raises:
        ValueError: as `HardMiner`.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, RandomMiner
        >>> bank = EmbeddingBank(torch.eye(4), [0, 0, 1, 1])
        >>> RandomMiner(per_anchor=2).mine(bank).anchor
        tensor([0, 0, 1, 1, 2, 2, 3, 3])

    Source: ours.
    """

    def _strategy(self) -> Strategy:
        return self._rules(positive="random", negative="random")


@explains()
@typed_fields
@dataclass(eq=False, repr=False)
class SemiHardMiner(RankingMiner):
    """The nearest negatives beyond the positive, d_ap < d_an < d_ap + margin (Schroff et al. 2015, FaceNet).

    Over a bank the window is searched exactly, row by row: the answer is not the best of a few nearest neighbours.

    Args:
        positive: "random", "nearest", "farthest" or "all" (a triplet for each positive).
        reference: d_ap is the "chosen" positive's, or the "nearest" one's.
        index: an unfitted template; "auto" is `ExactIndex` of the bank's metric. Its metric is also that of batches.
        margin: width of the window in d (in s under "dot"); `math.inf` for none.
        per_anchor: triplets per anchor (and positive, for "all"), with different negatives.
        ranks: (first, last) inside the window, counted from 1: negatives are drawn at random from these ranks.
        mix: share of the negatives that are drawn at random from all; one of these may repeat a mined one.
        guard: replaces probable false negatives by the next candidate, see `FalseNegativeGuard`.
        relation: what is positive and negative, see `LabelRelation` (default: the same label, another label).
        on_empty: where no negative lies in the window: "skip" the pair, take the "hardest" negative, or "raise".
        max_staleness: in steps; an older bank is refused.
        seed: of the choices; each call draws anew, and the sequence of calls repeats with the seed.

    Raises:
        ValueError: a negative margin; else as `HardMiner`.

    Example:
        >>> import torch
        >>> from legolas_metric import SemiHardMiner
        >>> angle = torch.tensor([0.0, 0.5, 0.4, 0.6, 2.0])
        >>> embeddings = torch.stack([angle.cos(), angle.sin()], 1)
        >>> a, p, n = SemiHardMiner(positive="nearest")(embeddings, torch.tensor([0, 0, 1, 2, 1]))
        >>> a[0], p[0], n[0]  # 2 is nearer to the anchor 0 than its positive 1 is, 3 is just beyond
        (tensor(0), tensor(1), tensor(3))

    Source: Schroff et al. (2015), FaceNet, arXiv:1503.03832; over a whole set, ours.
    """

    margin: float = 0.2
    _: KW_ONLY
    positive: Positive = "random"
    reference: Reference = "chosen"

    def _strategy(self) -> Strategy:
        return self._rules(negative="nearest", semi_hard=True)


@explains()
@typed_fields
@dataclass(eq=False, repr=False)
class HardMiner(RankingMiner):
    """The nearest negatives of the whole set, for a positive chosen at random, or for every positive.

        n = argmax s_an over negatives n of a;  p one of the positives of a

    Args:
        positive: "random", "nearest", "farthest" or "all" (a triplet for each positive).
        index: an unfitted template; "auto" is `ExactIndex` of the bank's metric. Its metric is also that of batches.
        per_anchor: triplets per anchor (and positive, for "all"), with different negatives, nearest first.
        ranks: (first, last), counted from 1: negatives are drawn at random from these ranks, not the nearest only.
        mix: share of the negatives that are drawn at random from all; one of these may repeat a mined one.
        guard: replaces probable false negatives by the next candidate, see `FalseNegativeGuard`.
        relation: what is positive and negative, see `LabelRelation` (default: the same label, another label).
        on_empty: "raise" refuses anchors without a triplet; "skip" and "hardest" count them, and with "hardest" the
            nearest negative serves an anchor that has too few for its `ranks`.
        max_staleness: in steps; an older bank is refused.
        seed: of the choices; each call draws anew, and the sequence of calls repeats with the seed.

    Raises:
        ValueError: settings out of range or that exclude each other; when it mines, a bank that is too old, or with
            on_empty="raise" an anchor without a triplet.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, HardMiner
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> HardMiner().mine(EmbeddingBank(rows, [0, 0, 1, 1])).negative
        tensor([2, 2, 1, 1])

    Source: ours.
    """

    _: KW_ONLY
    positive: Positive = "random"

    def _strategy(self) -> Strategy:
        return self._rules(negative="nearest")


@explains()
@typed_fields
@dataclass(eq=False, repr=False)
class FullHardMiner(RankingMiner):
    """The farthest positive and the nearest negatives of the whole set; in a batch, batch-hard (Hermans et al. 2017).

        p = argmin s_ap over positives,  n = argmax s_an over negatives of a

    Args:
        index: an unfitted template; "auto" is `ExactIndex` of the bank's metric. Its metric is also that of batches.
        per_anchor: triplets per anchor, with different negatives, nearest first.
        ranks, mix, guard, relation, on_empty, max_staleness: see `HardMiner`.
        seed: of the choices that `ranks` and `mix` leave open; without them there are none.

    Raises:
        ValueError: as `HardMiner`.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, FullHardMiner
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
        >>> triplets = FullHardMiner().mine(EmbeddingBank(rows, [0, 0, 0, 1]))
        >>> triplets.anchor.tolist(), triplets.positive.tolist(), triplets.negative.tolist()
        ([0, 1, 2], [2, 2, 0], [3, 3, 3])
        >>> triplets.stats.no_positive
        1

    Source: Hermans et al. (2017), In Defense of the Triplet Loss, arXiv:1703.07737; over a whole set, ours.
    """

    def _strategy(self) -> Strategy:
        return self._rules(positive="farthest", negative="nearest")


@explains()
@typed_fields
@dataclass(eq=False, repr=False)
class EasyPositiveMiner(RankingMiner):
    """The nearest positive, with a semi-hard or a hard negative (Xuan et al. 2020).

        p = argmax s_ap over positives;  n = argmax s_an over negatives, of those with s_an < s_ap under "semi_hard"

    It leaves classes free to be spread out: only the nearest positive is drawn in.

    Args:
        negative: "semi_hard", the nearest negative beyond the positive, or "hard", the nearest of all.
        index: an unfitted template; "auto" is `ExactIndex` of the bank's metric. Its metric is also that of batches.
        margin: width of the semi-hard window in d (in s under "dot"); by default it has no far end.
        per_anchor: triplets per anchor, with different negatives, nearest first.
        ranks, mix, guard, relation, on_empty, max_staleness: see `SemiHardMiner`.
        seed: of the choices that `ranks` and `mix` leave open; without them there are none.

    Raises:
        ValueError: an unknown `negative`; else as `HardMiner`.

    Example:
        >>> import torch
        >>> from legolas_metric import EasyPositiveMiner, EmbeddingBank
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
        >>> triplets = EasyPositiveMiner().mine(EmbeddingBank(rows, [0, 0, 0, 1]))
        >>> triplets.anchor.tolist(), triplets.positive.tolist(), triplets.stats.outside_window
        ([0], [1], 2)

    Source: Xuan et al. (2020), Improved Embeddings with Easy Positive Triplet Mining, arXiv:1904.04370.
    """

    _: KW_ONLY
    negative: Literal["semi_hard", "hard"] = "semi_hard"
    margin: float = math.inf

    def _strategy(self) -> Strategy:
        check_choice("negative", self.negative, ("semi_hard", "hard"))
        return self._rules(positive="nearest", negative="nearest", semi_hard=self.negative == "semi_hard")


@explains()
@typed_fields
@dataclass(eq=False, repr=False)
class DistanceWeightedMiner(Miner):
    """Negatives drawn with weight 1 / q(d), so that all distances are seen alike (Wu et al. 2017).

    q(d) ~ d^(D-2) (1 - d^2 / 4)^((D-3)/2) is the density of distances between random points of the sphere in D
    dimensions. Under "cosine" only. Over a bank every similarity is computed, a block at a time: O(n^2 D) work.
    There are no `ranks` and no `guard`: those choose among the nearest rows, and here the weights choose among all
    distances; what keeps doubtful near rows from being drawn over and over is `cutoff`.

    Args:
        positive: "random", "nearest", "farthest" or "all" (a triplet for each positive).
        cutoff: smaller distances weigh as much as this one, or the nearest rows would be drawn always.
        nonzero_loss_cutoff: farther negatives are never drawn; an anchor without a nearer one is counted as outside
            the window.
        index: gives the metric, which must be "cosine"; nothing is searched.
        per_anchor: triplets per anchor (and positive, for "all"), with different negatives.
        mix, relation, on_empty, max_staleness: see `HardMiner`.
        seed: of the choices; each call draws anew, and the sequence of calls repeats with the seed.

    Raises:
        ValueError: another metric than "cosine".

    Example:
        >>> import torch
        >>> from legolas_metric import DistanceWeightedMiner, EmbeddingBank
        >>> bank = EmbeddingBank(torch.tensor([[3.0, 1.0], [3.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]), [0, 0, 1, 1])
        >>> DistanceWeightedMiner().mine(bank, anchors=[0, 1]).negative  # 3 is farther than 1.4
        tensor([2, 2])

    Source: Wu et al. (2017), Sampling Matters in Deep Embedding Learning, arXiv:1706.07567.
    """

    _: KW_ONLY
    positive: Positive = "random"
    cutoff: float = 0.5
    nonzero_loss_cutoff: float = 1.4
    mix: float = 0.0

    def _strategy(self) -> Strategy:
        if batch_metric(self.index) != "cosine":
            raise ValueError(
                f"distances are weighted on the sphere: metric must be 'cosine', got {batch_metric(self.index)!r}"
            )
        return self._rules(negative="distance_weighted", cutoffs=(self.cutoff, self.nonzero_loss_cutoff))
