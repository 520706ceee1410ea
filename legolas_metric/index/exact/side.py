"""A tile seen from its rows, or from its columns: which of its scores are candidates of which anchor.

The maxima over small groups say where a candidate can be; only there are single scores looked at. The maxima are taken
of the bits read as integers, several times faster; their order is right where the greatest is positive, which is where
it matters as long as no floor is below zero.

Letters: a anchors, g groups, t candidates, h x w tile or piece.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int64, Shaped
from torch import Tensor

from legolas_metric.geometry import chunks
from legolas_metric.index.exact.candidates import Candidates
from legolas_metric.index.exact.job import Work
from legolas_metric.index.exact.window import Ceiling

GROUP = 16
PIECE = 1024  # columns of a piece; the rows of one divide it
_BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
_LOOK = 1 << 18  # groups whose scores are looked at together


@dataclass(slots=True)
class Side:
    """The scores of some anchors against a block of columns, and what is known of their error.

    Seen from the rows, a group is 16 columns of a piece a fixed stride apart, which reduces fastest; seen from the
    columns it is 16 adjacent rows.

    Attributes:
        first, last: the anchors.
        start: the first column.
        by_row: whether the anchors are the rows of `tile`.
        diagonal: whether the tile's rows are its columns, and only its cells (of PIECE x PIECE) on the diagonal and
            above are filled; the rows take those, the columns those above.
        tile: the scores.
        maxima: [a, g] by row, else [g, a]: the greatest score of each group; in a window, of those below the ceiling,
            less its shift.
        bits: whether the maxima are those of the bits. In a window they always are.
        scratch: of the size of a piece, in a window.
        error, relative: the bound of a score is error + relative |score|.
        ceiling: of these anchors, in a window.
    """

    first: int
    last: int
    start: int
    by_row: bool
    diagonal: bool
    tile: Float[Tensor, "h w"]
    maxima: Float[Tensor, "_ _"]
    bits: bool
    scratch: Float[Tensor, " s"] | None
    error: Float32[Tensor, " a"]
    relative: float
    ceiling: Ceiling | None

    @property
    def groups(self) -> int:
        """How many groups each anchor has."""
        return self.maxima.shape[1 if self.by_row else 0]

    def takes(self, top: int, edge: int) -> bool:
        """Whether the piece at (top, edge) of the tile is for this side."""
        return not self.diagonal or edge // PIECE >= top // PIECE + (not self.by_row)

    def reduce(self, piece: Float[Tensor, "h w"], top: int, edge: int) -> None:
        """Take the group maxima of a piece, whose first score is at (top, edge) of the tile."""
        a = self.last - self.first
        piece = piece[: max(0, a - top)] if self.by_row else piece[:, : max(0, a - edge)]
        h, w = piece.shape
        if h == 0 or w == 0 or not self.takes(top, edge):
            return
        if self.by_row:
            out = self.maxima[top : top + h, edge // GROUP : (edge + w) // GROUP]
            shape, begin = (h, GROUP, w // GROUP), top
        else:
            out = self.maxima[top // GROUP : (top + h) // GROUP, edge : edge + w]
            shape, begin = (h // GROUP, GROUP, w), edge
        if self.ceiling is not None:
            assert self.scratch is not None
            shift = self.ceiling.shift[begin : begin + (h if self.by_row else w)]
            piece = torch.sub(
                piece, shift[:, None] if self.by_row else shift, out=self.scratch[: piece.numel()].view(h, w)
            )
        if self.bits:
            dtype = _BITS[piece.dtype]
            reduced = torch.amax if self.ceiling is None else torch.amin
            reduced(piece.view(dtype).view(shape), 1, out=out.view(dtype))
        else:
            torch.amax(piece.view(shape), 1, out=out)

    def reduce_exactly(self) -> None:
        """Take the maxima again, of the scores themselves."""
        self.bits = False
        for top in range(0, self.tile.shape[0], PIECE):
            for edge in range(0, self.tile.shape[1], PIECE):
                self.reduce(self.tile[top : top + PIECE, edge : edge + PIECE], top, edge)

    def tops(self) -> Float32[Tensor, " a"]:
        """The greatest score of each anchor."""
        return self._unshifted(self._best().view(self.maxima.dtype), slice(None))

    def of_groups(self, anchor: Int64[Tensor, " m"]) -> Float32[Tensor, "m g"]:
        """The maxima of some anchors as scores."""
        held = self.maxima[anchor] if self.by_row else self.maxima[:, anchor].T
        return self._unshifted(held, anchor[:, None])

    def reaching(self, needed: Float32[Tensor, " a"]) -> tuple[Int64[Tensor, " t"], Int64[Tensor, " t"]]:
        """(anchor, group) of the groups whose maximum is at least what its anchor needs, in the order of the tile."""
        dtype = self.maxima.dtype
        if self.ceiling is not None:
            needed = (needed - self.ceiling.shift.float()).clamp_max(-torch.finfo(dtype).tiny)
        # rounding to the nearest cuts off no value of the dtype that is at least what is needed
        gate = needed.clamp_min(torch.finfo(dtype).min).to(dtype)
        maxima, reach = self.maxima, torch.ge
        if self.bits:
            maxima, gate = maxima.view(_BITS[dtype]), gate.view(_BITS[dtype])
            reach = torch.ge if self.ceiling is None else torch.le
        passing = reach(self._best(), gate).nonzero().flatten()
        few = 2 * len(passing) < len(gate)
        if few:
            maxima, gate = maxima[passing] if self.by_row else maxima[:, passing], gate[passing]
        if self.by_row:
            anchor, group = reach(maxima, gate[:, None]).nonzero(as_tuple=True)
        else:
            group, anchor = reach(maxima, gate).nonzero(as_tuple=True)
        return passing[anchor] if few else anchor, group

    def scores(self, anchor: Int64[Tensor, " t"], group: Int64[Tensor, " t"]) -> Float32[Tensor, "t G"]:
        """The scores of some groups."""
        width = self.tile.shape[1]
        first, stride = self._members(group)
        if self.by_row:
            at = (anchor * width + first)[:, None] + stride[:, None] * torch.arange(GROUP, device=group.device)
        else:
            at = (anchor + first * width)[:, None] + width * torch.arange(GROUP, device=group.device)
        return self.tile.take(at).float()

    def column(self, group: Int64[Tensor, " t"], member: Int64[Tensor, " t"]) -> Int64[Tensor, " t"]:
        """The column of a member of a group."""
        first, stride = self._members(group)
        return self.start + first + member * stride

    def slack(
        self, scores: Float32[Tensor, "*s"], anchor: slice | Int64[Tensor, "*b"], *, shifted: bool = False
    ) -> Float32[Tensor, "*s"]:
        """The bound of the error of some scores; `shifted` for those that come from maxima in a window."""
        error = self.error[anchor]
        if self.relative:
            error = error + self.relative * scores.abs()
        if shifted and self.ceiling is not None:
            error = error + self._shift_unit * (scores.abs() + (self.ceiling.shift[anchor].float() - scores).abs())
        return error.expand_as(scores)

    def guaranteed(
        self, scores: Float32[Tensor, "*s"], anchor: slice | Int64[Tensor, "*b"], *, shifted: bool = False
    ) -> Float32[Tensor, "*s"]:
        """What a score guarantees its anchor: its lower bound, or -inf where it may lie outside the window."""
        slack = self.slack(scores, anchor, shifted=shifted)
        low = scores - slack
        if self.ceiling is not None:
            low = torch.where(scores + slack < self.ceiling.sure[anchor], low, -torch.inf)
        return low

    def needed(self, floor: Float32[Tensor, " a"], *, shifted: bool = False) -> Float32[Tensor, " a"]:
        """The least score whose true one can reach the floor."""
        unit = self.relative
        if self.ceiling is None or not shifted:
            least = floor - self.error
            return least - unit * (1 + 2 * unit) * least.abs() if unit else least
        shift = self.ceiling.shift.float()
        unit = unit + self._shift_unit
        depth = shift - floor + self.error + 2 * unit * (shift.abs() + floor.abs() + self.error)
        return shift - depth * (1 + 2 * self._shift_unit)

    def _members(self, group: Int64[Tensor, " t"]) -> tuple[Int64[Tensor, " t"], Int64[Tensor, " t"]]:
        """The first column of some groups, counted from the first of this side, and the stride to the next."""
        if not self.by_row:
            return group * GROUP, torch.ones_like(group)
        piece = group // (PIECE // GROUP)
        stride = (self.tile.shape[1] - piece * PIECE).clamp_max(PIECE) // GROUP
        return piece * (PIECE - PIECE // GROUP) + group, stride

    def _best(self) -> Shaped[Tensor, " a"]:
        """The best maximum of each anchor, as it was reduced."""
        axis = 1 if self.by_row else 0
        if not self.bits:
            return self.maxima.amax(axis)
        bits = self.maxima.view(_BITS[self.maxima.dtype])
        return bits.amax(axis) if self.ceiling is None else bits.amin(axis)

    @property
    def _shift_unit(self) -> float:
        """Relative error of a difference from the shift, and of adding it again."""
        return 2.0**-8 * (1 + 2.0**-6) if self.tile.dtype == torch.bfloat16 else 2.0**-22

    def _unshifted(self, held: Float[Tensor, "*s"], anchor: slice | Int64[Tensor, "*b"]) -> Float32[Tensor, "*s"]:
        """Scores from maxima; -inf for those above the ceiling."""
        if self.ceiling is None:
            return held.float()
        return torch.where(torch.signbit(held), held.float() + self.ceiling.shift[anchor].float(), -torch.inf)


def collect(side: Side, k: int, candidates: Candidates, work: Work) -> None:
    """Raise the floors of the anchors as far as this tile allows, and add its candidates."""
    floor = candidates.floor[side.first : side.last]
    needed = _needed(side, floor, k)
    if side.bits and side.ceiling is None and bool((needed <= 0).any()):
        side.reduce_exactly()
        needed = _needed(side, floor, k)
    anchor, group = side.reaching(needed)
    if len(anchor) == 0:
        return
    count = torch.bincount(anchor, minlength=len(floor))
    crowded = (count > min(2 * k + 6, side.groups // 2)).nonzero().flatten()
    if len(crowded):
        _raise_floor(side, floor, k, crowded)
        anchor, group = side.reaching(side.needed(floor, shifted=True))
    work.groups += len(anchor)
    needed = side.needed(floor).clamp_min(torch.finfo(torch.float32).min)
    for part in chunks(len(anchor), _LOOK):
        _look(side, anchor[part], group[part], needed, candidates, work)


def _needed(side: Side, floor: Float32[Tensor, " a"], k: int) -> Float32[Tensor, " a"]:
    """What a group's maximum must reach; what the maxima guarantee raises the floor where that is cheap or needed."""
    if k == 1:
        torch.maximum(floor, side.guaranteed(side.tops(), slice(None), shifted=True), out=floor)
    else:
        without = (floor == -torch.inf).nonzero().flatten()
        if len(without):
            _raise_floor(side, floor, k, without)
    return side.needed(floor, shifted=True)


def _look(
    side: Side,
    anchor: Int64[Tensor, " t"],
    group: Int64[Tensor, " t"],
    needed: Float32[Tensor, " a"],
    candidates: Candidates,
    work: Work,
) -> None:
    """Look at the single scores of some groups."""
    scores = side.scores(anchor, group)
    pair, member = _admitted(side, scores, anchor, needed).nonzero(as_tuple=True)
    work.scores += len(pair)
    if not side.by_row:  # candidates are kept anchor by anchor
        order = anchor[pair].argsort()
        pair, member = pair[order], member[order]
    anchor, column, scores = anchor[pair], side.column(group[pair], member), scores[pair, member]
    low, high = side.guaranteed(scores, anchor), scores + side.slack(scores, anchor)
    candidates.add(side.first, side.last, anchor, column, low, high)


def _admitted(
    side: Side, scores: Float32[Tensor, "t G"], anchor: Int64[Tensor, " t"], needed: Float32[Tensor, " a"]
) -> Bool[Tensor, "t G"]:
    """Which scores can reach the floor from below the ceiling."""
    admitted = scores >= needed[anchor, None]
    if side.ceiling is not None:
        admitted &= scores - side.slack(scores, anchor[:, None]) < side.ceiling.possible[anchor, None]
    return admitted


def _raise_floor(side: Side, floor: Float32[Tensor, " a"], k: int, anchor: Int64[Tensor, " m"]) -> None:
    """Raise floors to the k-th best that the groups of a tile guarantee; the best of a group is one of its members."""
    shifted = 2 * k <= side.groups
    if shifted:
        scores = side.of_groups(anchor)
    else:
        every = torch.arange(side.groups, device=anchor.device)
        scores = side.scores(anchor.repeat_interleave(side.groups), every.repeat(len(anchor))).view(len(anchor), -1)
    if k > scores.shape[1]:
        return
    low = side.guaranteed(scores, anchor[:, None], shifted=shifted)
    best = low.amax(1) if k == 1 else low.topk(k, 1).values[:, -1]
    floor[anchor] = torch.maximum(floor[anchor], best)
