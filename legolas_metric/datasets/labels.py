"""Which rows belong to which class."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike
from legolas_metric.rows import as_labels


def count_of(labels: ArrayLike) -> int:
    """How many labels there are; raise where they can't be counted."""
    try:
        return len(labels)
    except TypeError:
        raise TypeError(f"labels must be a row of labels, one for each example, got {labels!r}") from None


def class_sizes(labels: Int64[Tensor, " n"]) -> tuple[Int64[Tensor, " c"], Int64[Tensor, " c"]]:
    """The classes, ascending, and how many rows each has; rows labelled -1 belong to none.

    Example:
        >>> import torch
        >>> classes, sizes = class_sizes(torch.tensor([7, 3, 7, -1]))
        >>> classes.tolist(), sizes.tolist()
        ([3, 7], [1, 2])
    """
    return labels[labels != UNLABELLED].unique(return_counts=True)


def largest_class(labels: Int64[Tensor, " n"]) -> int:
    """Rows of the largest class; 0 where no row has a label."""
    return int(class_sizes(labels)[1].max()) if (labels != UNLABELLED).any() else 0


@dataclass(frozen=True, slots=True)
class LabelIndex:
    """Rows by class, in two flat arrays: the rows of class `classes[c]` are `rows[offsets[c]:offsets[c + 1]]`.

    Rows labelled -1 belong to no class. Classes ascend, and so do the rows within one.

    Example:
        >>> index = LabelIndex.of([7, 3, 7, -1])
        >>> index.classes.tolist(), index.counts.tolist(), index.rows_of(1).tolist()
        ([3, 7], [1, 2], [0, 2])

    Source: ours.
    """

    classes: Int64[Tensor, " c"]
    offsets: Int64[Tensor, " c1"]
    rows: Int64[Tensor, " m"]

    @classmethod
    def of(cls, labels: ArrayLike) -> "LabelIndex":
        """Index the labels of a data set.

        Raises:
            TypeError: labels that are not integers.
            ValueError: not 1-D, or a label below -1.
        """
        values = as_labels(labels, count_of(labels))
        ordered, rows = values.sort(stable=True)
        labelled = ordered != UNLABELLED
        classes, counts = ordered[labelled].unique_consecutive(return_counts=True)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(classes, offsets, rows[labelled])

    @property
    def counts(self) -> Int64[Tensor, " c"]:
        """Rows of each class."""
        return self.offsets.diff()

    def __len__(self) -> int:
        return len(self.classes)

    def rows_of(self, c: int) -> Int64[Tensor, " m"]:
        """Rows of the c-th class, ascending."""
        return self.rows[int(self.offsets[c]) : int(self.offsets[c + 1])]
