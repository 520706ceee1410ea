"""One view of what users have: any object with `len` and `[]`, or arrays."""

from numbers import Number
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from legolas_metric.checks import ArrayLike, as_tensor

Source = Dataset | ArrayLike | Any
"""What holds the examples of a data set: an array, or any object with `len` and `[]`."""


class Inputs(Dataset[Any]):
    """The inputs of a data set, one by one: its items, or the first part of items such as (x, y).

    Args:
        source: an array whose first axis counts the examples (integers such as uint8 pixels stay integers), or any
            object with `len` and `[]`: a map-style `Dataset`, one of Hugging Face's, a list of texts. Of an item that
            is a tuple or list the first part is the input, so a tuple of several inputs comes as ((a, b), y).

    Raises:
        TypeError: an iterable data set, which has no length and no rows to name; a `DataLoader`, whose order and
            batches are its own.
        ValueError: nothing in it.

    Example:
        >>> from legolas_metric.datasets import Inputs
        >>> len(Inputs([[1.0, 2.0], [3.0, 4.0]]))
        2

    Source: ours.
    """

    def __init__(self, source: Source) -> None:
        data = _as_items(source)
        if len(data) == 0:
            raise ValueError("the data set is empty")
        self.source = data

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> Any:
        item = self.source[row]
        return item[0] if isinstance(item, tuple | list) else item


class Whole:
    """A list whose items are inputs as a whole, also where they are lists themselves: rows of different lengths."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> tuple[Any]:
        return (self.items[row],)


def _as_items(source: Source) -> Any:
    """An object with `len` and `[]` that has the examples."""
    if isinstance(source, DataLoader):
        raise TypeError(
            "expected a data set, got a DataLoader, whose order and batches are its own: pass loader.dataset, with "
            "batch_size, collate_fn and num_workers beside it"
        )
    if isinstance(source, Tensor | np.ndarray) and source.ndim:
        return TensorDataset(as_tensor(source, name="the data set"))
    if isinstance(source, list | tuple) and (not source or _is_numeric(source[0])):
        try:
            return TensorDataset(as_tensor(source, name="the data set"))
        except (TypeError, ValueError):  # the rows differ in length
            return Whole(source)
    single = isinstance(source, str | IterableDataset) or getattr(source, "ndim", 1) == 0
    if single or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise TypeError(
            f"dataset must be an array, or a map-style data set with len() and [], got {type(source).__name__}"
        )
    return source


def _is_numeric(item: Any) -> bool:
    """Whether something is a number, or nested lists of numbers."""
    return isinstance(item, Number) or (isinstance(item, list | tuple) and bool(item) and all(map(_is_numeric, item)))
