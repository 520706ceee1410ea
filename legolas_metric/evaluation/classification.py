"""How well a simple classifier on the embeddings does, class by class, with empty classes left out and counted."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import (
    ArrayLike,
    Metric,
    check_dimension,
    check_metric,
    check_number,
    check_whole,
)
from legolas_metric.evaluation.ranking_report import WORSE
from legolas_metric.geometry import chunks
from legolas_metric.index.exact import ExactIndex
from legolas_metric.measures import worse_than_baseline
from legolas_metric.names import Known, Named, Names, as_named, known_by
from legolas_metric.rows import as_float_rows, as_prepared
from legolas_metric.signatures import typed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassificationReport:
    """Predictions against labels. A class without rows has no accuracy: NaN, left out of the means, and counted.

    Attributes:
        accuracy: share of rows that are right.
        balanced_accuracy: mean of `class_accuracy` over the classes that have rows (also called MPCA).
        macro_f1: mean of `f1` over the classes that have rows.
        class_accuracy: [C] recall; NaN for a class without rows.
        f1: [C] 2 confusion[c, c] / (rows of c + rows called c); NaN for a class without rows.
        support: [C] rows of each class.
        confusion: [C, C] rows of label i that were called j.
        empty: classes without rows.
        label_names: what the classes are called, `label_names[class]`, where labels came as names; else None.
        baseline: the report of the untrained encoder; None where none was given.

    Example:
        >>> classification_report([0, 2, 2], [0, 0, 2], num_classes=3).class_accuracy.tolist()
        [0.5, nan, 1.0]

    Source: scikit-learn's measures.
    """

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    class_accuracy: Float64[Tensor, " c"] = field(repr=False)
    f1: Float64[Tensor, " c"] = field(repr=False)
    support: Int64[Tensor, " c"] = field(repr=False)
    confusion: Int64[Tensor, "c c"] = field(repr=False)
    empty: int
    label_names: Names | None = field(default=None, repr=False)
    baseline: "ClassificationReport | None" = None

    @property
    def mpca(self) -> float:
        """Mean per-class accuracy: another name for `balanced_accuracy`."""
        return self.balanced_accuracy

    def scalars(self) -> dict[str, float]:
        """The means, by name, for tables and JSON."""
        return {"accuracy": self.accuracy, "balanced_accuracy": self.balanced_accuracy, "macro_f1": self.macro_f1}

    def warnings(self) -> tuple[str, ...]:
        """What makes these figures weaker than they look, a sentence each."""
        before = {} if self.baseline is None else self.baseline.scalars()
        said = [
            worse_than_baseline(name, value, before[name])
            for name, value in self.scalars().items()
            if name in before and value < before[name] - WORSE
        ]
        if self.empty:
            said.append(f"{self.empty} of {len(self.support)} classes have no rows and are left out of the means")
        return tuple(said)


Untrained = tuple[ArrayLike, ArrayLike] | ClassificationReport | None


@typed
def classification_report(
    predicted: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    baseline: ArrayLike | ClassificationReport | None = None,
) -> ClassificationReport:
    """Compare predictions with labels.

    Args:
        predicted: [n] in 0 .. num_classes - 1, or names.
        labels: [n] in 0 .. num_classes - 1, or names, which are numbered in ascending order.
        num_classes: declared, as the highest label that happens to occur says little.
        baseline: [n] what was predicted from the untrained encoder's embeddings, or the report on it.

    Raises:
        TypeError: values that are neither integers nor names.
        ValueError: lengths that differ, nothing to compare, or values outside 0 .. num_classes - 1.

    Example:
        >>> report = classification_report([0, 1, 1], [0, 0, 1], num_classes=3)
        >>> report.balanced_accuracy, report.empty
        (0.75, 1)

    Source: scikit-learn's measures.
    """
    num_classes = check_whole("num_classes", num_classes, 1)
    given = _classes("labels", labels, None, num_classes)
    truth = given.codes
    if len(truth) == 0:
        raise ValueError("nothing to compare: labels are empty")
    called = _classes("predicted", predicted, len(truth), num_classes, of="labels", known=known_by(given.names))
    return _report(called.codes.to(truth.device), truth, num_classes, called.names, baseline)


def _report(
    called: Int64[Tensor, " n"],
    truth: Int64[Tensor, " n"],
    num_classes: int,
    names: Names | None,
    baseline: ArrayLike | ClassificationReport | None,
) -> ClassificationReport:
    if baseline is not None and not isinstance(baseline, ClassificationReport):
        before = _classes("predicted", baseline, len(truth), num_classes, of="labels", known=known_by(names))
        baseline = _report(before.codes.to(truth.device), truth, num_classes, names, None)
    confusion = torch.bincount(truth * num_classes + called, minlength=num_classes**2).view(num_classes, num_classes)
    support, hits = confusion.sum(1), confusion.diagonal()
    there = support > 0
    accuracy = torch.where(there, hits.double() / support, torch.nan)
    f1 = torch.where(there, 2 * hits.double() / (support + confusion.sum(0)), torch.nan)
    return ClassificationReport(
        accuracy=float(hits.sum()) / len(truth),
        balanced_accuracy=float(accuracy[there].mean()),
        macro_f1=float(f1[there].mean()),
        class_accuracy=accuracy,
        f1=f1,
        support=support,
        confusion=confusion,
        empty=int((~there).sum()),
        label_names=names,
        baseline=baseline,
    )


@typed
def knn_probe(
    train: ArrayLike,
    train_labels: ArrayLike,
    test: ArrayLike,
    test_labels: ArrayLike,
    *,
    num_classes: int,
    k: int = 20,
    metric: Metric = "cosine",
    baseline: Untrained = None,
) -> ClassificationReport:
    """Classify test rows by the vote of their k nearest training rows; a tie goes to the nearest of the tied classes.

    Peak memory, in bytes: 8 d (n + m) + 12 m k + 400 MB.

    Args:
        train, train_labels: [n, d] and [n].
        test, test_labels: [m, d] and [m].
        num_classes: labels lie in 0 .. num_classes - 1, or are so many names.
        k: neighbours that vote.
        metric: "cosine", "dot" or "euclidean".
        baseline: (train, test) of the same rows by the untrained encoder, or its report.

    Raises:
        TypeError, ValueError: as `EmbeddingBank`; k beyond the training rows; labels outside 0 .. num_classes - 1.

    Example:
        >>> import torch
        >>> knn_probe(torch.eye(2), [0, 1], torch.tensor([[2.0, 1.0]]), [0], num_classes=2, k=1).accuracy
        1.0

    Source: Cover and Hart (1967), Nearest Neighbor Pattern Classification.
    """
    num_classes, k = check_whole("num_classes", num_classes, 1), check_whole("k", k, 1)
    given, asked = _both(train, train_labels, test, test_labels, num_classes)
    if k > len(given.codes):
        raise ValueError(f"k={k} neighbours of {len(given.codes)} training rows: choose a smaller k")
    before = _untrained(baseline)
    if isinstance(before, tuple):
        before = knn_probe(before[0], given.codes, before[1], asked.codes, num_classes=num_classes, k=k, metric=metric)
    found = ExactIndex(metric=metric).fit(train).search(test, k).ids
    near = given.codes.to(found.device)[found]
    called = torch.cat(
        [_voted(near[part], num_classes) for part in chunks(len(near), rows_for(BLOCK, 24 * num_classes))]
    )
    return _report(called, asked.codes.to(called.device), num_classes, asked.names, before)


def _voted(near: Int64[Tensor, "m k"], num_classes: int) -> Int64[Tensor, " m"]:
    """The class that most of the neighbours have; of several, that of the nearest."""
    m, k = near.shape
    votes = near.new_zeros(m, num_classes).scatter_add_(1, near, torch.ones_like(near))
    place = torch.arange(k, device=near.device).expand_as(near)
    first = torch.full_like(votes, k).scatter_reduce_(1, near, place, "amin")
    return (votes.mul_(k + 1).sub_(first)).argmax(1)


@typed
def linear_probe(
    train: ArrayLike,
    train_labels: ArrayLike,
    test: ArrayLike,
    test_labels: ArrayLike,
    *,
    num_classes: int,
    metric: Metric = "cosine",
    strength: float | int = 1.0,
    max_iter: int = 1000,
    baseline: Untrained = None,
) -> ClassificationReport:
    """Classify test rows by multinomial logistic regression on the training rows (scikit-learn, L-BFGS).

    Args:
        train, train_labels: [n, d] and [n].
        test, test_labels: [m, d] and [m].
        num_classes: labels lie in 0 .. num_classes - 1, or are so many names.
        metric: under "cosine" the rows are normalised first.
        strength: scikit-learn's C, the inverse of the regularisation.
        max_iter: steps of the solver.
        baseline: (train, test) of the same rows by the untrained encoder, or its report.

    Raises:
        TypeError, ValueError: as `EmbeddingBank`; fewer than two training classes; labels outside their range; rows of
            two dimensions; a strength or a number of steps that is not above 0.

    Example:
        >>> import torch
        >>> linear_probe(torch.eye(2), [0, 1], torch.tensor([[2.0, 1.0]]), [0], num_classes=2).accuracy
        1.0

    Source: Alain and Bengio (2016), Understanding intermediate layers using linear classifier probes, arXiv:1610.01644.
    """
    from sklearn.linear_model import LogisticRegression  # half a second, that only those who ask for it should pay

    check_metric(metric)
    check_number("strength", strength, above=0.0)
    max_iter = check_whole("max_iter", max_iter, 1)
    num_classes = check_whole("num_classes", num_classes, 1)
    given, asked = _both(train, train_labels, test, test_labels, num_classes)
    known = given.codes.cpu().numpy()
    if len(np.unique(known)) < 2:
        raise ValueError("train_labels hold one class: a linear probe needs two or more")
    before = _untrained(baseline)
    if isinstance(before, tuple):
        before = linear_probe(
            before[0],
            given.codes,
            before[1],
            asked.codes,
            num_classes=num_classes,
            metric=metric,
            strength=strength,
            max_iter=max_iter,
        )
    x, z = (as_prepared(rows, metric, name=name).cpu() for rows, name in ((train, "train"), (test, "test")))
    check_dimension(z, x, names=("test", "train"))
    model = LogisticRegression(C=strength, max_iter=max_iter).fit(x.numpy(), known)
    called = torch.from_numpy(model.predict(z.numpy()).astype(np.int64))
    return _report(called, asked.codes.cpu(), num_classes, asked.names, before)


def _untrained(baseline: object) -> Untrained:
    """A baseline as it was given, if it is one."""
    if isinstance(baseline, list | tuple) and len(baseline) == 2:
        return baseline[0], baseline[1]
    if baseline is None or isinstance(baseline, ClassificationReport):
        return baseline
    raise TypeError(
        "baseline must be (train, test), the untrained encoder's embeddings of both, or a ClassificationReport, "
        f"got {type(baseline).__name__}"
    )


def _both(
    train: ArrayLike, train_labels: ArrayLike, test: ArrayLike, test_labels: ArrayLike, num_classes: int
) -> tuple[Named, Named]:
    """Labels of training and of test rows; names are numbered alike on both sides."""
    n, m = (len(as_float_rows(rows, name=name)) for rows, name in ((train, "train"), (test, "test")))
    given = _classes("train_labels", train_labels, n, num_classes, of="train")
    asked = _classes("test_labels", test_labels, m, num_classes, of="test", known=known_by(given.names))
    return given, asked


def _classes(
    name: str,
    values: ArrayLike,
    n: int | None,
    num_classes: int,
    *,
    of: str = "embeddings",
    known: Known = None,
) -> Named:
    """Classes in 0 .. num_classes - 1, or names of so many."""
    found = as_named(values, n, name=name, of=of, known=known)
    codes = found.codes
    if len(codes) and (int(codes.min()) < 0 or int(codes.max()) >= num_classes):
        raise ValueError(f"{name} must lie in 0 .. {num_classes - 1} (num_classes={num_classes})")
    return found
