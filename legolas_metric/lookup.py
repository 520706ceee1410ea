"""Where are these ids among those, and which rows bear one value: the one answer to each of these questions."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


def lookup(names: Int64[Tensor, "*b"], among: Int64[Tensor, " n"]) -> tuple[Int64[Tensor, "*b"], Bool[Tensor, "*b"]]:
    """The place of each name among others, and whether it is there; a place that means nothing is 0.

    Of equal names among the others the first is taken. On the device of `among`; O((n + b) log n).

    Example:
        >>> import torch
        >>> place, found = lookup(torch.tensor([7, 8]), torch.tensor([3, 7, 5]))
        >>> place.tolist(), found.tolist()
        ([1, 0], [True, False])
    """
    names = names.to(among.device)
    if not len(among):
        return torch.zeros_like(names), torch.zeros_like(names, dtype=torch.bool)
    ascending = bool((among[1:] >= among[:-1]).all())  # as ids mostly are: then nothing needs sorting
    ordered, order = (among, None) if ascending else among.sort(stable=True)
    place = torch.searchsorted(ordered, names.contiguous()).clamp_max_(len(among) - 1)
    found = ordered[place] == names
    return (place if order is None else order[place]) * found, found


def runs_of(
    values: Int64[Tensor, "*b"], ascending: Int64[Tensor, " n"]
) -> tuple[Int64[Tensor, "*b"], Int64[Tensor, "*b"]]:
    """Where the run of each value begins in an ascending array, and how long it is: 0 where the value is not there.

    Example:
        >>> import torch
        >>> start, size = runs_of(torch.tensor([5, 4]), torch.tensor([3, 5, 5]))
        >>> start.tolist(), size.tolist()
        ([1, 1], [2, 0])
    """
    start = torch.searchsorted(ascending, values)
    return start, torch.searchsorted(ascending, values, right=True) - start


def inverse(order: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Where each of n rows stands in an order of all of them.

    Example:
        >>> import torch
        >>> inverse(torch.tensor([2, 0, 1])).tolist()
        [1, 2, 0]
    """
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def turns(grouped: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """The place of each entry among those of its value, where entries of one value stand together.

    Example:
        >>> import torch
        >>> turns(torch.tensor([7, 7, 2, 2, 2])).tolist()
        [0, 1, 0, 1, 2]
    """
    place = torch.arange(len(grouped), device=grouped.device)
    new = torch.ones_like(grouped, dtype=torch.bool)
    new[1:] = grouped[1:] != grouped[:-1]
    return place - place.masked_fill(~new, 0).cummax(0).values
