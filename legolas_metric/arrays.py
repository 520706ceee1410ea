"""NumPy's view of a tensor on a processor: torch takes three times as long for a short step, and five for sorting."""

from typing import Any

from torch import Tensor


def at_hand(values: Tensor | float | None) -> Any:
    """A tensor of a processor as NumPy's array of the same memory, anything else as it is.

    For steps that are spelled alike for both: indexing, comparing, `min`, `argsort`. Not on the way of a loss: inside
    a transform of `torch.func` no tensor has memory.

    Example:
        >>> import torch
        >>> rows = torch.tensor([3.0, 1.0])
        >>> at_hand(rows)[:] += 1
        >>> rows.tolist(), at_hand(None)
        ([4.0, 2.0], None)
    """
    return values.numpy() if isinstance(values, Tensor) and values.is_cpu else values
