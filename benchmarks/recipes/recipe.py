"""One record says what a run does; the data set, the encoder and the number of steps are the task's."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from legolas_metric import LabelRelation

Kind = Literal["random", "neighbors", "mined"]
Make = partial[Any]
"""A class and its settings, made anew for each run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How batches are made, which miner chooses, which loss is minimised.

    Attributes:
        name: in the table, and in the file of results.
        loss: it sees every pair of the batch, unless `miner` or `pairs` choose; None leaves the encoder untrained.
        raw: no encoder at all, the inputs are the embeddings.
        miner: in the batch, its triplets go to the loss.
        turns: where the batches come from, in turn, once the warm-up is over: PK batches of random classes, PK batches
            of near classes, or batches of globally mined triplets.
        stages: (share of the steps from which it is used, miner of the whole training set); for "mined".
        pairs: with "mined" the loss sees only the globally mined triplets of the batch.
        memory: the loss also compares the batch with every row of the bank, without gradient (`BankLoss`).
        warm_up: share of the steps on random PK batches before the first look at the whole training set.
        refresh: steps between two looks.
        k: examples of a class in a PK batch; it has batch size / k classes.
        pool: of `NeighborPKSampler`.
        across: positives come from other groups than the anchor's (recordings), in batches and in miners.
        lr: highest rate of the one-cycle.
    """

    name: str
    loss: Make | None
    raw: bool = False
    miner: Make | None = None
    turns: tuple[Kind, ...] = ("random",)
    stages: tuple[tuple[float, Make], ...] = ()
    pairs: Literal["batch", "mined"] = "batch"
    memory: bool = False
    warm_up: float = 0.3
    refresh: int = 100
    k: int = 4
    pool: int | None = None
    across: bool = False
    lr: float = 2e-3

    @property
    def looks(self) -> bool:
        """Whether it ever looks at the whole training set."""
        return self.memory or self.turns != ("random",)

    def relation(self) -> dict[str, LabelRelation]:
        """The miners' argument for `across`."""
        return {"relation": LabelRelation(positive_group="other")} if self.across else {}

    def settings(self) -> dict[str, Any]:
        """Everything that the run depends on, as JSON can hold it."""
        return {
            "loss": self.loss and spelled(self.loss),
            "miner": self.miner and spelled(self.miner),
            "turns": list(self.turns),
            "stages": [[share, spelled(miner)] for share, miner in self.stages],
            "pairs": self.pairs,
            "memory": self.memory,
            "warm_up": self.warm_up if self.looks else None,
            "refresh": self.refresh if self.looks else None,
            "k": self.k,
            "pool": self.pool,
            "across": self.across,
            "lr": self.lr,
        }


def spelled(make: Make) -> str:
    """As one would write it: `SupConLoss(temperature=0.1)`."""
    if isinstance(make, type):
        return f"{make.__name__}()"
    given = [repr(value) for value in make.args] + [f"{key}={value!r}" for key, value in make.keywords.items()]
    return f"{make.func.__name__}({', '.join(given)})"
