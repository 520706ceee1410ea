"""The public miners of triplets: a positive rule and a negative rule each, and nothing else of their own."""

from legolas_metric.miners.miner import Index, Miner
from legolas_metric.miners.strategy import OnEmpty, Positive, Strategy


class RandomMiner(Miner):
    """A random positive and random negatives of each anchor: the baseline, and the warm-up of a schedule.

    Args:
        index: gives the metric of batches; nothing is searched.
        margin: in d; kept for the loss's use, it never filters here.
        per_anchor: triplets per anchor, with different negatives.
        on_empty: "raise" refuses anchors without a positive or a negative; "skip" and "hardest" count them.
        seed: of the choices; each call draws anew, and the sequence of calls repeats with the seed.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, RandomMiner
        >>> bank = EmbeddingBank(torch.eye(4), [0, 0, 1, 1])
        >>> RandomMiner(per_anchor=2).mine(bank).anchor
        tensor([0, 0, 1, 1, 2, 2, 3, 3])
    """

    def __init__(
        self,
        *,
        index: Index = "auto",
        margin: float = 0.2,
        per_anchor: int = 1,
        on_empty: OnEmpty = "skip",
        seed: int = 0,
    ) -> None:
        strategy = Strategy(
            positive="random",
            negative="random",
            semi_hard=False,
            margin=margin,
            per_anchor=per_anchor,
            on_empty=on_empty,
        )
        super().__init__(strategy, index=index, seed=seed)


class SemiHardMiner(Miner):
    """The nearest negatives beyond the positive, d_ap < d_an < d_ap + margin (Schroff et al. 2015, FaceNet).

    Over a bank the window is searched exactly, row by row: the answer is not the best of a few nearest neighbours.

    Args:
        positive: "random", "nearest", "farthest" or "all" (a triplet for each positive); d_ap is that positive's.
        index: an unfitted template; "auto" is `AutoIndex` of the bank's metric. Its metric is also that of batches.
        margin: width of the window in d (in s under "dot"); `math.inf` for none.
        per_anchor: triplets per anchor (and positive, for "all"), with different negatives.
        on_empty: where no negative lies in the window: "skip" the pair, take the "hardest" negative, or "raise".
        seed: of the choice of positives; each call draws anew, and the sequence of calls repeats with the seed.

    Example:
        >>> import torch
        >>> from legolas_metric import SemiHardMiner
        >>> angle = torch.tensor([0.0, 0.5, 0.4, 0.6, 2.0])
        >>> embeddings = torch.stack([angle.cos(), angle.sin()], 1)
        >>> a, p, n = SemiHardMiner(positive="nearest")(embeddings, torch.tensor([0, 0, 1, 2, 1]))
        >>> a[0], p[0], n[0]  # 2 is nearer to the anchor 0 than its positive 1 is, 3 is just beyond
        (tensor(0), tensor(1), tensor(3))
    """

    def __init__(
        self,
        *,
        positive: Positive = "random",
        index: Index = "auto",
        margin: float = 0.2,
        per_anchor: int = 1,
        on_empty: OnEmpty = "skip",
        seed: int = 0,
    ) -> None:
        strategy = Strategy(
            positive=positive,
            negative="nearest",
            semi_hard=True,
            margin=margin,
            per_anchor=per_anchor,
            on_empty=on_empty,
        )
        super().__init__(strategy, index=index, seed=seed)


class HardMiner(Miner):
    """The nearest negatives of the whole set, for a positive chosen at random, or for every positive.

    Args:
        positive: "random", "nearest", "farthest" or "all" (a triplet for each positive).
        index: an unfitted template; "auto" is `AutoIndex` of the bank's metric. Its metric is also that of batches.
        margin: in d; kept for the loss's use, it never filters here.
        per_anchor: triplets per anchor (and positive, for "all"), with different negatives, nearest first.
        on_empty: "raise" refuses anchors without a positive or a negative; "skip" and "hardest" count them.
        seed: of the choice of positives; each call draws anew, and the sequence of calls repeats with the seed.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, HardMiner
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> HardMiner().mine(EmbeddingBank(rows, [0, 0, 1, 1])).negative
        tensor([2, 2, 1, 1])
    """

    def __init__(
        self,
        *,
        positive: Positive = "random",
        index: Index = "auto",
        margin: float = 0.2,
        per_anchor: int = 1,
        on_empty: OnEmpty = "skip",
        seed: int = 0,
    ) -> None:
        strategy = Strategy(
            positive=positive,
            negative="nearest",
            semi_hard=False,
            margin=margin,
            per_anchor=per_anchor,
            on_empty=on_empty,
        )
        super().__init__(strategy, index=index, seed=seed)


class FullHardMiner(Miner):
    """The farthest positive and the nearest negatives of the whole set; in a batch, batch-hard (Hermans et al. 2017).

    Args:
        index: an unfitted template; "auto" is `AutoIndex` of the bank's metric. Its metric is also that of batches.
        margin: in d; kept for the loss's use, it never filters here.
        per_anchor: triplets per anchor, with different negatives, nearest first.
        on_empty: "raise" refuses anchors without a positive or a negative; "skip" and "hardest" count them.
        seed: has no choices to decide here; every miner takes it.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, FullHardMiner
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
        >>> triplets = FullHardMiner().mine(EmbeddingBank(rows, [0, 0, 0, 1]))
        >>> triplets.anchor.tolist(), triplets.positive.tolist(), triplets.negative.tolist()
        ([0, 1, 2], [2, 2, 0], [3, 3, 3])
        >>> triplets.stats.no_positive
        1
    """

    def __init__(
        self,
        *,
        index: Index = "auto",
        margin: float = 0.2,
        per_anchor: int = 1,
        on_empty: OnEmpty = "skip",
        seed: int = 0,
    ) -> None:
        strategy = Strategy(
            positive="farthest",
            negative="nearest",
            semi_hard=False,
            margin=margin,
            per_anchor=per_anchor,
            on_empty=on_empty,
        )
        super().__init__(strategy, index=index, seed=seed)
