"""What a mining loop was asked for, in small records: what batches hold, when is mined, which miner."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from legolas_metric.checks import check_choice, check_whole
from legolas_metric.miners.schedule import MiningSchedule, TripletMiner
from legolas_metric.recipe_settings import Kind, Recipe

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
        pool, hard: of batches of near classes, see `NeighborPKSampler`.
        distinct_groups: whether a class's k examples come from different groups.
        warm_up: epochs of random batches before the turns begin.
        fits: as recipes do, take as many classes as there are where they are too few for a batch, and visit classes of
            fewer than k examples too.
    """

    batch_size: int
    turns: Sequence[Kind]
    k: int
    pairs: Pairs
    steps_per_epoch: int | None
    seed: int
    pool: int | None = None
    hard: float | int | None = None
    distinct_groups: bool = False
    warm_up: int = 0
    fits: bool = False

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 3), ("k", 1), ("seed", -(2**63))):
            check_whole(name, getattr(self, name), least)
        if self.steps_per_epoch is not None:
            check_whole("steps_per_epoch", self.steps_per_epoch, 1)
        check_choice("pairs", self.pairs, get_args(Pairs))
        object.__setattr__(self, "turns", (self.turns,) if isinstance(self.turns, str) else tuple(self.turns))
        for kind in self.turns:
            check_choice("turns", kind, get_args(Kind))
        if not {"mined", "neighbors"} & set(self.turns):
            raise ValueError("turns must hold 'mined' or 'neighbors'; for random batches alone use a PKSampler")
        if set(self.turns) != {"mined"} and (self.k < 2 or self.batch_size // self.k < 2):
            raise ValueError(
                f"batches of 'neighbors' and 'random' hold batch_size // k classes of k examples, both at least 2: "
                f"got batch_size={self.batch_size}, k={self.k}"
            )

    def at(self, epoch: int) -> Sequence[Kind]:
        """Where the batches of an epoch come from."""
        return ("random",) if epoch < self.warm_up else self.turns

    def ever(self, kind: Kind) -> bool:
        """Whether any batch comes from there."""
        return kind in self.turns or (kind == "random" and self.warm_up > 0)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a loop was asked to do, by a recipe or by single settings."""

    schedule: MiningSchedule
    turns: Sequence[Kind]
    k: int
    every: int
    pool: int | None = None
    hard: float | int | None = None
    distinct_groups: bool = False
    warm_up: int = 0
    fits: bool = False

    def feeding(self, *, batch_size: int, pairs: Pairs, steps_per_epoch: int | None, seed: int) -> Feeding:
        """What batches hold."""
        return Feeding(
            batch_size=batch_size,
            turns=self.turns,
            k=self.k,
            pairs=pairs,
            steps_per_epoch=steps_per_epoch,
            seed=seed,
            pool=self.pool,
            hard=self.hard,
            distinct_groups=self.distinct_groups,
            warm_up=self.warm_up,
            fits=self.fits,
        )


def asked(
    recipe: Recipe | None,
    *,
    schedule: MiningSchedule | TripletMiner | None,
    miner: TripletMiner | None,
    turns: Sequence[Kind] | None,
    k: int | None,
    every: int | None,
    seed: int,
) -> Asked:
    """The settings of a recipe, or those given one by one.

    Raises:
        TypeError: a recipe that is none.
        ValueError: a recipe with settings beside it, or one that never looks at the whole set; see `as_schedule`.
    """
    given = {"schedule": schedule, "miner": miner, "turns": turns, "k": k, "every": every}
    if recipe is None:
        return Asked(
            schedule=as_schedule(schedule, miner),
            turns=("mined",) if turns is None else turns,
            k=4 if k is None else k,
            every=1 if every is None else every,
        )
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe such as recipes.near(), got {recipe!r}")
    both = [name for name, value in given.items() if value is not None]
    if both:
        raise ValueError(
            f"recipe={recipe.name!r} sets {both[0]} itself: leave it out, or change the recipe by dataclasses.replace"
        )
    if not recipe.looks:
        raise ValueError(
            f"the recipe {recipe.name!r} never looks at the whole training set: train on batches of "
            "recipe.sampler(labels) without it"
        )
    return Asked(
        schedule=recipe.schedule(seed=seed),
        turns=recipe.turns,
        k=recipe.k,
        every=recipe.every,
        pool=recipe.pool,
        hard=recipe.hard,
        distinct_groups=recipe.distinct_groups,
        warm_up=recipe.warm_up,
        fits=True,  # as `Recipe.sampler` does
    )
