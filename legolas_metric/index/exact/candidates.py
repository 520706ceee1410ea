"""The pairs that can still matter, as intervals: a small buffer for each anchor, and the floor below which nothing can.

A candidate is a column with a lower and an upper bound of its true score. The floor of an anchor is a lower bound of
its k-th best true score, so a candidate whose upper bound is below the floor is dropped for good.

Letters: n anchors, c slots, t new candidates.
"""

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

_SLOTS_PER_NEIGHBOUR = 4
_FEWEST_SLOTS = 32
_FEWEST_WINDOWED_SLOTS = 64  # whatever the bound puts on either side of the ceiling is a candidate
_SETTLED_NEIGHBOURS = 2  # candidates per neighbour from which sorting them costs less than looking at more
_CLOSED = 2.0**100  # a floor that no score reaches, and that arithmetic leaves finite


class Candidates:
    """Buffers of `slots` candidates for each of n anchors; written in place.

    Attributes:
        floor: [n], a lower bound of the k-th best true score; out of reach for anchors that take no more candidates.
        reached: [n], the floor of those before they were closed.
        overflowed: [n], anchors for which more candidates than slots remained: their answer must be found otherwise.
    """

    def __init__(self, n: int, k: int, floor: Float32[Tensor, " n"], *, windowed: bool = False) -> None:
        self.k = k
        self.slots = max(_FEWEST_WINDOWED_SLOTS if windowed else _FEWEST_SLOTS, _SLOTS_PER_NEIGHBOUR * k)
        self.crowd = min(self.slots, _SETTLED_NEIGHBOURS * k + _FEWEST_SLOTS // 2)
        device = floor.device
        self.floor = floor
        self.reached = floor.clone()
        self.overflowed = torch.zeros(n, dtype=torch.bool, device=device)
        self.fill = torch.zeros(n, dtype=torch.int64, device=device)
        self.column = torch.zeros(n, self.slots, dtype=torch.int32, device=device)
        self.low = floor.new_full((n, self.slots), -torch.inf)
        self.high = floor.new_full((n, self.slots), -torch.inf)

    def add(
        self,
        first: int,
        last: int,
        anchor: Int64[Tensor, " t"],
        column: Int64[Tensor, " t"],
        low: Float32[Tensor, " t"],
        high: Float32[Tensor, " t"],
    ) -> None:
        """Candidates of the anchors first..last; `anchor` ascends and counts from `first`."""
        count = torch.bincount(anchor, minlength=last - first)
        fill = self.fill[first:last]
        full = (fill + count > self.slots).nonzero().flatten()
        if len(full):
            kept = self._make_room(first, last, full, anchor, low, high)
            anchor, column, low, high = anchor[kept], column[kept], low[kept], high[kept]
            count = torch.bincount(anchor, minlength=last - first)
        place = fill[anchor] + torch.arange(len(anchor), device=anchor.device) - (count.cumsum(0) - count)[anchor]
        at = (anchor + first) * self.slots + place
        self.column.view(-1)[at] = column.to(torch.int32)
        self.low.view(-1)[at] = low
        self.high.view(-1)[at] = high
        fill += count
        crowded = (fill > self.crowd).nonzero().flatten()
        if len(crowded):
            self._settle(crowded + first)

    def survivors(self) -> tuple[Int64[Tensor, " t"], Int64[Tensor, " t"]]:
        """What is left at the end: (anchor, column) pairs, anchors ascending, without those that overflowed."""
        floor = torch.maximum(self.floor, self._guaranteed(self.low))
        anchor, slot = ((self.high >= floor[:, None]) & (self.high > -torch.inf)).nonzero(as_tuple=True)
        return anchor, self.column[anchor, slot].long()

    def _make_room(
        self,
        first: int,
        last: int,
        full: Int64[Tensor, " m"],
        anchor: Int64[Tensor, " t"],
        low: Float32[Tensor, " t"],
        high: Float32[Tensor, " t"],
    ) -> Bool[Tensor, " t"]:
        """Raise the floors of full anchors by what is new and what is there; returns which new candidates remain."""
        count = torch.bincount(anchor, minlength=last - first)
        new = torch.isin(anchor, full).nonzero().flatten()
        row = torch.searchsorted(full, anchor[new])
        place = new - (count.cumsum(0) - count)[anchor[new]]
        table = low.new_full((len(full), max(self.k, int(count[full].max()))), -torch.inf)
        table[row, place] = low[new]
        floor, fill = self.floor[first:last], self.fill[first:last]
        floor[full] = torch.maximum(floor[full], self._guaranteed(table))
        self._settle(full + first)
        kept = high >= floor[anchor]
        over = (fill + torch.bincount(anchor[kept], minlength=last - first) > self.slots).nonzero().flatten()
        if len(over):
            self._give_up(over + first)
            kept &= ~torch.isin(anchor, over)
        return kept

    def _settle(self, anchors: Int64[Tensor, " m"]) -> None:
        """Raise the floors of some anchors to their k-th best lower bound, and drop what lies below."""
        width = max(self.k, int(self.fill[anchors].max()))
        high, order = self.high[anchors, :width].sort(dim=1, descending=True)
        low = self.low[anchors, :width].gather(1, order)
        floor = torch.maximum(self.floor[anchors], self._guaranteed(low))
        dead = high < floor[:, None]
        self.floor[anchors] = floor
        self.low[anchors, :width] = low.masked_fill_(dead, -torch.inf)
        self.high[anchors, :width] = high.masked_fill_(dead, -torch.inf)
        self.column[anchors, :width] = self.column[anchors, :width].gather(1, order)
        self.fill[anchors] = (high > -torch.inf).sum(1)

    def _guaranteed(self, low: Float32[Tensor, "m c"]) -> Float32[Tensor, " m"]:
        """The k-th best lower bound of each anchor."""
        return low.amax(1) if self.k == 1 else low.topk(self.k, 1).values[:, -1]

    def _give_up(self, anchors: Int64[Tensor, " m"]) -> None:
        self.overflowed[anchors] = True
        self.reached[anchors] = self.floor[anchors]
        self.floor[anchors] = _CLOSED
        self.fill[anchors] = 0
        self.high[anchors] = -torch.inf
        self.low[anchors] = -torch.inf
