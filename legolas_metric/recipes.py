"""Recipes: complete settings of batches, mining and loss, each measured in docs/recipes.md; the encoder is yours.

`choose` reads off the data which one to begin with. A recipe is plain values, changed by `dataclasses.replace`.
"""

from dataclasses import replace
from typing import Literal, get_args

import torch

from legolas_metric.checks import ArrayLike, check_choice, check_whole
from legolas_metric.miners.false_negatives import FalseNegativeGuard
from legolas_metric.recipe_settings import Recipe as Recipe
from legolas_metric.recipe_settings import classes_of_batch
from legolas_metric.rows import as_groups, as_labels
from legolas_metric.signatures import typed

Name = Literal["pk-supcon", "pk-batch-hard", "pk-multi-similarity", "near", "mined"]

SEEN_ALREADY = 0.3
"""Chance of meeting the nearest class in a random batch from which a look at the whole set added nothing."""

NOISY = 0.05
"""Share of wrong labels from which the hardest examples are mostly mistakes."""


def near(
    *,
    temperature: float | int = 0.02,
    pool: int | None = None,
    hard: float | int | None = None,
    distinct_groups: bool = False,
) -> Recipe:
    """Batches of classes that lie near each other in the whole set, SupCon: many classes, few of them in a batch.

    `hard=0.5`, of each class the half nearest to the batch's other classes, gains in short runs only (docs/log.md).

    Args:
        temperature, pool, hard, distinct_groups: see `Recipe`.

    Example:
        >>> from legolas_metric import recipes
        >>> recipes.near().temperature, recipes.near(hard=0.5).hard
        (0.02, 0.5)

    Source: ours, after the graph sampling of Liao and Shao (2022), arXiv:2104.01546.
    """
    return Recipe(
        name="near",
        temperature=temperature,
        turns=("neighbors",),
        pool=pool,
        hard=hard,
        distinct_groups=distinct_groups,
        warm_up=1,
    )


def mined(
    *, temperature: float | int = 0.02, guard: FalseNegativeGuard | None = None, distinct_groups: bool = False
) -> Recipe:
    """Batches of triplets whose negatives are among the ten nearest of the whole set, SupCon over all their pairs.

    Args:
        temperature, guard, distinct_groups: see `Recipe`.

    Example:
        >>> from legolas_metric import FalseNegativeGuard, recipes
        >>> recipes.mined(guard=FalseNegativeGuard()).ranks
        (1, 10)

    Source: ours.
    """
    return Recipe(
        name="mined",
        temperature=temperature,
        turns=("mined",),
        distinct_groups=distinct_groups,
        warm_up=1,
        guard=guard,
    )


def pk_supcon(*, temperature: float | int = 0.02, distinct_groups: bool = False) -> Recipe:
    """Random classes, SupCon: what all else is compared with.

    Args:
        temperature, distinct_groups: see `Recipe`.

    Example:
        >>> from legolas_metric import recipes
        >>> recipes.pk_supcon().looks
        False

    Source: Khosla et al. (2020), Supervised Contrastive Learning, arXiv:2004.11362.
    """
    return Recipe(name="pk-supcon", temperature=temperature, distinct_groups=distinct_groups)


def pk_batch_hard(*, margin: float | int = 0.2, warm_up: int = 1, distinct_groups: bool = False) -> Recipe:
    """Random classes, the hardest triplet of each anchor; semi-hard ones first, since batch-hard may collapse at once.

    Args:
        margin: in distance.
        warm_up: epochs of semi-hard triplets.
        distinct_groups: positives come from other groups than their anchors.

    Example:
        >>> from legolas_metric import recipes
        >>> recipe = recipes.pk_batch_hard()
        >>> recipe.build_loss(epoch=0).selection, recipe.build_loss().selection
        ('semihard', 'hard')

    Source: Hermans et al. (2017), In Defense of the Triplet Loss, arXiv:1703.07737; the warm-up is ours.
    """
    return Recipe(name="pk-batch-hard", loss="triplet", margin=margin, warm_up=warm_up, distinct_groups=distinct_groups)


def pk_multi_similarity(*, distinct_groups: bool = False) -> Recipe:
    """Random classes, multi-similarity: features that are good before training, such as those of sentences.

    Args:
        distinct_groups: positives come from other groups than their anchors.

    Example:
        >>> from legolas_metric import recipes
        >>> recipes.pk_multi_similarity().loss
        'multi-similarity'

    Source: Wang et al. (2019), Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning.
    """
    return Recipe(name="pk-multi-similarity", loss="multi-similarity", distinct_groups=distinct_groups)


def named(name: str) -> Recipe:
    """A recipe as it comes, by its name.

    Args:
        name: of one, see docs/recipes.md.

    Raises:
        ValueError: no such name.

    Example:
        >>> from legolas_metric import recipes
        >>> recipes.named("near") == recipes.near()
        True

    Source: ours.
    """
    check_choice("recipe", name, get_args(Name))
    made = {
        "near": near,
        "mined": mined,
        "pk-supcon": pk_supcon,
        "pk-batch-hard": pk_batch_hard,
        "pk-multi-similarity": pk_multi_similarity,
    }
    return made[name]()


@typed
def choose(
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    batch_size: int = 128,
    k: int = 4,
    noise: float | int = 0.0,
) -> Recipe:
    """The recipe to begin with, by how the data is made up; its `why` gives the reason in words.

    Of C classes, p = min(batch_size // k, C) are in a batch, and a random batch holds the class nearest to a given one
    with a chance of (p - 1) / (C - 1). The first that holds:

    1. noise >= 0.05: `pk_supcon(temperature=0.1)`, since near classes and hard pairs then are mistakes.
    2. a chance >= 0.3: `pk_supcon(temperature=0.05)`, since random batches show what a look would show.
    3. else `near()`, at a temperature of 0.02.

    In each of them positives come from other groups than their anchors where most classes have several. Whether
    features are good already, for which `pk_multi_similarity` is, can't be read off labels.

    Args:
        labels: [n] of the training set, integers or names; -1 is unlabelled.
        groups: [n] what must differ between honest positives: sessions, cameras, speakers.
        batch_size, k: of training.
        noise: share of wrong labels, in [0, 1), as `diagnose` or a look at the data suggests.

    Raises:
        ValueError: fewer than two classes, no class of two examples, or settings out of range.

    Example:
        >>> import torch
        >>> from legolas_metric import recipes
        >>> recipes.choose(torch.arange(500).repeat_interleave(20)).name
        'near'
        >>> recipes.choose(torch.arange(10).repeat_interleave(90)).why
        'a random batch of 10 of 10 classes holds the nearest class with chance 1.00: it shows what a look would show'

    Source: ours.
    """
    values = as_labels(labels, None)
    check_whole("k", k, 2)
    check_whole("batch_size", batch_size, 2 * k)
    if not 0 <= noise < 1:
        raise ValueError(f"noise must lie in [0, 1), got {noise}: it is the share of wrong labels")
    places = as_groups(groups, len(values), of="the training set")
    p = classes_of_batch(values, batch_size, k)
    sizes = values[values >= 0].unique(return_counts=True)[1]
    if int(sizes.max()) < 2:
        raise ValueError(
            f"no class has two examples, so there is no positive pair: got {len(sizes)} classes of one example each; "
            "label more examples of each, or check that labels are those of classes"
        )
    chance = (p - 1) / (len(sizes) - 1)
    across = places is not None and _share_in_several(values, places) > 0.5
    here = f"a random batch of {p} of {len(sizes)} classes holds the nearest class with chance {_beside_seen(chance)}"
    if noise >= NOISY:
        recipe = pk_supcon(temperature=0.1, distinct_groups=across)
        why = f"{noise:.0%} of the labels are wrong, and the nearest of other classes are the first to be"
    elif chance >= SEEN_ALREADY:
        recipe = pk_supcon(temperature=0.05, distinct_groups=across)
        why = f"{here}: it shows what a look would show"
    else:
        recipe, why = near(distinct_groups=across), f"{here} only: near classes are looked for"
    if across:
        why += "; most classes have several groups, so positives come from others than their anchors"
    if (alone := float((sizes == 1).float().mean())) > 0.5:
        why += f"; beware: {alone:.0%} of the classes have one example, and so no positive pair"
    return replace(recipe, why=why, k=k)


def _beside_seen(chance: float) -> str:
    """A chance in as many digits as tell on which side of `SEEN_ALREADY` it lies, at least two."""
    seen = chance >= SEEN_ALREADY
    digits = next(d for d in range(2, 20) if (round(chance, d) >= SEEN_ALREADY) == seen)
    return f"{chance:.{digits}f}"


def _share_in_several(labels: torch.Tensor, groups: torch.Tensor) -> float:
    pairs = torch.stack([labels, groups.to(labels.device)], 1)[labels >= 0].unique(dim=0)
    return float((pairs[:, 0].unique(return_counts=True)[1] > 1).float().mean())
