"""Pictures turned by quarters as classes of their own: four times as many, and harder to tell apart."""

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset

from legolas_metric.checks import UNLABELLED, ArrayLike
from legolas_metric.datasets.source import Inputs, Source
from legolas_metric.rows import as_groups, as_labels

TURNS = 4


class RotatedClasses(Dataset[tuple[Tensor, int]]):
    """A data set four times over, turned by 0, 90, 180 and 270 degrees, in which each turn makes new classes.

        item q n + i  =  (item i turned by q quarters, its label + q (largest label + 1))

    For training only, and where turned pictures are other things: characters, faces, products seen from one side. What
    looks the same when turned (a circle, a pill) becomes a class that is a negative of itself, so leave such classes
    out or don't use this. A look at the whole set costs four times as much.

    Args:
        dataset: of n pictures [..., s, s], an array or any object with `len` and `[]`; items x or (x, ...).
        labels: [n] integers or names; -1 stays unlabelled.

    Attributes:
        labels: int64 [4 n].

    Raises:
        TypeError, ValueError: pictures that are no tensors or not square, labels of another length.

    Example:
        >>> import torch
        >>> from legolas_metric.datasets import RotatedClasses
        >>> turned = RotatedClasses(torch.arange(8.0).view(2, 2, 2), [0, 1])
        >>> len(turned), turned.labels.tolist()
        (8, [0, 1, 2, 3, 4, 5, 6, 7])
        >>> turned[3]
        (tensor([[5., 7.],
                [4., 6.]]), 3)

    Source: ours, after the class augmentation of few-shot learning (Santoro et al. 2016, arXiv:1605.06065).
    """

    def __init__(self, dataset: Source, labels: ArrayLike) -> None:
        self.inputs = Inputs(dataset)
        own = as_labels(labels, len(self.inputs), of="the data set")
        first = self.inputs[0]
        if not isinstance(first, Tensor):
            raise TypeError(f"pictures must be tensors to be turned, got {type(first).__name__}: convert them first")
        if first.ndim < 2 or first.shape[-1] != first.shape[-2]:
            raise ValueError(f"pictures must be square to be turned by a quarter, got shape {tuple(first.shape)}")
        step = int(own.max()) + 1
        turned = [torch.where(own == UNLABELLED, own, own + turn * step) for turn in range(TURNS)]
        self.labels: Int64[Tensor, " m"] = torch.cat(turned)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        label = int(self.labels[row])  # an IndexError ends an iteration
        turn, own = divmod(row % len(self), len(self.inputs))
        return torch.rot90(self.inputs[own], turn, (-2, -1)), label

    def repeated(self, groups: ArrayLike) -> Int64[Tensor, " m"]:
        """Groups of the n pictures, for the 4 n turned ones.

        Raises:
            TypeError: no groups.
        """
        given = as_groups(groups, len(self.inputs), of="the data set")
        if given is None:
            raise TypeError("groups must be one for each picture, got None")
        return given.repeat(TURNS)
