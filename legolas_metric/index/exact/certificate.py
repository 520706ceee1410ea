"""How far a screened score can lie from the true one: a bound from measured norms, never a guess.

With x = x' + r (r the residual of rounding) and |.| norms,

    |x.y - x'.y'| <= |r_x| (|y'| + |r_y|) + |x'| |r_y|,

plus the rounding of the product (gamma_e |x'||y'| for e terms in float32, in any order), of its result (half a unit in
the last place of the table's dtype), of the terms a, of the similarity that decides (which is kept to 33 bits, and to 1
within 4 eps), what flushed denormals add up to and, where unit rows are screened by <x, y>, what their norms leave
between that and 1 - |x - y|^2 / 2: they are 1 to 2^-22.

Where only the heads of the rows are screened (`axes.py`), their scores hold |t_x| |t_y|, so that they err by
no more than that bound where they are too small, and by 2 |t_x| |t_y|, its last part, more where they are too large.

The bound of row i against the columns of block J is bilinear, E_iJ = weights_i . bounds_J, plus `relative` |score|.

Letters: n rows, b blocks, w weights.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from legolas_metric.geometry import tie_distance
from legolas_metric.index.exact.table import Frame, Table, relative_error

_FLUSHED = 2.0**-110  # on scaled rows, whose norms are at most 1
_SETTLED = 2.0**-31  # above the relative rounding of the similarity that decides, on both sides of a comparison
_NORMS = 2.0**-20  # above |<x, y> - (1 - |x - y|^2 / 2)| of rows that are unit to 2^-22, on both sides of one
_SAFETY = 1 + 2.0**-8  # the bounds themselves are kept in float32


@dataclass(frozen=True, slots=True)
class Certificate:
    """The parts of the bound: E_iJ = weights[i] . bounds[J]."""

    weights: Float32[Tensor, "n w"]
    bounds: Float32[Tensor, "b w"]
    relative: float

    def missed(self) -> Float32[Tensor, " n"]:
        """By how much each row's scores may be too small, against any column, less the relative part.

        So much they may be too large as well; those of heads by what the last parts add.
        """
        return self.weights[:, :-1] @ self.bounds[:, :-1].amax(0) * (1 + 2.0**-16)


def certify(rows: Table, columns: Table, frame: Frame, block: int) -> Certificate:
    """The certificate of every row against blocks of `block` columns.

    Args:
        rows, columns: the two sides of the product.
        frame: their units.
        block: columns in a block.
    """
    terms = 0 if rows.left.dtype == torch.int16 else rows.left.shape[1]  # integers are summed without error
    gamma = relative_error(terms)
    norm, residual, term, lost, raw, tail = (
        _block_maxima(values, block)
        for values in (
            *(columns.norm, columns.residual, columns.term),
            *(columns.term_residual, columns.raw, columns.tail),
        )
    )
    distant = frame.by_distance
    tie = _NORMS if frame.metric == "cosine" else _SETTLED
    snapped = _snapped(frame) if frame.metric == "cosine" else 0.0
    own = torch.stack(
        [
            rows.residual,
            rows.norm,
            gamma * rows.term + rows.term_residual + (_SETTLED * rows.norm.square() if distant else 0),
            torch.ones_like(rows.norm),
            torch.zeros_like(rows.norm) if distant else rows.raw,
            2 * rows.tail,
        ],
        1,
    )
    other = torch.stack(
        [
            norm + residual,
            residual + gamma * norm,
            torch.ones_like(norm),
            gamma * term + lost + _FLUSHED + snapped + (_SETTLED * norm.square() if distant else 0),
            tie * raw,
            tail,
        ],
        1,
    )
    relative = 2.0**-8 * _SAFETY if rows.left.dtype == torch.bfloat16 else 0.0
    return Certificate((own * _SAFETY).float(), other.float(), relative)


def _snapped(frame: Frame) -> float:
    """By how much a similarity moves that is set to 1 or, of opposite rows, to -1; those need a scale of at most 1."""
    opposite = _NORMS if frame.scale <= 1 else 0.0
    return (tie_distance(torch.float32) ** 2 + opposite) * frame.scale**2


def _block_maxima(values: Float32[Tensor, " p"], block: int) -> Float32[Tensor, " b"]:
    return torch.stack([part.max() for part in values.split(block)])
