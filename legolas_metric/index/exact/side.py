"""A tile seen from its rows, or from its columns: which of its scores are candidates of which anchor.

The maxima over small groups say where a candidate can be; only there are single scores looked at, while the tile is in
cache. In bfloat16 the maxima are taken of the bits read as integers, several times faster; their order is right where
the greatest is positive, which is where it matters as long as no floor is below zero.

Letters: a anchors, g groups, G members of a group, t candidates.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from legolas_metric.index.exact.candidates import Candidates
from legolas_metric.index.exact.window import Ceiling

GROUP = 16
_BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


@dataclass(slots=True)
class Work:
    """Counts of what a sweep did."""

    tiles: int = 0
    groups: int = 0
    scores: int = 0


@dataclass(frozen=True, slots=True)
class Side:
    """The scores of some anchors against a block of columns, and what is known of their error.

    Attributes:
        first, last: the anchors.
        grouped: a view of the tile with the members of a group along axis 1; in a window, less the ceiling's shift.
        by_row: whether anchors are the first axis of `grouped` (else the last).
        column, group_stride, member_stride: a score's column is column + group * group_stride + member * member_stride.
        error, relative: the bound of a score is error + relative |score|.
        ceiling: of these anchors, in a window.
    """

    first: int
    last: int
    grouped: Float[Tensor, "_ _ _"]
    by_row: bool
    column: int
    group_stride: int
    member_stride: int
    error: Float32[Tensor, " a"]
    relative: float
    ceiling: Ceiling | None

    def scores(self, anchor: Int64[Tensor, " t"], group: Int64[Tensor, " t"]) -> Float32[Tensor, "t G"]:
        """The members of some groups."""
        found = self.grouped[anchor, :, group] if self.by_row else self.grouped[group, :, anchor]
        return self._values(found, anchor[:, None])

    def maxima(self, *, bits: bool) -> Float[Tensor, "a g"]:
        """The greatest score of each group (below the ceiling), as the tile holds it."""
        dtype = self.grouped.dtype
        if self.ceiling is not None:
            found = self.grouped.view(_BITS[dtype]).amin(1).view(dtype)
        elif bits:
            found = self.grouped.view(_BITS[dtype]).amax(1).view(dtype)
        else:
            found = self.grouped.amax(1)
        return found if self.by_row else found.T

    def tops(self, maxima: Float[Tensor, "a g"], *, bits: bool) -> Float32[Tensor, " a"]:
        """The greatest score of each anchor."""
        dtype = maxima.dtype
        if self.ceiling is not None:
            return self._values(maxima.view(_BITS[dtype]).amin(1).view(dtype), slice(None))
        return (maxima.view(_BITS[dtype]).amax(1).view(dtype) if bits else maxima.amax(1)).float()

    def of_groups(self, maxima: Float[Tensor, "a g"], anchor: Int64[Tensor, " m"]) -> Float32[Tensor, "m g"]:
        """The maxima of some anchors as scores."""
        return self._values(maxima[anchor], anchor[:, None])

    def slack(self, scores: Float32[Tensor, "*s"], anchor: slice | Int64[Tensor, "*b"]) -> Float32[Tensor, "*s"]:
        """The bound of the error of some scores."""
        error = self.error[anchor]
        if self.relative:
            error = error + self.relative * scores.abs()
        if self.ceiling is not None:
            error = error + self._shift_unit * (scores.abs() + (self.ceiling.shift[anchor].float() - scores).abs())
        return error.expand_as(scores)

    def guaranteed(self, scores: Float32[Tensor, "*s"], anchor: slice | Int64[Tensor, "*b"]) -> Float32[Tensor, "*s"]:
        """What a score guarantees its anchor: its lower bound, or -inf where it may lie outside the window."""
        slack = self.slack(scores, anchor)
        low = torch.where(scores > -torch.inf, scores - slack, -torch.inf)
        if self.ceiling is not None:
            low = torch.where(scores + slack < self.ceiling.sure[anchor], low, -torch.inf)
        return low

    def needed(self, floor: Float32[Tensor, " a"]) -> Float32[Tensor, " a"]:
        """The least score whose true one can reach the floor."""
        unit = self.relative
        if self.ceiling is None:
            least = floor - self.error
            return least - unit * (1 + 2 * unit) * least.abs() if unit else least
        shift = self.ceiling.shift.float()
        unit = unit + self._shift_unit
        depth = shift - floor + self.error + 2 * unit * (shift.abs() + floor.abs() + self.error)
        return shift - depth * (1 + 2 * self._shift_unit)

    @property
    def _shift_unit(self) -> float:
        """Relative error of a difference from the shift, and of adding it again."""
        return 2.0**-8 * (1 + 2.0**-6) if self.grouped.dtype == torch.bfloat16 else 2.0**-22

    def _values(self, held: Float[Tensor, "*s"], anchor: slice | Int64[Tensor, "*b"]) -> Float32[Tensor, "*s"]:
        """Scores from what the tile holds; -inf for those above the ceiling."""
        if self.ceiling is None:
            return held.float()
        return torch.where(torch.signbit(held), held.float() + self.ceiling.shift[anchor].float(), -torch.inf)


def collect(side: Side, k: int, candidates: Candidates, work: Work) -> None:
    """Raise the floors of the anchors as far as this tile allows, and add its candidates."""
    floor = candidates.floor[side.first : side.last]
    bits = side.grouped.dtype == torch.bfloat16
    maxima, tops, needed = _tops(side, floor, k, bits=bits)
    if bits and side.ceiling is None and bool((needed <= 0).any()):
        maxima, tops, needed = _tops(side, floor, k, bits=False)
    passing = ((tops >= needed) & (tops > -torch.inf)).nonzero().flatten()
    if len(passing) == 0:
        return
    groups = side.of_groups(maxima, passing)
    held = _reach(groups, needed[passing])
    crowded = (held.sum(1) > min(2 * k + 6, groups.shape[1] // 2)).nonzero().flatten()
    if len(crowded):
        _raise_crowded(side, floor, k, passing[crowded], groups[crowded])
        needed = side.needed(floor)
        held = _reach(groups, needed[passing])
    row, group = held.nonzero(as_tuple=True)
    anchor = passing[row]
    scores = side.scores(anchor, group)
    pair, member = _reach(scores, needed[anchor]).nonzero(as_tuple=True)
    anchor, group, scores = anchor[pair], group[pair], scores[pair, member]
    work.groups += len(row)
    work.scores += len(pair)
    low, high = side.guaranteed(scores, anchor), scores + side.slack(scores, anchor)
    column = side.column + group * side.group_stride + member * side.member_stride
    candidates.add(side.first, side.last, anchor, column, low, high)


def _tops(
    side: Side, floor: Float32[Tensor, " a"], k: int, *, bits: bool
) -> tuple[Float[Tensor, "a g"], Float32[Tensor, " a"], Float32[Tensor, " a"]]:
    """Group maxima, the best of each anchor, and what is needed; the best raises the floor where one is wanted."""
    maxima = side.maxima(bits=bits)
    tops = side.tops(maxima, bits=bits)
    if k == 1:
        torch.maximum(floor, side.guaranteed(tops, slice(None)), out=floor)
    return maxima, tops, side.needed(floor)


def _reach(scores: Float32[Tensor, "t m"], needed: Float32[Tensor, " t"]) -> Bool[Tensor, "t m"]:
    return (scores >= needed[:, None]) & (scores > -torch.inf)


def _raise_crowded(
    side: Side, floor: Float32[Tensor, " a"], k: int, anchor: Int64[Tensor, " m"], groups: Float32[Tensor, "m g"]
) -> None:
    """Raise floors to the k-th best that the groups of a tile guarantee; the best of a group is one of its members."""
    if 2 * k > groups.shape[1]:
        every = torch.arange(groups.shape[1], device=anchor.device)
        groups = side.scores(anchor.repeat_interleave(len(every)), every.repeat(len(anchor))).view(len(anchor), -1)
    if k > groups.shape[1]:
        return
    low = side.guaranteed(groups, anchor[:, None])
    best = low.amax(1) if k == 1 else low.topk(k, 1).values[:, -1]
    floor[anchor] = torch.maximum(floor[anchor], best)
