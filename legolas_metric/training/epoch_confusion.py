"""What a classifier predicted over an epoch."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from legolas_metric.checks import UNLABELLED, check_whole
from legolas_metric.evaluation.classification import ClassificationReport, classification_report


class EpochConfusion:
    """Counts predictions over an epoch, by torchmetrics' confusion matrix; classes without rows stay out of the means.

    Args:
        num_classes: declared.

    Args:
        num_classes: declared, as the highest label that happens to occur says little.

    Raises:
        ValueError: fewer than two classes.

    Example:
        >>> import torch
        >>> from legolas_metric.training.epoch_confusion import EpochConfusion
        >>> counted = EpochConfusion(3)
        >>> counted.update(torch.eye(3)[[0, 0]], torch.tensor([0, 1]))
        >>> {name: round(value, 2) for name, value in counted.values().items() if name in ("accuracy", "mpca")}
        {'accuracy': 0.5, 'mpca': 0.5}
        >>> counted.only_class()
        0

    Source: ours.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = check_whole("num_classes", num_classes, 2)
        self._matrix = MulticlassConfusionMatrix(num_classes, ignore_index=UNLABELLED)

    def update(self, logits: Float[Tensor, "b c"], labels: Int64[Tensor, " b"]) -> None:
        """Count a batch; rows labelled -1 are left out."""
        self._matrix.update(logits.detach().argmax(1).cpu(), labels.detach().cpu())

    def reset(self) -> None:
        """Begin a new epoch."""
        self._matrix.reset()

    @property
    def counts(self) -> Int64[Tensor, "c c"]:
        """Rows of class i that were called j."""
        return self._matrix.confmat.long()

    def report(self) -> ClassificationReport | None:
        """The epoch's `ClassificationReport`; None before any labelled row."""
        counts = self.counts
        if not int(counts.sum()):
            return None
        pairs = torch.arange(counts.numel()).repeat_interleave(counts.flatten())
        c = self.num_classes
        return classification_report(pairs % c, pairs // c, num_classes=c)

    def values(self) -> dict[str, float]:
        """Figures by name; precision of a class that was never predicted counts as 0, as in scikit-learn."""
        report = self.report()
        if report is None:
            return {}
        there = report.support > 0
        called = report.confusion.sum(0)
        precision = report.confusion.diagonal().double() / called.clamp_min(1)
        return report.scalars() | {
            "mpca": report.mpca,
            "precision": float(precision[there].mean()),
            "recall": report.balanced_accuracy,
            "f1_spread": float(report.f1[there].std(unbiased=False)),
            "empty_classes": float(report.empty),
        }

    def only_class(self) -> int | None:
        """The class that was predicted for every row, where the rows are of several; None otherwise."""
        counts = self.counts
        predicted = counts.sum(0).nonzero().flatten()
        return int(predicted[0]) if len(predicted) == 1 and int((counts.sum(1) > 0).sum()) > 1 else None
