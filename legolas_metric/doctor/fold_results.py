"""What the folds of `run_folds`, and so of `legolas-metric kfold`, came to."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from legolas_metric.training.fold_runs import RESULT, FoldResult, FoldsResult, read_folds

_RANKINGS = ("rank_at_1", "map_at_r")


def is_fold(folder: Path) -> bool:
    """Whether it is the folder of a fold that is done."""
    return (folder / RESULT).is_file()


def folds_of(folder: Path) -> dict[str, FoldResult]:
    """The results of a folder's folds, by the names of their folders."""
    return {f"fold_{fold.number}": fold for fold in read_folds(folder).folds}


def pooled(folds: Iterable[FoldResult]) -> dict[str, tuple[float, float, float]]:
    """Name -> mean over the queries of all folds, and the ends of its interval over identities; of rankings."""
    done = FoldsResult(tuple(folds))
    if not done.folds:
        return {}
    known = [name for name in _RANKINGS if all(name in fold.per_query for fold in done.folds)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of few identities, whose interval is wide enough
        return {name: (done.pooled(name), *done.interval(name)) for name in known}
