"""Splits and k-folds that keep a class, or a group, on one side: what an honest test of an embedding needs.

An encoder is asked to rank classes that it never saw, so the classes of training and test must differ; or to recognise
known persons in a session that it never saw, so the sessions must.
"""

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, as_integers, check_number
from legolas_metric.datasets.strata import strata_of_classes, strata_of_rows
from legolas_metric.rows import as_labels
from legolas_metric.signatures import typed

Split = tuple[Int64[Tensor, " a"], Int64[Tensor, " b"]]


@typed
def class_disjoint_split(labels: ArrayLike, *, test_size: float | int = 0.2, seed: int = 0) -> Split:
    """Rows for training and for testing, with no class on both sides.

    Args:
        labels: [n] integers; rows labelled -1 belong to no class and go to neither side.
        test_size: classes of the test side: how many (an integer), or what share (a float in 0..1, rounded).
        seed: of the choice.

    Returns:
        (train, test): row numbers, ascending.

    Raises:
        TypeError: labels that are not integers.
        ValueError: labels below -1, or a test size that leaves one side without a class.

    Example:
        >>> from legolas_metric import class_disjoint_split
        >>> train, test = class_disjoint_split([5, 5, 7, 7, 9, 9], test_size=1, seed=0)
        >>> len(train), len(test)
        (4, 2)

    Source: ours.
    """
    return _split(_classes(labels), test_size, seed, "classes")


@typed
def group_disjoint_split(groups: ArrayLike, *, test_size: float | int = 0.2, seed: int = 0) -> Split:
    """Rows for training and for testing, with no group (session, camera, recording, alphabet) on both sides.

    Where every class lies in one group, as a character in its alphabet, the split is class-disjoint as well.

    Args:
        groups: [n] integers.
        test_size: groups of the test side: how many (an integer), or what share (a float in 0..1, rounded).
        seed: of the choice.

    Returns:
        (train, test): row numbers, ascending.

    Raises:
        TypeError: groups that are not integers.
        ValueError: a test size that leaves one side without a group.

    Example:
        >>> from legolas_metric import group_disjoint_split
        >>> train, test = group_disjoint_split([0, 0, 1, 1, 2, 2], test_size=2, seed=0)
        >>> len(train), len(test)
        (2, 4)

    Source: ours.
    """
    return _split(_units(as_integers(groups, None, name="groups")), test_size, seed, "groups")


@typed
def class_disjoint_folds(
    labels: ArrayLike, folds: int = 5, *, stratify: ArrayLike | None = None, seed: int = 0
) -> list[Split]:
    """k-fold cross-validation over classes: each class is tested in one fold and trained on in the others.

    The numbers of classes of two folds differ by one at most, and classes of like size are dealt to different folds, so
    that the numbers of rows are alike too.

    Args:
        labels: [n] integers; rows labelled -1 belong to no class and go to no side.
        folds: number of folds.
        stratify: [n] an attribute of classes, such as "came on two days": of each value any two folds have equally many
            classes, or one more.
        seed: of the deal.

    Returns:
        (train, test) of each fold: row numbers, ascending.

    Raises:
        TypeError: labels that are not integers.
        ValueError: labels below -1, fewer than 2 folds, more folds than classes, or an attribute that varies within a
            class.

    Example:
        >>> from legolas_metric import class_disjoint_folds
        >>> [len(test) for train, test in class_disjoint_folds([5, 5, 7, 7, 9, 9], folds=3)]
        [2, 2, 2]

    Source: ours.
    """
    units = _classes(labels)
    if stratify is None:
        return _folds(units, folds, seed, "classes")
    known = units >= 0
    values = strata_of_rows(stratify, len(units)).to(units.device)[known]
    return _folds(units, folds, seed, "classes", strata_of_classes(values.cpu(), as_labels(labels, None)[known].cpu()))


@typed
def group_disjoint_folds(groups: ArrayLike, folds: int = 5, *, seed: int = 0) -> list[Split]:
    """k-fold cross-validation over groups: each group is tested in one fold and trained on in the others.

    As many folds as groups leave one group out at a time. Sizes are balanced as in `class_disjoint_folds`.

    Args:
        groups: [n] integers.
        folds: number of folds.
        seed: of the deal.

    Returns:
        (train, test) of each fold: row numbers, ascending.

    Raises:
        TypeError: groups that are not integers.
        ValueError: fewer than 2 folds, or more folds than groups.

    Example:
        >>> from legolas_metric import group_disjoint_folds
        >>> [len(train) for train, test in group_disjoint_folds([0, 0, 1, 1, 2, 2], folds=3)]
        [4, 4, 4]

    Source: ours.
    """
    return _folds(_units(as_integers(groups, None, name="groups")), folds, seed, "groups")


def _classes(labels: ArrayLike) -> Int64[Tensor, " n"]:
    values = as_labels(labels, None)
    units = torch.full_like(values, -1)
    labelled = values != UNLABELLED
    units[labelled] = _units(values[labelled])
    return units


def _units(values: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """The classes or groups numbered 0, 1, ... (-1 for rows that belong to none)."""
    return values.unique(return_inverse=True)[1]


def _count(units: Int64[Tensor, " n"]) -> int:
    return int(units.max()) + 1 if len(units) else 0


def _split(units: Int64[Tensor, " n"], test_size: float | int, seed: int, what: str) -> Split:
    count = _count(units)
    check_number("test_size", test_size)
    tested = round(test_size * count) if isinstance(test_size, float) else test_size
    if not 0 < tested < count:
        raise ValueError(
            f"test_size={test_size} puts {tested} of {count} {what} on the test side: leave at least one on each side"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    side = torch.zeros(count, dtype=torch.int64)
    side[order[:tested]] = 1
    return _sides(units, side, 1)


def _folds(
    units: Int64[Tensor, " n"], folds: int, seed: int, what: str, strata: Int64[Tensor, " c"] | None = None
) -> list[Split]:
    count = _count(units)
    if not 2 <= folds <= count:
        raise ValueError(f"folds must lie in 2..{count}, the number of {what}, got {folds}")
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(count, generator=generator)
    sizes = units[units >= 0].bincount(minlength=count).cpu()
    by_size = shuffled[sizes[shuffled].argsort(descending=True, stable=True)]
    # Each run of `folds` units of like size gives one to every fold; within a stratum, any run does, in one order.
    deal = torch.cat([torch.randperm(folds, generator=generator) for _ in range(0, count, folds)])
    if strata is not None:
        by_size = by_size[strata[by_size].argsort(stable=True)]
        deal = deal[:folds].repeat(-(-count // folds))
    fold = torch.empty(count, dtype=torch.int64)
    fold[by_size] = deal[:count]
    return [_sides(units, fold, number) for number in range(folds)]


def _sides(units: Int64[Tensor, " n"], side: Int64[Tensor, " c"], tested: int) -> Split:
    rows = (units >= 0).nonzero().flatten()
    test = side.to(units.device)[units[rows]] == tested
    return rows[~test], rows[test]
