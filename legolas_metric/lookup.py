"""Where are these ids among those: the one answer to that question."""

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
    return torch.where(found, place if order is None else order[place], 0), found
