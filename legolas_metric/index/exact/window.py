"""A window's upper end as a ceiling on the scores of each anchor.

The ceiling is subtracted from a tile before it is reduced. The bits of a float, read as an integer, put every negative
number below every positive one and the smallest magnitude first among the negative ones: so the *least* bits of a group
belong to its greatest score below the ceiling, and one reduction skips whatever lies above.

Letters: n anchors.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from legolas_metric.index.exact.certificate import Certificate
from legolas_metric.index.exact.table import Frame, Table
from legolas_metric.index.top_k import Bounds


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Scores whose upper bound is below `sure` are below the window's end, those whose lower bound is above `possible`
    are not. `shift` lies a little above both, in the dtype of the tiles: no score below it is cut off by rounding.
    """

    sure: Float32[Tensor, " n"]
    possible: Float32[Tensor, " n"]
    shift: Float[Tensor, " n"]

    def part(self, first: int, last: int) -> "Ceiling":
        """The ceilings of some anchors."""
        return Ceiling(self.sure[first:last], self.possible[first:last], self.shift[first:last])


def floors_of(bounds: Bounds | None, frame: Frame, like: Float32[Tensor, " n"]) -> Float32[Tensor, " n"]:
    """The scores below which a window holds nothing; -inf without one."""
    if bounds is None:
        return torch.full_like(like, -torch.inf)
    low = frame.score(bounds[1] if frame.sign < 0 else bounds[0])
    return _moved(low, -1)


def ceiling_of(
    bounds: Bounds | None, frame: Frame, anchors: Table, columns: Table, certificate: Certificate
) -> Ceiling | None:
    """The ceilings of a window; None where there is none."""
    if bounds is None:
        return None
    high = frame.score(bounds[0] if frame.sign < 0 else bounds[1])
    n = len(high)
    sure, possible = _moved(high, -1), _moved(high, 1)
    error = certificate.weights[:n] @ certificate.bounds.amax(0)
    largest = anchors.norm[:n] * columns.norm.max() + anchors.term[:n] + columns.term.max()
    largest = largest * (1 + 2.0**-6) + 2.0**-20  # no score lies beyond
    shift = torch.minimum(torch.maximum(possible, -largest), largest)
    shift = shift + error + 2 * certificate.relative * (shift.abs() + error) + 2.0**-20
    rounded = shift.to(anchors.left.dtype if anchors.left.is_floating_point() else torch.float32)
    upwards = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return Ceiling(sure, possible, torch.where(rounded.float() < shift, upwards, rounded))


def _moved(bound: Float64[Tensor, " n"], direction: int) -> Float32[Tensor, " n"]:
    """A bound moved by more than the rounding to float32."""
    return torch.where(bound.isfinite(), bound + direction * 2.0**-20 * bound.abs(), bound).float()
