"""Principal axes: rows whose energy lies in few directions are screened by their parts along these, at a fraction of d.

With P [d, m] of nearly orthonormal columns, P^T P = 1 + D, a = P^T x and the tail t = x - P a,

    <x, y> = <a_x, a_y> - a_x^T D a_y + <t_x, t_y>,   |<t_x, t_y>| <= |t_x| |t_y|,   |t|^2 <= |x|^2 - (1 - |D|) |a|^2.

So with the measured length of its tail as one more column of each row, a head's score is no less than the true one, but
for rounding. Rows are turned onto up to 255 axes and screened by the first few of these. A pair that they cannot rule
out is scored again by all of them, then by the whole rows, in float32, before it is a candidate (`passes.py`). How many
axes pay is read from a sample: about the k-th best of some anchors, and how many rows the heads leave open above it.

Letters: n rows, d dimensions, m axes, a anchors, s sampled columns.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import CACHE, rows_for
from legolas_metric.geometry import chunks, product
from legolas_metric.index.exact.table import Frame, Heads, in_frame, norms, relative_error

_COUNTS = (16, 32, 48, 64, 80, 96, 128, 160, 192)  # axes
_LONGEST = 255  # axes by which pairs are looked at: with the tail, 512 bytes in int16
_FEWEST = 2**39  # pairs times dimensions: below, looking for axes and turning the rows costs what the passes save
_FLAT = 0.25  # of d: rows that fill so many directions, by the participation ratio, have no heads
_SKETCHED, _DRAWN = 4096, 512  # rows that the axes are worked out from; that the ratio is
# Nanoseconds on one thread, beside the products: of a pair; of one that is looked at by longer heads; of each dimension
# of one that is looked at by the whole rows; of a dimension of a row, for axes, tables and first floors.
_PAIR, _LOOK, _WHOLE, _ROW = 0.1, 40.0, 0.25, 12.0
_EARLY = 2.0  # times as many looks as the last floors would leave, while floors rise
_GAIN = 1.2  # how much faster a search must be expected to become


@dataclass(frozen=True, slots=True)
class Axes:
    """Directions along which rows are screened.

    Attributes:
        directions: [d, m], columns that are nearly orthonormal, most energy first.
        drift: at least |D|, measured; of the first of the columns as well.
    """

    directions: Float32[Tensor, "d m"]
    drift: float


@dataclass(frozen=True, slots=True)
class Sample:
    """Some anchors of a search, what they look for, and which of some columns they may take.

    Attributes:
        floor, ceiling: [a], about the score of the k-th best, and the window's end.
        allowed: [a, s], of the sampled columns.
        anchors, columns: their numbers.
    """

    floor: Float32[Tensor, " a"]
    ceiling: Float32[Tensor, " a"]
    allowed: Bool[Tensor, "a s"]
    anchors: Int64[Tensor, " a"]
    columns: Int64[Tensor, " s"]


def may_pay(rows: Float32[Tensor, "n d"], frame: Frame, anchors: int) -> bool:
    """Whether a search is large, and its rows lie along few directions by tr(C)^2 / tr(C^2) of their second moments."""
    n, d = rows.shape
    if anchors * n * d < _FEWEST or min(n, d // 2) < _COUNTS[0]:
        return False
    some = in_frame(spread(rows, _DRAWN), frame)[0].double()
    products = some @ some.T
    energy = products.diagonal().sum()
    rest = products.square().sum() - products.diagonal().square().sum()
    return float(energy) ** 2 < _FLAT * d * float(rest)


def principal_axes(rows: Float32[Tensor, "n d"], frame: Frame) -> Axes:
    """The first axes of a sample of the rows: by two steps of subspace iteration from rows."""
    some = in_frame(spread(rows, _SKETCHED), frame)[0]
    m = min(_LONGEST, rows.shape[1] // 2)
    basis = spread(some, m).T
    for _ in range(2):
        basis = torch.linalg.qr(product(some.T, product(some, basis.T).T)).Q
    part = product(some, basis.T)
    directions = basis @ torch.linalg.eigh(part.T @ part).eigenvectors.flip(1)
    wide = directions.double()
    drift = float(torch.linalg.matrix_norm(wide.T @ wide - torch.eye(wide.shape[1], dtype=wide.dtype)))
    return Axes(directions, 1.01 * drift + 2.0**-40)


def fewer_axes(
    sides: list[Heads], sample: Sample, frame: Frame, pairs: int, d: int, speed: tuple[float, float]
) -> int | None:
    """How many of the first axes are expected to make the search fastest; None where all of d is as fast.

    Args:
        sides: the heads of the anchors and of the columns, along all the axes.
        sample: of the search.
        frame: units.
        pairs: that will be scored.
        d: length of the whole rows.
        speed: nanoseconds of a product, and how many times as fast another dtype's is, which all of d would take.
    """
    factor, lead = speed
    own, other = sides[0].part_of(sample.anchors), sides[-1].part_of(sample.columns)
    terms = own.term[:, None] + other.term

    def open_(m: int) -> float:
        """The share of pairs that so many axes leave open."""
        lengths = [(side.norm.square() - side.part[:, :m].square().sum(1)).clamp_min(0).sqrt() for side in (own, other)]
        score = (own.part[:, :m] @ other.part[:, :m].T + terms) * frame.sign
        slack = lengths[0][:, None] * lengths[1]
        left = sample.allowed & (score + slack >= sample.floor[:, None]) & (score - slack < sample.ceiling[:, None])
        return float(left.float().mean())

    longest = own.part.shape[1]
    wholes = _EARLY * open_(longest) * d * _WHOLE
    costs = {m: _PAIR + factor * m + _EARLY * open_(m) * _LOOK + wholes for m in _COUNTS if m <= longest}
    rows = sum(len(side.part) for side in sides)
    fewest = min(costs, key=lambda m: costs[m])
    if pairs * costs[fewest] + rows * d * _ROW > pairs * (_PAIR + factor * d) / (lead * _GAIN):
        return None
    return fewest


def heads_of(rows: Float32[Tensor, "n d"], frame: Frame, axes: Axes) -> Heads:
    """The parts of rows along the axes, and bounds of what they leave out."""
    n, (d, m) = len(rows), axes.directions.shape
    part, term = rows.new_empty(n, m), rows.new_empty(n)
    norm, onto = rows.new_empty(n, dtype=torch.float64), axes.directions.T.contiguous()
    for some in chunks(n, rows_for(CACHE, 16 * d)):
        wide, term[some] = in_frame(rows[some], frame)
        part[some] = product(wide, onto)
        norm[some] = norms(wide).double()
    return _bounded(part, term, norm * (1 + relative_error(d)), axes)


def first_heads(heads: Heads, m: int, axes: Axes) -> Heads:
    """The same along the first m of the axes alone."""
    return _bounded(heads.part[:, :m], heads.term, heads.norm, axes)


def _bounded(
    part: Float32[Tensor, "n m"], term: Float32[Tensor, " n"], norm: Float64[Tensor, " n"], axes: Axes
) -> Heads:
    gamma = relative_error(len(axes.directions))
    turned = gamma * math.sqrt(part.shape[1] * (1 + axes.drift)) * norm + 2.0**-100
    length = norms(part).double()
    least, most = (length * (1 - gamma) - turned).clamp_min(0), length * (1 + gamma) + turned
    tail = (norm.square() - (1 - axes.drift) * least.square()).clamp_min(0).sqrt()
    return Heads(part, term, norm, _above(turned + axes.drift * most), _above(tail))


def spread(rows: Float32[Tensor, "n d"], most: int) -> Float32[Tensor, "m d"]:
    """At most so many of the rows, from all along their order."""
    return rows if len(rows) <= most else rows[spread_places(len(rows), most)]


def spread_places(n: int, most: int) -> Int64[Tensor, " m"]:
    """At most so many of n places: one, at random, of each equal part, as rows may recur with a step of their own."""
    if n <= most:
        return torch.arange(n)
    within = torch.rand(most, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ((torch.arange(most) + within) * n / most).long()


def _above(bound: Float64[Tensor, " m"]) -> Float32[Tensor, " m"]:
    return (bound * (1 + 2.0**-20)).float()
