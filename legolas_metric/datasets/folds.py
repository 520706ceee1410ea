"""k-fold cross-validation with a test set held out: by identity, or with the same classes on every side."""

import warnings
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, check_choice, check_number, check_whole
from legolas_metric.datasets.leakage import Leakage, find_leakage
from legolas_metric.datasets.strata import strata_of_classes, strata_of_rows
from legolas_metric.rows import as_groups, as_labels
from legolas_metric.signatures import typed

How = Literal["identity", "stratified"]


class Fold(NamedTuple):
    """Row numbers of one fold, ascending: `train, validation = fold`.

    Example:
        >>> import torch
        >>> from legolas_metric.datasets.folds import Fold
        >>> len(Fold(torch.tensor([0, 1]), torch.tensor([2])).train)
        2
    """

    train: Int64[Tensor, " a"]
    validation: Int64[Tensor, " b"]


class KFold:
    """k folds and a held-out test set, by scikit-learn's splitters.

    "identity" deals whole classes, so that an encoder is judged by persons that it never saw (open set); the numbers of
    classes of two folds differ by one at most, in each stratum. "stratified" keeps the share of each class on all sides
    (closed set); with groups, no group (recording, session) is on two sides.

    Args:
        labels: [n] integers or names; rows labelled -1 belong to no side.
        folds: how many.
        how: "identity" or "stratified".
        groups: [n] session, recording, camera. Under "stratified" they stay together. Under "identity" classes decide
            alone, since several may share a camera or a day; `leakage` tells which groups are shared.
        stratify: [n] an attribute whose shares are kept equal, such as "came on two days": under "identity" one value
            for each class; under "stratified" within each class.
        test_share: of the classes ("identity") or rows ("stratified"), in [0, 1); 0 holds nothing out.
        seed: of the deal.

    Attributes:
        test: int64 [t], rows that no fold holds.
        left_out: rows without a label.

    Behaviour in corner cases: a stratum of fewer classes (or a class of fewer rows) than folds is dealt as far as it
    goes; `unseen` tells which classes a fold validates on and did not train on, under "stratified" a shortfall.

    Raises:
        TypeError: float labels.
        ValueError: fewer classes (groups, rows of every class) than folds and test set need, or an attribute that
            varies within a class under "identity".

    Example:
        >>> from legolas_metric.datasets.folds import KFold
        >>> persons = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
        >>> folds = KFold(persons, folds=4, test_share=0.2)
        >>> len(folds), len(folds.test), [len(validation) for train, validation in folds]
        (4, 2, [2, 2, 2, 2])
        >>> folds.leakage().found
        False

    Source: scikit-learn's `StratifiedKFold`, `StratifiedGroupKFold` and `StratifiedShuffleSplit`.
    """

    @typed
    def __init__(
        self,
        labels: ArrayLike,
        folds: int = 10,
        *,
        how: How = "identity",
        groups: ArrayLike | None = None,
        stratify: ArrayLike | None = None,
        test_share: float | int = 0.2,
        seed: int = 0,
    ) -> None:
        check_choice("how", how, get_args(How))
        check_number("test_share", test_share, least=0.0)
        if test_share >= 1:
            raise ValueError(f"test_share must be below 1, got {test_share}: it is a share of the classes or rows")
        self.folds, self.how, self.seed = check_whole("folds", folds, 2), how, seed
        self.labels = as_labels(labels, None).cpu()
        n = len(self.labels)
        codes = as_groups(groups, n, of="the data set")
        self.groups = None if codes is None else codes.cpu()
        strata = strata_of_rows(stratify, n)
        rows = (self.labels != UNLABELLED).nonzero().flatten()
        self.left_out = n - len(rows)
        if how == "identity":
            test, held = _by_identity(self.labels[rows], strata[rows], folds, float(test_share), seed)
        else:
            own = None if self.groups is None else self.groups[rows]
            test, held = _stratified(self.labels[rows], strata[rows], own, folds, float(test_share), seed)
        self.test: Int64[Tensor, " t"] = rows[test]
        rest = rows[~test]
        self._parts = [Fold(rest[held != number], rest[held == number]) for number in range(folds)]

    def __len__(self) -> int:
        return self.folds

    def __getitem__(self, number: int) -> Fold:
        return self._parts[number]

    def __iter__(self) -> Iterator[Fold]:
        return iter(self._parts)

    def unseen(self, number: int) -> Int64[Tensor, " c"]:
        """Classes that a fold validates on and does not train on: all under "identity", none wanted otherwise."""
        fold = self[number]
        seen, asked = self.labels[fold.train].unique(), self.labels[fold.validation].unique()
        return asked[~torch.isin(asked, seen)]

    def leakage(self, number: int | None = None, *, inputs: ArrayLike | None = None, near: float = 0.999) -> Leakage:
        """What the training part of a fold (of all folds together, by default) shares with its other parts.

        Args:
            number: of the fold.
            inputs: [n, ...] of the data set, to look for near-duplicates among.
            near: cosine of two inputs, of which the mean input is taken, from which they are near-duplicates.
        """
        chosen = self._parts if number is None else [self[number]]
        found = [
            find_leakage(
                {"train": fold.train, "validation": fold.validation, "test": self.test},
                labels=self.labels if self.how == "identity" else None,
                groups=self.groups,
                inputs=inputs,
                near=near,
            )
            for fold in chosen
        ]
        return Leakage.joined(found)


def _by_identity(
    labels: Int64[Tensor, " m"], strata: Int64[Tensor, " m"], folds: int, test_share: float, seed: int
) -> tuple[Tensor, Tensor]:
    """A mask of the test rows, and the fold of each of the others."""
    classes, place = labels.unique(return_inverse=True)
    held_out = round(test_share * len(classes))
    if test_share and not held_out:
        raise ValueError(f"test_share={test_share} of {len(classes)} classes is none: raise it, or set it to 0")
    if len(classes) - held_out < folds:
        raise ValueError(
            f"{len(classes)} classes, {held_out} of them held out, are too few for {folds} folds: choose fewer folds"
        )
    dealt = _deal(strata_of_classes(strata, labels).numpy(), folds, held_out, seed)
    fold = torch.from_numpy(dealt)[place]
    return fold < 0, fold[fold >= 0]


def _deal(strata: np.ndarray, folds: int, held_out: int, seed: int) -> np.ndarray:
    """The fold of each unit, -1 for those held out."""
    from sklearn.model_selection import KFold as PlainKFold
    from sklearn.model_selection import StratifiedKFold

    dealt = np.full(len(strata), -1)
    rest = np.arange(len(strata))
    if held_out:
        rest = np.sort(rest[_shuffle_split(strata, held_out, seed)])
    # Strata smaller than the number of folds are dealt too; scikit-learn refuses where none is larger.
    enough = np.bincount(strata[rest]).max() >= folds
    splitter = (StratifiedKFold if enough else PlainKFold)(folds, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        for number, (_, part) in enumerate(splitter.split(rest, strata[rest])):
            dealt[rest[part]] = number
    return dealt


def _shuffle_split(strata: np.ndarray, held_out: int, seed: int) -> np.ndarray:
    """Positions that are not held out."""
    from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

    count = np.bincount(strata)
    kinds = int((count > 0).sum())
    possible = count[count > 0].min() >= 2 and kinds <= held_out and kinds <= len(strata) - held_out
    splitter = (StratifiedShuffleSplit if possible else ShuffleSplit)(1, test_size=held_out, random_state=seed % 2**32)
    return next(splitter.split(np.zeros(len(strata)), strata))[0]


def _stratified(
    labels: Int64[Tensor, " m"],
    strata: Int64[Tensor, " m"],
    groups: Int64[Tensor, " m"] | None,
    folds: int,
    test_share: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """A mask of the test rows, and the fold of each of the others."""
    kinds = torch.stack([labels, strata], 1).unique(dim=0, return_inverse=True)[1].numpy()
    held_out = round(test_share * len(kinds))
    if groups is None:
        if np.bincount(kinds).max() < folds:
            raise ValueError(f"no class has {folds} rows, one for each fold: choose fewer folds")
        fold = torch.from_numpy(_deal(kinds, folds, held_out, seed))
        return fold < 0, fold[fold >= 0]
    sessions = groups.numpy()
    needed = folds + (1 if held_out else 0)
    if len(np.unique(sessions)) < needed:
        raise ValueError(
            f"{len(np.unique(sessions))} groups are too few for {folds} folds and a test set, which share none: "
            "choose fewer folds, or finer groups"
        )
    test = np.zeros(len(kinds), dtype=bool)
    if held_out:
        test = _deal_groups(kinds, sessions, max(2, round(1 / test_share)), seed) == 0
    fold = torch.from_numpy(_deal_groups(kinds[~test], sessions[~test], folds, seed))
    return torch.from_numpy(test), fold


def _deal_groups(kinds: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each row, groups whole and kinds spread as evenly as that allows."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    if len(np.unique(groups)) < folds:
        raise ValueError(f"{len(np.unique(groups))} groups are left for {folds} folds: choose fewer folds")
    dealt = np.full(len(kinds), -1)
    if np.bincount(kinds).max() >= folds:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    else:
        splitter = GroupKFold(folds)
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        for number, (_, part) in enumerate(splitter.split(kinds, kinds, groups)):
            dealt[part] = number
    return dealt
