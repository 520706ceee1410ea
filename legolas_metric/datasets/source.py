"""One view of what users have: any map-style data set, or arrays."""

from typing import Any

from torch.utils.data import Dataset, TensorDataset

from legolas_metric.checks import ArrayLike, as_tensor


class Inputs(Dataset[Any]):
    """The inputs of a data set, one by one: its items, or the first part of items such as (x, y).

    Args:
        source: any map-style `torch.utils.data.Dataset`, or an array whose first axis counts the examples. Integers
            such as uint8 pixels stay integers.

    Raises:
        TypeError: an iterable data set, which has no length and no rows to name.
        ValueError: nothing in it.

    Example:
        >>> from legolas_metric.datasets import Inputs
        >>> len(Inputs([[1.0, 2.0], [3.0, 4.0]]))
        2
    """

    def __init__(self, source: Dataset | ArrayLike) -> None:
        data: Any = source if isinstance(source, Dataset) else TensorDataset(as_tensor(source, name="the data set"))
        if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
            raise TypeError(f"expected a map-style data set with len() and [], got {type(source).__name__}")
        if len(data) == 0:
            raise ValueError("the data set is empty")
        self.source = data

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> Any:
        item = self.source[row]
        return item[0] if isinstance(item, tuple | list) else item
