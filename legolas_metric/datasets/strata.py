"""An attribute whose shares are kept equal over folds: of each row, and of each class."""

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike
from legolas_metric.names import as_named


def strata_of_rows(stratify: ArrayLike | None, n: int) -> Int64[Tensor, " n"]:
    """The values numbered, for booleans, integers and names; all alike where there is no attribute."""
    if stratify is None:
        return torch.zeros(n, dtype=torch.int64)
    plain = stratify if isinstance(stratify, Tensor | np.ndarray) else np.asarray(stratify)
    if plain.dtype in (torch.bool, np.dtype(bool)):
        plain = torch.as_tensor(plain).long()
    return as_named(plain, n, name="stratify", of="the data set").codes.cpu()


def strata_of_classes(strata: Int64[Tensor, " m"], labels: Int64[Tensor, " m"]) -> Int64[Tensor, " c"]:
    """The value of each class, classes in ascending order.

    Raises:
        ValueError: a class whose rows have several values.
    """
    classes, place = labels.unique(return_inverse=True)
    low = torch.full((len(classes),), torch.iinfo(torch.int64).max).scatter_reduce_(0, place, strata, "amin")
    high = torch.full((len(classes),), -1).scatter_reduce_(0, place, strata, "amax")
    if bool((low != high).any()):
        first = int(classes[(low != high).nonzero()[0, 0]])
        raise ValueError(
            f"stratify varies within a class (first: {first}): give one value for each class, such as whether any of "
            "its rows has the attribute"
        )
    return high
