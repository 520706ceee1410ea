"""The record of one round of global mining."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from legolas_metric.records import MiningStats, Triplets


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningRound:
    """One refresh of the bank and what was mined from it.

    Attributes:
        epoch, step: when.
        miner: name of the strategy in charge.
        triplets: what it found, with its `MiningStats`.
        fed: share of the batches made of them for which the epoch had steps left (0 where no batch holds any). A later
            round of that epoch may take over before they are through; without one, further epochs go on with them.
        encode_seconds, mine_seconds, plan_seconds: wall time of embedding (0 where the bank is rewritten in turn), of
            mining, and of planning the batches.
        drift: mean cosine between the rows that were last written and what they were before; None the first time.
        margin: of the miner; None where it has none.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, HardMiner
        >>> from legolas_metric.training import MiningRound
        >>> mined = HardMiner().mine(EmbeddingBank(torch.eye(4), [0, 0, 1, 1]))
        >>> seconds = {"encode_seconds": 0.1, "mine_seconds": 0.2}
        >>> len(MiningRound(epoch=0, step=0, miner="hard", triplets=mined, fed=1.0, drift=None, **seconds).triplets)
        4

    Source: ours.
    """

    epoch: int
    step: int
    miner: str
    triplets: Triplets
    fed: float
    encode_seconds: float
    mine_seconds: float
    drift: float | None
    plan_seconds: float = 0.0
    margin: float | int | None = None

    @property
    def mines(self) -> bool:
        """Whether anything was asked of a miner; else the bank was embedded for the sake of near classes."""
        return self.triplets.stats.engine != "none"

    def values(self) -> dict[str, float | int]:
        """The figures of the round by name, as loggers and `history.jsonl` have them."""
        stats = self.triplets.stats
        counts = (
            "anchors",
            "no_positive",
            "no_negative",
            "outside_window",
            "fallback",
            "exhausted",
            "short",
            "contested",
            "max_age",
        )
        values: dict[str, float | int] = {}
        if self.mines:
            values |= {"triplets": len(self.triplets), "fed": self.fed}
            values |= {"distinct_negatives": len(self.triplets.negative.unique())}
            values |= {name: getattr(stats, name) for name in counts}
            values |= {f"filtered/{reason}": count for reason, count in stats.filtered.items()}
        values |= {name: getattr(self, name) for name in ("encode_seconds", "mine_seconds", "plan_seconds")}
        optional = {"drift": self.drift, "margin": self.margin, "recall": _number(stats.recall)}
        return values | {name: value for name, value in optional.items() if value is not None}

    def words(self) -> Mapping[str, Any]:
        """What else tells rounds apart: the miner, the engine and its precision."""
        stats = self.triplets.stats
        return {"miner": self.miner, "engine": stats.engine, "precision": stats.precision}

    def summary(self) -> str:
        """The round in two lines: what was found and fed, and what fell short."""
        stats = self.triplets.stats
        drift = "" if self.drift is None else f", drift {self.drift:.4f}, oldest row {stats.max_age} steps"
        if not self.mines:
            return (
                f"epoch {self.epoch}, step {self.step}: near classes by a new bank{drift}; "
                f"embedding {self.encode_seconds:.2f} s, planning {self.plan_seconds:.2f} s"
            )
        return (
            f"epoch {self.epoch}, step {self.step}: {self.miner} found {len(self.triplets)} triplets of "
            f"{stats.anchors} anchors by {stats.engine}, fed {self.fed:.0%}{drift}\n"
            f"  {shortfalls(stats)}; embedding {self.encode_seconds:.2f} s, mining {self.mine_seconds:.2f} s, "
            f"planning {self.plan_seconds:.2f} s"
        )


def check_found(name: str, epoch: int, triplets: Triplets) -> None:
    """Raise where a miner found nothing at all, with the counts that say why."""
    if len(triplets) == 0 and triplets.stats.engine != "none":
        asked, why = triplets.stats.anchors, shortfalls(triplets.stats)
        raise ValueError(
            f"{name} found no triplet in epoch {epoch}, of {asked} anchors {why}: ease its window or guard"
        )


def shortfalls(stats: MiningStats) -> str:
    """What could not be mined, in one line."""
    short = {"without positive": stats.no_positive, "without negative": stats.no_negative}
    short |= {"outside the window": stats.outside_window, "exhausted": stats.exhausted, "fallback": stats.fallback}
    short |= {f"filtered as {reason}": count for reason, count in stats.filtered.items()}
    return ", ".join(f"{count} {what}" for what, count in short.items() if count) or "no shortfall"


def _number(value: Any) -> float | None:
    return value if isinstance(value, float | int) else None
