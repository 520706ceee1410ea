"""Whether two encoders share a space: the same inputs must lie at the same places.

Letters: m inputs, e dimensions.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

TOLERANCE = 1e-3
"""What arithmetic of other machines and libraries changes at most, of a row by its length, with room to spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceComparison:
    """Whether rows of one encoder may be compared with those of another.

    Attributes:
        same: whether they may.
        inputs: that both embedded; 0 where they have not one in common.
        largest, mean: |a - b| / |b| of a row, the largest and the mean; None without inputs.
        similarities: the largest change of a similarity of two of the inputs; small beside a large `largest` where
            one space is the other turned: ranking is alike, and yet their rows must not be mixed.
        tolerance: for `largest`.
        sentence: what was found.
        remedy: what to do; empty where nothing is.

    Example:
        >>> import torch
        >>> compare_rows(torch.eye(3), torch.eye(3)[[1, 0, 2]]).sentence
        'another space, the same one turned: 3 inputs lie up to 1.4 of their length from where they lay'

    Source: ours.
    """

    same: bool
    inputs: int
    largest: float | None
    mean: float | None
    similarities: float | None
    tolerance: float
    sentence: str
    remedy: str

    def scalars(self) -> dict[str, float | int | bool | str | None]:
        """Fields by name."""
        return {name: getattr(self, name) for name in self.__slots__}


def compare_rows(a: Float[Tensor, "m e"], b: Float[Tensor, "m f"], *, tolerance: float = TOLERANCE) -> SpaceComparison:
    """Compare rows of the same inputs.

        largest = max |a_i - b_i| / |a_i|

    Args:
        a, b: [m, e] and [m, f], the rows, in the same order.
        tolerance: the largest change that is the arithmetic's.

    Example:
        >>> import torch
        >>> compare_rows(torch.eye(3), torch.eye(3)).same
        True

    Source: ours.
    """
    if a.shape[1] != b.shape[1]:
        return other_space(f"another space: rows of {b.shape[1]} dimensions, where they had {a.shape[1]}", tolerance)
    if not len(a):
        return other_space("nothing to compare: no input is in both", tolerance)
    changes = relative_changes(b, a)
    similar = float((_cosines(a) - _cosines(b)).abs().max())
    largest = float(changes.max())
    same = largest <= tolerance
    word = "bit for bit" if largest == 0 else f"within {largest:.2g} of their length"
    said = f"the same space: {len(a)} inputs lie where they lay, {word}"
    if not same:
        turned = ", the same one turned" if similar <= tolerance else ""
        said = f"another space{turned}: {len(a)} inputs lie up to {largest:.2g} of their length from where they lay"
    return SpaceComparison(
        same=same,
        inputs=len(a),
        largest=largest,
        mean=float(changes.mean()),
        similarities=similar,
        tolerance=tolerance,
        sentence=said,
        remedy="" if same else _REMEDY,
    )


def other_space(sentence: str, tolerance: float) -> SpaceComparison:
    """The answer where no number can be had."""
    return SpaceComparison(
        same=False,
        inputs=0,
        largest=None,
        mean=None,
        similarities=None,
        tolerance=tolerance,
        sentence=sentence,
        remedy=_REMEDY,
    )


def relative_changes(rows: Float[Tensor, "m e"], before: Float[Tensor, "m e"]) -> Float64[Tensor, " m"]:
    """|row - before| / |before| of each row."""
    moved = torch.linalg.vector_norm(rows.double() - before.double(), dim=1)
    return moved / torch.linalg.vector_norm(before.double(), dim=1).clamp_min(1e-300)


def _cosines(rows: Float[Tensor, "m e"]) -> Float64[Tensor, "m m"]:
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    return unit @ unit.T


_REMEDY = (
    "don't mix their rows: embed the gallery again with the encoder that will be used, choose the threshold anew, and "
    "if the encoder should be the same, look for changed weights, preprocessing or libraries"
)
