"""Principal axes: rows whose energy lies in few directions are screened by their parts along these, at a fraction of d.

With P [d, m] of nearly orthonormal columns, P^T P = 1 + D, a = P^T x and the tail t = x - P a,

    <x, y> = <a_x, a_y> - a_x^T D a_y + <t_x, t_y>,   |<t_x, t_y>| <= |t_x| |t_y|,   |t|^2 <= |x|^2 - (1 - |D|) |a|^2.

So with the measured length of its tail as one more column of each row, a head's score is no less than the true one, but
for rounding. A pair that it cannot rule out is scored again by the whole rows, in float32, before it is a candidate
(`passes.py`). How many axes pay is read from a sample:
the true k-th best of some anchors, and how many rows the heads leave open above it.

Letters: n rows, d dimensions, m axes, a anchors, s sampled columns.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import CACHE, rows_for
from legolas_metric.geometry import chunks
from legolas_metric.index.exact.table import Frame, Heads, in_frame

_COUNTS = (16, 32, 48, 64, 96, 128, 192, 256)  # axes
_FEWEST = 2**39  # pairs times dimensions: below, looking for axes and turning the rows costs what the passes save
_FLAT = 0.25  # of d: rows that fill so many directions, by the participation ratio, have no heads
_SKETCHED, _DRAWN = 4096, 512  # rows that the axes are worked out from; that the ratio is
_UNIT = 2.0**-24  # half a unit in the last place of float32
# Nanoseconds on one thread: of a pair, of each of its dimensions, in int16; of a pair that is looked at, and of each of
# its dimensions; of a dimension of a row, for its tables and first floors, and along each axis.
_PAIR, _FACTOR, _LOOK, _WHOLE, _ROW, _TURNED = 0.15, 0.0137, 30.0, 0.04, 25.0, 0.04
_EARLY = 3.0  # times as many looks as the last floors would leave, while floors rise
_GAIN = 2.0  # how much faster a search must be expected to become: other dtypes are up to so much faster than int16


@dataclass(frozen=True, slots=True)
class Axes:
    """Directions along which rows are screened.

    Attributes:
        directions: [d, m], columns that are nearly orthonormal.
        drift: at least |D|, measured.
    """

    directions: Float32[Tensor, "d m"]
    drift: float


@dataclass(frozen=True, slots=True)
class Sample:
    """Some anchors of a search, what they look for, and the columns that they may take.

    Attributes:
        floor, ceiling: [a], the score of the k-th best, and the window's end.
        allowed: [a, s], of the sampled columns.
        anchors, columns: [a, d] and [s, d].
    """

    floor: Float64[Tensor, " a"]
    ceiling: Float64[Tensor, " a"]
    allowed: Bool[Tensor, "a s"]
    anchors: Float32[Tensor, "a d"]
    columns: Float32[Tensor, "s d"]


def may_pay(rows: Float32[Tensor, "n d"], frame: Frame, anchors: int) -> bool:
    """Whether a search is large, and its rows lie along few directions by tr(C)^2 / tr(C^2) of their second moments."""
    n, d = rows.shape
    if anchors * n * d < _FEWEST:
        return False
    some = in_frame(spread(rows, _DRAWN), frame)[0].double()
    products = some @ some.T
    energy = products.diagonal().sum()
    rest = products.square().sum() - products.diagonal().square().sum()
    return float(energy) ** 2 < _FLAT * d * float(rest)


def principal_axes(rows: Float32[Tensor, "n d"], frame: Frame) -> Float32[Tensor, "d m"]:
    """The first axes of a sample of the rows, most energy first: by two steps of subspace iteration from rows."""
    some = in_frame(spread(rows, _SKETCHED), frame)[0]
    m = min(_COUNTS[-1], rows.shape[1] // 2)
    basis = spread(some, m).T
    for _ in range(2):
        basis = torch.linalg.qr(some.T @ (some @ basis)).Q
    part = some @ basis
    return basis @ torch.linalg.eigh(part.T @ part).eigenvectors.flip(1)


def choose_axes(axes: Float32[Tensor, "d m"], sample: Sample, frame: Frame, pairs: int, rows: int) -> Axes | None:
    """The first of the axes, as many as are expected to make the search fastest; None where all of d is as fast.

    Args:
        axes: most energy first.
        sample: of the search.
        frame: units.
        pairs: that will be scored.
        rows: that will be turned.
    """
    d = axes.shape[0]
    (x, a_x), (y, a_y) = in_frame(sample.anchors, frame), in_frame(sample.columns, frame)
    own, other = x @ axes, y @ axes
    terms = (a_x[:, None] + a_y).float()
    best, fewest = pairs * (_PAIR + _FACTOR * d) / _GAIN, 0
    for m in (count for count in _COUNTS if count <= axes.shape[1]):
        tails = [
            (side.square().sum(1) - part[:, :m].square().sum(1)).clamp_min(0).sqrt()
            for side, part in ((x, own), (y, other))
        ]
        score = (own[:, :m] @ other[:, :m].T + terms) * frame.sign
        slack = tails[0][:, None] * tails[1]
        open_ = sample.allowed & (score + slack >= sample.floor[:, None]) & (score - slack < sample.ceiling[:, None])
        looks = float(open_.float().mean())
        cost = pairs * (_PAIR + _FACTOR * m + _EARLY * looks * (_LOOK + _WHOLE * d)) + rows * d * (_ROW + m * _TURNED)
        if cost < best:
            best, fewest = cost, m
    if not fewest:
        return None
    directions = axes[:, :fewest].contiguous()
    wide = directions.double()
    drift = float(torch.linalg.matrix_norm(wide.T @ wide - torch.eye(fewest, dtype=wide.dtype, device=wide.device)))
    return Axes(directions, 1.01 * drift + 2.0**-40)


def heads_of(rows: Float32[Tensor, "n d"], frame: Frame, axes: Axes) -> Heads:
    """The parts of rows along the axes, and bounds of what they leave out."""
    n, (d, m) = len(rows), axes.directions.shape
    part = rows.new_empty(n, m)
    lost, tail = rows.new_empty(2, n)
    gamma = 1.01 * (d + 4) * _UNIT  # of a sum of d products, in any order
    for some in chunks(n, rows_for(CACHE, 16 * d)):
        wide = in_frame(rows[some], frame)[0]
        torch.mm(wide, axes.directions, out=part[some])
        norm = torch.linalg.vector_norm(wide, dim=1).double() * (1 + gamma)
        turned = gamma * math.sqrt(m * (1 + axes.drift)) * norm + 2.0**-100
        length = torch.linalg.vector_norm(part[some], dim=1).double()
        least, most = (length * (1 - gamma) - turned).clamp_min(0), length * (1 + gamma) + turned
        tail[some] = _above((norm.square() - (1 - axes.drift) * least.square()).clamp_min(0).sqrt())
        lost[some] = _above(turned + axes.drift * most)
    return Heads(part, lost, tail)


def spread(rows: Float32[Tensor, "n d"], most: int) -> Float32[Tensor, "m d"]:
    """At most so many of the rows, from all along their order."""
    return rows if len(rows) <= most else rows[spread_places(len(rows), most)]


def spread_places(n: int, most: int) -> Int64[Tensor, " m"]:
    """At most so many of n places, evenly spread."""
    m = min(n, most)
    return torch.arange(m) * n // m


def _above(bound: Float64[Tensor, " m"]) -> Float32[Tensor, " m"]:
    return (bound * (1 + 2.0**-20)).float()
