"""The record of one round of global mining."""

from dataclasses import dataclass

from legolas_metric.records import Triplets


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningRound:
    """One refresh of the bank and what was mined from it.

    Attributes:
        epoch, step: when.
        miner: name of the strategy in charge.
        triplets: what it found, with its `MiningStats`.
        fed: share of the batches made of them for which the epoch had steps left. A later round of that epoch may take
            over before they are through; without one, further epochs go on with them.
        encode_seconds, mine_seconds: wall time of the two parts; the first is 0 where the bank is rewritten in turn.
        drift: mean cosine between the rows that were last written and what they were before; None the first time.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, HardMiner
        >>> from legolas_metric.training import MiningRound
        >>> mined = HardMiner().mine(EmbeddingBank(torch.eye(4), [0, 0, 1, 1]))
        >>> seconds = {"encode_seconds": 0.1, "mine_seconds": 0.2}
        >>> len(MiningRound(epoch=0, step=0, miner="hard", triplets=mined, fed=1.0, drift=None, **seconds).triplets)
        4
    """

    epoch: int
    step: int
    miner: str
    triplets: Triplets
    fed: float
    encode_seconds: float
    mine_seconds: float
    drift: float | None
