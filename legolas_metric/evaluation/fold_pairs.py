"""Rows dealt to folds of whole identities, and the verification of some of the folds."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, Metric, as_integers
from legolas_metric.datasets.labels import class_sizes
from legolas_metric.datasets.splits import class_disjoint_folds
from legolas_metric.evaluation.given_scores import verification_from_scores
from legolas_metric.evaluation.pairs import by_label, genuine_scores, impostor_scores
from legolas_metric.evaluation.verification import evaluate_verification
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.rows import Rows


def by_fold(rows: Rows, folds: int | ArrayLike, seed: int) -> list[Rows]:
    """The rows of each fold, in order of their labels.

    Raises:
        ValueError: fewer than two folds, or an identity of which two folds hold rows.
    """
    assert rows.labels is not None
    if isinstance(folds, int):
        return [by_label(rows[test]) for _, test in class_disjoint_folds(rows.labels, folds, seed=seed)]
    fold = as_integers(folds, len(rows), name="folds").to(rows.labels.device)
    numbers = fold[fold >= 0].unique()
    if len(numbers) < 2:
        raise ValueError(f"folds names {len(numbers)} fold: one is needed to choose on, and another to judge")
    _check_whole(rows, fold)
    return [by_label(rows[(fold == number).nonzero().flatten()]) for number in numbers.tolist()]


def _check_whole(rows: Rows, fold: Int64[Tensor, " n"]) -> None:
    assert rows.labels is not None
    inside = (fold >= 0) & (rows.labels != UNLABELLED)
    homes = torch.stack([rows.labels[inside], fold[inside]], 1).unique(dim=0)[:, 0]
    several = homes[1:][homes[1:] == homes[:-1]].unique().tolist()
    if several:
        shown = several if rows.label_names is None else [rows.label_names[code] for code in several]
        raise ValueError(
            f"{len(several)} identities have rows in several folds (first: {', '.join(map(str, shown[:5]))}): a "
            "threshold must be judged on people whom it was not chosen on; deal whole identities"
        )


def report_of_folds(parts: Sequence[Rows], metric: Metric, *, apart: bool) -> VerificationReport:
    """The verification of the rows of several folds: of all their pairs or, apart, of the pairs within a fold."""
    if not apart:
        rows = _joined(parts)
        return evaluate_verification(rows.embeddings, rows.labels, groups=rows.groups, metric=metric)
    genuine, impostor = (
        torch.cat([block.clone() for part in parts for block in scores(part, metric)()])
        for scores in (genuine_scores, impostor_scores)
    )
    same = torch.cat([torch.ones(len(genuine)), torch.zeros(len(impostor))]).bool()
    return replace(verification_from_scores(torch.cat([genuine, impostor]), same), metric=metric)


def _joined(parts: Sequence[Rows]) -> Rows:
    first = parts[0]
    columns = {
        name: None if getattr(first, name) is None else torch.cat([getattr(part, name) for part in parts])
        for name in ("embeddings", "labels", "ids", "groups")
    }
    return replace(first, **columns)


def has_both_kinds(rows: Rows) -> bool:
    """Whether some pair is genuine, and some an impostor's. Groups are not looked at."""
    assert rows.labels is not None
    known, sizes = class_sizes(rows.labels)
    return bool((sizes > 1).any()) and (len(known) > 1 or int(sizes.sum()) < len(rows))
