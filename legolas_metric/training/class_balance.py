"""Balancing rare classes: one way at a time, and mixing inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.utils.data import WeightedRandomSampler

from legolas_metric.checks import UNLABELLED, ArrayLike, check_number, check_whole, shown
from legolas_metric.losses.focal import FocalLoss
from legolas_metric.rows import as_labels
from legolas_metric.samplers.pk import PKSampler
from legolas_metric.signatures import typed


@typed
def class_weights(labels: ArrayLike, num_classes: int, *, power: float | int = 1.0) -> Float32[Tensor, " c"]:
    """Weights of classes, larger where a class is rarer, that sum to the number of classes.

    w_c = C n_c^-power / sum_k n_k^-power over the classes that have rows; 0 for those that have none

    Args:
        labels: [n] in 0 .. num_classes - 1; -1 is left out.
        num_classes: declared, as the highest label that happens to occur says little.
        power: 1 weighs by the inverse of the number of rows, 0 not at all.

    Raises:
        ValueError: labels that no class stands for, or no labelled row.

    Example:
        >>> from legolas_metric.training.class_balance import class_weights
        >>> [round(w, 3) for w in class_weights([0, 0, 0, 1], 2).tolist()]
        [0.5, 1.5]

    Source: ours, after King and Zeng (2001), Logistic Regression in Rare Events Data.
    """
    check_number("power", power, least=0.0)
    count = class_counts(labels, num_classes).double()
    weight = torch.where(count > 0, count.clamp_min(1) ** -power, 0.0)
    return (num_classes * weight / weight.sum()).float()


def class_counts(labels: ArrayLike, num_classes: int) -> Int64[Tensor, " c"]:
    """Rows of each declared class.

    Raises:
        ValueError: labels that no class stands for, or no labelled row.

    Example:
        >>> from legolas_metric.training.class_balance import class_counts
        >>> class_counts([0, 2, 2, -1], 4).tolist()
        [1, 0, 2, 0]
    """
    values = as_labels(labels, None)
    check_classes(values, num_classes)
    labelled = values[values != UNLABELLED]
    if not len(labelled):
        raise ValueError("no row is labelled: there is nothing to balance")
    return labelled.bincount(minlength=num_classes)


def check_classes(labels: Int64[Tensor, " n"], num_classes: int) -> None:
    """Raise where a label lies beyond the declared number of classes."""
    check_whole("num_classes", num_classes, 2)
    if len(labels) and int(labels.max()) >= num_classes:
        raise ValueError(
            f"labels go up to {int(labels.max())} with num_classes={num_classes}: declare the classes that can occur "
            "in training, validation and test together"
        )


@typed
def balanced_sampler(
    labels: ArrayLike, num_classes: int, *, size: int | None = None, seed: int = 0
) -> WeightedRandomSampler:
    """Draw rows so that every class that has any comes alike often, with replacement; rows labelled -1 never come.

    Args:
        labels: [n] in 0 .. num_classes - 1, or -1.
        num_classes: declared.
        size: rows of an epoch (default: n).
        seed: of the draws.

    Raises:
        ValueError: as `class_weights`.

    Example:
        >>> from legolas_metric.training.class_balance import balanced_sampler
        >>> len(list(balanced_sampler([0, 0, 0, 1], 2, size=100)))
        100

    Source: torch's `WeightedRandomSampler`.
    """
    values = as_labels(labels, None)
    count = class_counts(values, num_classes)
    weight = torch.where(values == UNLABELLED, 0.0, 1.0 / count.clamp_min(1)[values.clamp_min(0)])
    draws = len(values) if size is None else check_whole("size", size, 1)
    return WeightedRandomSampler(weight.tolist(), draws, generator=torch.Generator().manual_seed(seed))


@typed
def balancings(loss: Callable[..., Any], samplers: Sequence[object] = ()) -> tuple[str, ...]:
    """The ways by which a loss and a loader's samplers favour rare or hard classes; more than one balance twice.

    Known are class weights, `FocalLoss` with gamma > 0, `WeightedRandomSampler` with unequal weights, and `PKSampler`.

    Args:
        loss: of the training.
        samplers: of its loader.

    Example:
        >>> import torch
        >>> from legolas_metric import FocalLoss
        >>> from legolas_metric.training.class_balance import balanced_sampler, balancings
        >>> balancings(FocalLoss(), [balanced_sampler([0, 0, 1], 2)])
        ('focal loss', 'a weighted sampler')

    Source: ours.
    """
    found = []
    if isinstance(loss, FocalLoss) and loss.gamma > 0:
        found.append("focal loss")
    weights = loss.class_weights if isinstance(loss, FocalLoss) else getattr(loss, "weight", None)
    if isinstance(weights, Tensor) and isinstance(loss, nn.Module) and len(weights.unique()) > 1:
        found.append("class weights")
    for sampler in samplers:
        if isinstance(sampler, WeightedRandomSampler) and len(sampler.weights.unique()) > 1:
            found.append("a weighted sampler")
        if isinstance(sampler, PKSampler):
            found.append("a sampler of as many rows of each class")
    return tuple(found)


@typed
def mixup(
    inputs: Float[Tensor, "b *s"], labels: ArrayLike, num_classes: int, *, alpha: float, seed: int
) -> tuple[Float[Tensor, "b *s"], Float32[Tensor, "b c"]]:
    """Mix each input with another of the batch, and its target alike.

    x = m x_i + (1 - m) x_j,  t = m t_i + (1 - m) t_j,  m from Beta(alpha, alpha), one m for the batch

    Args:
        inputs: [b, ...].
        labels: [b] in 0 .. num_classes - 1.
        num_classes: columns of the targets.
        alpha: > 0; small values mix little.
        seed: of the draw.

    Returns:
        Mixed inputs, and targets [b, num_classes] that sum to 1.

    Raises:
        ValueError: alpha that is not positive, or labels that no class stands for, -1 among them.

    Example:
        >>> import torch
        >>> from legolas_metric.training.class_balance import mixup
        >>> x, targets = mixup(torch.eye(4), torch.tensor([0, 1, 2, 2]), 3, alpha=1.0, seed=0)
        >>> targets.sum(1).tolist()
        [1.0, 1.0, 1.0, 1.0]

    Source: Zhang et al. (2018), mixup: Beyond Empirical Risk Minimization, arXiv:1710.09412.
    """
    check_number("alpha", alpha, above=0.0)
    classes = as_labels(labels, len(inputs), of="inputs").to(inputs.device)
    check_classes(classes, num_classes)
    if bool((classes == UNLABELLED).any()):
        raise ValueError("labels hold -1, unlabelled rows, which have no target: leave them out of the batch")
    rng = np.random.default_rng(seed % 2**64)
    share, order = float(rng.beta(alpha, alpha)), torch.from_numpy(rng.permutation(len(inputs))).to(inputs.device)
    hard = nn.functional.one_hot(classes, num_classes).float()
    return share * inputs + (1 - share) * inputs[order], share * hard + (1 - share) * hard[order]


def mixed_accuracy(logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"]) -> float:
    """Accuracy against mixed targets: the mean weight that the target gives to the class that was predicted.

        mean over i of targets[i, argmax logits[i]]

    Counted against one of the two mixed classes alone, a perfect model would seem wrong about every other row.

    Args:
        logits, targets: [b, c].

    Raises:
        ValueError: logits and targets of different shapes.

    Example:
        >>> import torch
        >>> from legolas_metric.training.class_balance import mixed_accuracy
        >>> round(mixed_accuracy(torch.tensor([[2.0, 1.0]]), torch.tensor([[0.7, 0.3]])), 3)
        0.7

    Source: ours.
    """
    if not isinstance(targets, Tensor) or targets.shape != logits.shape or not targets.is_floating_point():
        raise ValueError(
            f"targets must be floating point, [{', '.join(map(str, logits.shape))}], as `mixup` gives them, got "
            f"{(targets.dtype, tuple(targets.shape)) if isinstance(targets, Tensor) else shown(targets)}"
        )
    return float(targets.gather(1, logits.argmax(1, keepdim=True)).mean())
