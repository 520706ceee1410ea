"""What a mining loop was asked for, in small records: what batches hold, when is mined, which miner."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from legolas_metric.checks import check_choice, check_whole
from legolas_metric.miners.schedule import MiningSchedule, TripletMiner

Kind = Literal["mined", "neighbors", "random"]
Pairs = Literal["batch", "mined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feeding:
    """What batches hold.

    Attributes:
        batch_size: rows of a batch.
        turns: where the batches come from, in turn.
        k: examples of a class in batches that are not mined.
        pairs: whether the loss sees every pair of a batch, or the mined triplets in it.
        steps_per_epoch: None for ceil(n / batch_size).
        seed: of the batches.
    """

    batch_size: int
    turns: Sequence[Kind]
    k: int
    pairs: Pairs
    steps_per_epoch: int | None
    seed: int

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 3), ("k", 1), ("seed", -(2**63))):
            check_whole(name, getattr(self, name), least)
        if self.steps_per_epoch is not None:
            check_whole("steps_per_epoch", self.steps_per_epoch, 1)
        check_choice("pairs", self.pairs, get_args(Pairs))
        object.__setattr__(self, "turns", (self.turns,) if isinstance(self.turns, str) else tuple(self.turns))
        for kind in self.turns:
            check_choice("turns", kind, get_args(Kind))
        if "mined" not in self.turns:
            raise ValueError("turns must hold 'mined' at least once; for random batches alone use a PKSampler")
        if set(self.turns) != {"mined"} and (self.k < 2 or self.batch_size // self.k < 2):
            raise ValueError(
                f"batches of 'neighbors' and 'random' hold batch_size // k classes of k examples, both at least 2: "
                f"got batch_size={self.batch_size}, k={self.k}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """When the bank is embedded and mined.

    Attributes:
        every: epochs between two rounds.
        every_steps: steps between two rounds within an epoch; None for none.
        rotate: share of the bank that is rewritten after each step, in place of whole passes; None for none.
        ema: decay of the averaged encoder that embeds; None for the encoder itself.
    """

    every: int
    every_steps: int | None
    rotate: float | int | None
    ema: float | int | None

    def __post_init__(self) -> None:
        check_whole("every", self.every, 1)
        if self.every_steps is not None:
            check_whole("every_steps", self.every_steps, 1)
        for name in ("rotate", "ema"):
            share = getattr(self, name)
            if share is not None and not 0 < share < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {share}")


def as_schedule(schedule: MiningSchedule | TripletMiner | None, miner: TripletMiner | None = None) -> MiningSchedule:
    """A schedule, or one miner as a schedule of one stage.

    Raises:
        TypeError: something else.
        ValueError: none of the two, or both.
    """
    if (schedule is None) == (miner is None):
        raise ValueError("pass either miner, such as HardMiner(), or schedule, a MiningSchedule")
    chosen = schedule if miner is None else miner
    if isinstance(chosen, MiningSchedule):
        return chosen
    return MiningSchedule([(0, chosen)])  # pyright: ignore[reportArgumentType]  (which refuses what is no miner)
