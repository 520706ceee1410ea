"""A window's upper end as a ceiling on the scores of each anchor.

Letters: n anchors.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from legolas_metric.index.exact.table import Frame
from legolas_metric.index.request import Bounds


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Scores whose upper bound is below `sure` are below the window's end, those whose lower bound is above `possible`
    are not.
    """

    sure: Float32[Tensor, " n"]
    possible: Float32[Tensor, " n"]


def floors_of(bounds: Bounds | None, frame: Frame, like: Float32[Tensor, " n"]) -> Float32[Tensor, " n"]:
    """The scores below which a window holds nothing; -inf without one."""
    if bounds is None:
        return torch.full_like(like, -torch.inf)
    low = frame.score(bounds[1] if frame.sign < 0 else bounds[0])
    return _moved(low, -1)


def ceiling_of(bounds: Bounds | None, frame: Frame) -> Ceiling | None:
    """The ceilings of a window; None where there is none, or none that is finite."""
    if bounds is None:
        return None
    high = frame.score(bounds[0] if frame.sign < 0 else bounds[1])
    if bool((high == torch.inf).all()):
        return None
    return Ceiling(_moved(high, -1), _moved(high, 1))


def _moved(bound: Float64[Tensor, " n"], direction: int) -> Float32[Tensor, " n"]:
    """A bound moved by more than the rounding to float32."""
    return torch.where(bound.isfinite(), bound + direction * 2.0**-20 * bound.abs(), bound).float()
