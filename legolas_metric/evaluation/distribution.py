"""How rows are spread over classes, and what that does to training and to averages."""

from dataclasses import dataclass

import torch

from legolas_metric.checks import ArrayLike, check_whole
from legolas_metric.datasets.labels import class_sizes
from legolas_metric.rows import as_labels
from legolas_metric.signatures import typed

_IMBALANCE = 10.0
_DOMINANT = 0.5
_MANY = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDistribution:
    """Rows by class.

    Attributes:
        rows: labelled rows.
        unlabelled: rows of label -1.
        classes: classes that have rows.
        empty: declared classes without rows (0 where no number was declared).
        singletons: classes of one row: never a positive, never answerable.
        smallest, median, largest: rows of a class.
        imbalance: largest / smallest.
        effective_classes: exp(entropy) of the class shares; equals `classes` when balanced.
        dominant: share of the largest class: the accuracy of always guessing it.
        warnings: what follows, a sentence each.

    Example:
        >>> found = class_distribution([0, 0, 1, 1, -1], num_classes=3)
        >>> found.classes, found.empty, found.unlabelled, round(found.effective_classes, 6)
        (2, 1, 1, 2.0)

    Source: ours; of `effective_classes`, Hill (1973), Diversity and Evenness.
    """

    rows: int
    unlabelled: int
    classes: int
    empty: int
    singletons: int
    smallest: int
    median: float
    largest: int
    imbalance: float
    effective_classes: float
    dominant: float
    warnings: tuple[str, ...]


@typed
def class_distribution(labels: ArrayLike, *, num_classes: int | None = None) -> ClassDistribution:
    """Describe how rows are spread over classes.

    Args:
        labels: [n] integers, -1 for unlabelled; or names.
        num_classes: declared number of classes, to count empty ones.

    Raises:
        TypeError: labels that are neither integers nor names; a number of classes that is not whole.
        ValueError: no labelled row, or a label beyond `num_classes`.

    Example:
        >>> class_distribution([0, 0, 0, 1]).warnings[0]
        '1 of 2 classes have one row: no positives, so they are neither trained nor measured'

    Source: ours; of `effective_classes`, Hill (1973), Diversity and Evenness.
    """
    values = as_labels(labels, None)
    if num_classes is not None:
        num_classes = check_whole("num_classes", num_classes, 1)
    counts = class_sizes(values)[1]
    if len(counts) == 0:
        raise ValueError("no labelled row: every label is -1")
    if num_classes is not None and int(values.max()) >= num_classes:
        raise ValueError(f"labels must lie below num_classes={num_classes}, got {int(values.max())}")
    labelled = int(counts.sum())
    share = counts.double() / labelled
    found = {
        "classes": len(counts),
        "empty": 0 if num_classes is None else num_classes - len(counts),
        "singletons": int((counts == 1).sum()),
    }
    imbalance, dominant = float(counts.max() / counts.min()), float(share.max())
    return ClassDistribution(
        rows=labelled,
        unlabelled=len(values) - labelled,
        **found,
        smallest=int(counts.min()),
        median=float(counts.double().quantile(0.5)),
        largest=int(counts.max()),
        imbalance=imbalance,
        effective_classes=float(torch.exp(-(share * share.log()).sum())),
        dominant=dominant,
        warnings=_warnings(**found, imbalance=imbalance, dominant=dominant),
    )


def _warnings(*, classes: int, empty: int, singletons: int, imbalance: float, dominant: float) -> tuple[str, ...]:
    said = []
    if singletons > _MANY * classes:
        said.append(
            f"{singletons} of {classes} classes have one row: no positives, so they are neither trained nor measured"
        )
    if empty:
        said.append(f"{empty} declared classes have no rows: averages over classes must leave them out")
    if classes > 1 and dominant > _DOMINANT:
        said.append(f"one class holds {dominant:.0%} of the rows: always guessing it is right that often")
    if imbalance > _IMBALANCE:
        said.append(
            f"the largest class has {imbalance:.0f} times the rows of the smallest: balance batches (PKSampler)"
        )
    return tuple(said)
