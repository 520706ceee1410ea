"""Rows as they are screened: scaled, centred where that helps, in low precision, with what the rounding cost measured.

A pair is screened by its score S = <x', y'> + a_x + a_y, which grows with the similarity (falls with it for the
farthest). With X = scale (x - c) and c the centre,

    dot:        s scale^2 = S + scale^2 |c|^2,   a_x = scale^2 (c.x - |c|^2)
    euclidean:  -(s scale)^2 / 2 = S,            a_x = -|X|^2 / 2
    cosine:     (s - 1) scale^2 = S,             a_x = -|X|^2 / 2, where s = 1 - |x - y|^2 / 2
                s = S,                           without a centre: but for what the norms differ from 1

Centring does not change S but makes the parts small, so that a collapsed bank can be screened as sharply as any other.
The terms a ride along as further columns of the product, each split into pieces that the dtype holds.

Letters: n rows, d dimensions, e columns of the product.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float32, Float64, Int16, Int32, Int64, Shaped
from torch import Tensor

from legolas_metric.budgets import CACHE, rows_for
from legolas_metric.checks import Metric
from legolas_metric.geometry import chunks

_CENTRED_FROM = 0.3  # |centre|^2 over the mean of |x|^2 from which centring pays for its extra columns
_LARGEST_SCALE = 2.0**126  # in float32; rows so small that they need more have similarities that round to 0
_PIECES = 2  # of the term a, in bfloat16: 16 bits of it
_PADDED_TO = 48  # padded to a multiple of this, so that groups fit, and any micro-tile
_LARGEST_SCORE = 0.99 * 2.0**31  # in int32, with room for the rounding of its parts
_LARGEST_FACTOR = 2**15 - 1  # in int16
_SHORT = 2.0**-40  # norms whose squares, or parts of them that matter, float32 may lack


@dataclass(frozen=True, slots=True)
class Frame:
    """The units of the scores: a power of two, a centre (None: the origin), and the sign of the order.

    `steps` is what 1 becomes in int16; 0 until `with_steps`.
    """

    metric: Metric
    scale: float
    centre: Float64[Tensor, " d"] | None
    sign: int
    steps: float = 0.0

    @property
    def by_distance(self) -> bool:
        """Whether scores are squared distances, halved and negative."""
        return self.metric == "euclidean" or (self.metric == "cosine" and self.centre is not None)

    @property
    def additive(self) -> bool:
        """Whether scores have the terms a."""
        return self.centre is not None

    @property
    def line(self) -> tuple[float, float]:
        """The score of a similarity s is factor s - shift, under "euclidean" -(factor s)^2 / 2; but for the sign."""
        if self.metric == "euclidean":
            return self.scale, 0.0
        factor = self.scale**2
        if self.centre is None:
            return factor, 0.0
        return factor, factor if self.metric == "cosine" else float(self.centre @ self.centre) * factor

    def score(self, similarity: Float64[Tensor, " q"]) -> Float64[Tensor, " q"]:
        """The score of a similarity, in float64."""
        factor, shift = self.line
        if self.metric == "euclidean":
            score = torch.where(similarity > 0, torch.inf, -(similarity.clamp_max(0) * factor).square() / 2)
        else:
            score = similarity * factor - shift
        return score * self.sign


@dataclass(frozen=True, slots=True)
class Heads:
    """Rows along a few axes, see `axes.py`.

    Attributes:
        part: [n, m], a = P^T X rounded to float32.
        term: [n], the term a, rounded.
        norm: [n], at least |X|.
        lost: [n], at least |a - part| + |D| |a|.
        tail: [n], at least |t|.
    """

    part: Float32[Tensor, "n m"]
    term: Float32[Tensor, " n"]
    norm: Float64[Tensor, " n"]
    lost: Float32[Tensor, " n"]
    tail: Float32[Tensor, " n"]

    def part_of(self, rows: Int64[Tensor, " q"]) -> "Heads":
        """Those of some rows."""
        return Heads(self.part[rows], self.term[rows], self.norm[rows], self.lost[rows], self.tail[rows])


@dataclass(frozen=True, slots=True)
class Table:
    """Screened rows, padded with zero rows to a multiple of 48, and what is known of the rounding of each.

    Attributes:
        left, right: [p, e], the row as the left and as the right factor of a product. In int16 they are packed for the
            processor, pairs of factors side by side: [p / h, pairs, h, 2] and [p / w, pairs, w, 2] for a
            micro-tile of h x w; or not, where pairs are looked at one by one.
        offset: [p], the term a in units of an integer score; empty in other dtypes, where it rides along.
        norm: at least |x'| and |X|, of the whole row.
        residual: |X - x'|, measured; of heads |a - x'|, with what else they lose.
        term: |a|.
        term_residual: |a| less what its pieces hold.
        raw: |x| scale, before centring.
        tail: at least |t|, of rows of which only the heads are here: their last column; else 0.
        unit: of a score: 1, but 1 / steps^2 in int16.
    """

    rows: int
    left: Shaped[Tensor, "_ *e"]
    right: Shaped[Tensor, "_ *f"]
    offset: Int32[Tensor, " o"]
    norm: Float32[Tensor, " p"]
    residual: Float32[Tensor, " p"]
    term: Float32[Tensor, " p"]
    term_residual: Float32[Tensor, " p"]
    raw: Float32[Tensor, " p"]
    tail: Float32[Tensor, " p"]
    unit: float

    @property
    def padded(self) -> int:
        """Rows with the padding."""
        return len(self.norm)


def choose_frame(tables: list[Float32[Tensor, "_ d"]], metric: Metric, *, farthest: bool) -> Frame:
    """The scale that brings every norm to at most 1, and a centre where it pays; the last table is the one searched."""
    rows = tables[-1]
    sign = -1 if farthest else 1
    # Any centre will do: that of unit rows is worked out faster.
    centre = (rows.mean(0) if metric == "cosine" else rows.mean(0, dtype=torch.float64)).double()
    largest = 1.0 if metric == "cosine" else max(float(table.abs().max()) for table in tables)
    if largest == 0:
        return Frame(metric, 1.0, centre if metric == "euclidean" else None, sign)
    unit = min(_LARGEST_SCALE, 2.0 ** -math.ceil(math.log2(largest)))  # so that squares neither overflow nor vanish
    spread = 1.0 if metric == "cosine" else float((rows * unit).square().sum()) / len(rows)
    offset = centre * unit
    if metric != "euclidean" and float(offset @ offset) <= _CENTRED_FROM * spread:
        if metric == "cosine":
            return Frame(metric, 1.0, None, sign)
        centre, offset = None, None
    norm = max(_largest_norm(table, unit, offset) for table in tables)
    scale = min(_LARGEST_SCALE, unit * 2.0 ** -math.ceil(math.log2(norm))) if norm > 0 else unit
    return Frame(metric, scale, centre, sign)


def with_steps(frame: Frame, tables: list[Float32[Tensor, "_ d"]], heads: Sequence[Heads] = ()) -> Frame:
    """The same units with as many steps as fit: no factor leaves int16, no score int32, terms included.

    A row is no longer than its steps and, where all of it rounds upwards, sqrt(d) / 2 more.

    Where the heads of the rows are screened in their place, those are the factors.
    """
    factors = [float(values.abs().max()) for side in heads for values in (side.part, side.tail * (1 + 2.0**-12))]
    factor, term, rounded = max(factors, default=0.0), 0.0, math.sqrt(tables[0].shape[1]) / 2
    for rows in tables:
        for part in chunks(len(rows), _chunk(rows)):
            wide, terms = in_frame(rows[part], frame)
            factor = factor if heads else max(factor, float(wide.abs().max()))
            term = max(term, float(terms.abs().max()))
    score = math.sqrt(_LARGEST_SCORE / (1 + 2 * term)) - rounded
    return replace(frame, steps=min(_LARGEST_FACTOR / max(factor, 2.0**-15), score))


def relative_error(d: int) -> float:
    """Of a sum of d products in float32, in any order, to the sum of their sizes."""
    error = (d + 4) * 2.0**-24  # half a unit in the last place each, and some for what is made of the sum
    return error / (1 - error)


def make_table(
    rows: Float32[Tensor, "n d"], frame: Frame, dtype: torch.dtype, heads: Heads | None = None, *, packed: bool = True
) -> Table:
    """Round rows, or their heads, to the dtype and measure what that cost.

    Heads are rounded to int16. Integers are packed for the micro-tile where nothing else is asked.
    """
    n, d = rows.shape if heads is None else heads.part.shape
    whole = dtype == torch.int16
    unit = 1 / frame.steps**2 if whole else 1.0
    pieces = 0 if whole or not frame.additive else _PIECES if dtype == torch.bfloat16 else 1
    padded = -(-n // _PADDED_TO) * _PADDED_TO
    e = d + (heads is not None)
    left = torch.zeros(padded, e + (e % 2 if whole else 2 * pieces), dtype=dtype, device=rows.device)
    right = torch.zeros_like(left) if pieces or frame.sign < 0 else left
    offset = torch.zeros(padded if whole else 0, dtype=torch.int32, device=rows.device)
    measured = torch.zeros(6, padded, dtype=torch.float32, device=rows.device)
    for part in chunks(n, _chunk(rows)):
        exact = rows[part]
        wide, term = in_frame(exact, frame)
        measured[0, part] = norms(wide)
        wide = wide if heads is None else heads.part[part]
        if whole:
            steps = (wide * frame.steps).round_()
            rounded, columns = steps / frame.steps, steps[:, :0]
            offset[part] = ((term / unit).round() * frame.sign).int()
            held = offset[part].double() * unit * frame.sign
            left[part, :d] = steps.to(dtype)
        else:
            rounded = wide.to(dtype)
            columns, held = _split_term(term, pieces, dtype)
            left[part] = torch.cat([rounded, torch.ones_like(columns), columns], 1)
        if right is not left:
            right[part, :d] = left[part, :d]
            right[part, d:] = torch.cat([columns, torch.ones_like(columns)], 1) if pieces else 0
            left[part] *= frame.sign
        if heads is not None:
            tails = (heads.tail[part] * frame.steps).ceil_()
            left[part, d] = right[part, d] = tails.to(dtype)
            measured[5, part] = tails * (1 + 2.0**-20) / frame.steps
        if dtype != torch.float32:
            measured[1, part] = norms(wide - rounded)
        measured[2, part] = term.abs()
        measured[3, part] = (term - held).abs()
        measured[4, part] = measured[0, part] if frame.centre is None else norms(exact * frame.scale)
    if heads is not None:
        measured[1, :n] += heads.lost
    norm, residual, term, lost, raw, tail = measured
    more = 1 + 2.0**-23 * (rows.shape[1] + 4)  # than these norms, in float32
    residual = residual * more + (2.0**-22 * norm if frame.additive else 0)
    norm = norm * more + residual
    if whole and packed:
        left, right = _packed(left, right)
    return Table(n, left, right, offset, norm, residual, term, lost * more, raw * more, tail, unit)


def _packed(*sides: Int16[Tensor, "p e"]) -> list[Int16[Tensor, "q pairs panel 2"]]:
    """Panels of rows, pair of columns by pair of columns."""
    from legolas_metric.compiled.avx2 import PANELS

    p, e = sides[0].shape
    return [
        rows.view(p // panel, panel, e // 2, 2).permute(0, 2, 1, 3).contiguous() for rows, panel in zip(sides, PANELS)
    ]


def in_frame(exact: Float32[Tensor, "m d"], frame: Frame) -> tuple[Float32[Tensor, "m d"], Float64[Tensor, " m"]]:
    """X = scale (x - c), rounded to float32, and the term a."""
    if frame.centre is None:
        return exact * frame.scale if frame.scale != 1 else exact, exact.new_zeros(len(exact), dtype=torch.float64)
    wide = exact.double() - frame.centre
    if frame.by_distance:
        term = -(wide * frame.scale).square().sum(1) / 2
    else:
        term = (wide @ frame.centre) * frame.scale**2
    return (wide * frame.scale).float(), term


def _split_term(
    term: Float64[Tensor, " m"], pieces: int, dtype: torch.dtype
) -> tuple[Float[Tensor, "m pieces"], Float64[Tensor, " m"]]:
    """The pieces that stand for the term a, and their sum."""
    columns, held = torch.zeros(len(term), pieces, dtype=dtype, device=term.device), torch.zeros_like(term)
    for piece in range(pieces):
        columns[:, piece] = term - held
        held = held + columns[:, piece].double()
    return columns, held


def _largest_norm(rows: Float32[Tensor, "n d"], unit: float, offset: Float64[Tensor, " d"] | None) -> float:
    parts = (rows[part] * unit for part in chunks(len(rows), _chunk(rows)))
    return max(float(norms(part if offset is None else part - offset.float()).max()) for part in parts)


def norms(rows: Float32[Tensor, "m d"]) -> Float32[Tensor, " m"]:
    """Norms to float32's precision, also of rows whose squares are too small for it."""
    norm = torch.linalg.vector_norm(rows, dim=1)
    short = (norm < _SHORT).nonzero()[:, 0]
    if len(short):
        norm[short] = torch.linalg.vector_norm(rows[short], dim=1, dtype=torch.float64).float()
    return norm


def _chunk(rows: Tensor) -> int:
    return rows_for(CACHE, 8 * rows.shape[1])
