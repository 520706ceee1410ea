"""The recipes of each task, in the order in which they are run and shown."""

from dataclasses import replace
from functools import partial

from benchmarks.recipes.recipe import Make, Recipe
from legolas_metric import (
    DistanceWeightedMiner,
    EasyPositiveMiner,
    FalseNegativeGuard,
    FullHardMiner,
    HardMiner,
    MultiSimilarityLoss,
    RandomMiner,
    SemiHardMiner,
    SupConLoss,
    TripletLoss,
)


def supcon(temperature: float) -> Make:
    """The loss of most recipes; its temperature is the setting that matters most."""
    return partial(SupConLoss, temperature=temperature)


MULTI_SIMILARITY = partial(MultiSimilarityLoss, mining=0.1)
TRIPLET = partial(TripletLoss, margin=0.2)
FULL_HARD = FullHardMiner
WINDOW = partial(HardMiner, ranks=(1, 10))

RAW = Recipe(name="the inputs as they are", loss=None, raw=True)
UNTRAINED = Recipe(name="untrained", loss=None)
PK_TRIPLETS = tuple(
    Recipe(name=f"PK + triplet, {strategy}", loss=TRIPLET, miner=miner)
    for strategy, miner in {
        "random": RandomMiner,
        "easy positive": partial(EasyPositiveMiner, margin=0.2),
        "distance-weighted": DistanceWeightedMiner,
        "semi-hard": SemiHardMiner,
        "hard": HardMiner,
        "full-hard": FullHardMiner,
    }.items()
)
PK_MULTI_SIMILARITY = Recipe(name="PK + multi-similarity", loss=MULTI_SIMILARITY)
NEAR_MULTI_SIMILARITY = Recipe(name="near classes + multi-similarity", loss=MULTI_SIMILARITY, turns=("neighbors",))
NEAR_TRIPLETS = tuple(  # the default pool's classes lie so near that batch-hard finds only what is hopeless
    Recipe(
        name=f"near classes (pool {pool}) + triplet, full-hard",
        loss=TRIPLET,
        miner=FULL_HARD,
        turns=("neighbors",),
        pool=pool,
    )
    for pool in (200, 400)
)


def pk(temperature: float, **changes: object) -> Recipe:
    """Batches of random classes."""
    return replace(Recipe(name=f"PK + SupCon T={temperature}", loss=supcon(temperature)), **changes)


def near(temperature: float, **changes: object) -> Recipe:
    """Batches of near classes, after the warm-up."""
    name = f"near classes + SupCon T={temperature}"
    return replace(Recipe(name=name, loss=supcon(temperature), turns=("neighbors",)), **changes)


def mined(name: str, temperature: float, *miners: Make, **changes: object) -> Recipe:
    """Batches of triplets mined from the whole set: each of the miners for a fifth of the run, the last to the end."""
    stages = tuple((0.3 + 0.2 * number, miner) for number, miner in enumerate(miners))
    recipe = Recipe(name=f"global {name} + SupCon T={temperature}", loss=supcon(temperature), turns=("mined",))
    return replace(recipe, stages=stages, **changes)


GUARDED = [partial(miner, guard=FalseNegativeGuard()) for miner in (SemiHardMiner, HardMiner, FullHardMiner)]

OMNIGLOT = (
    UNTRAINED,
    pk(0.1),
    pk(0.05),
    pk(0.02),
    *PK_TRIPLETS,
    PK_MULTI_SIMILARITY,
    mined("semi-hard", 0.02, *GUARDED[:1]),
    mined("hard", 0.02, *GUARDED[:2]),
    mined("full-hard", 0.02, *GUARDED),
    mined("ranks 1-10", 0.02, WINDOW),
    near(0.1),
    near(0.02),
    near(
        0.02,
        name="near classes, global ranks 1-10 + SupCon T=0.02",
        turns=("neighbors", "mined"),
        stages=((0.3, WINDOW),),
    ),
    NEAR_MULTI_SIMILARITY,
    Recipe(name="near classes + triplet, full-hard", loss=TRIPLET, miner=FULL_HARD, turns=("neighbors",)),
    *NEAR_TRIPLETS,
)

ECG = (
    RAW,
    UNTRAINED,
    pk(0.1),
    pk(0.05),
    pk(0.05, name="PK across recordings + SupCon T=0.05", across=True),
    PK_TRIPLETS[-1],
    near(0.05, refresh=25),
    mined("ranks 1-10 across recordings", 0.05, WINDOW, across=True, refresh=25),
)

CLINC = (
    RAW,
    UNTRAINED,
    pk(0.1),
    pk(0.05),
    PK_TRIPLETS[-1],
    PK_MULTI_SIMILARITY,
    near(0.05),
    mined("ranks 1-10", 0.05, WINDOW),
    NEAR_MULTI_SIMILARITY,
    Recipe(
        name="global ranks 1-10 + multi-similarity", loss=MULTI_SIMILARITY, turns=("mined",), stages=((0.3, WINDOW),)
    ),
)

RECIPES = {"omniglot": OMNIGLOT, "ecg": ECG, "clinc": CLINC}
