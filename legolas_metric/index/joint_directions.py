"""Rows of one direction that lie on several processes, made exact ties as `geometry.merge_directions` does on one.

Letters: n rows of all processes, o of this one, m that are asked for, d dimensions.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from legolas_metric.budgets import WIDE, rows_for
from legolas_metric.distributed import World
from legolas_metric.geometry import chunks, one_direction, projected


def merged_over_all(own: Float[Tensor, "o d"], counts: list[int], world: World) -> Float[Tensor, "o d"]:
    """This process's unit rows, of which those with a direction of another row have the values of its first one.

    Every process knows the projections of all rows, 16 bytes each, and goes through the same rows of one direction; the
    rows themselves stay with their owners, and travel where they are compared, a block at a time.

    Args:
        own: of this process.
        counts: rows of each process.
        world: the processes.

    Returns:
        The rows themselves, or a copy where one changes.
    """
    table = _Rows(own, counts, world)
    place = own.new_empty(len(own), 2, dtype=torch.float64)
    for part in chunks(len(own), rows_for(WIDE, own.shape[1])):
        place[part] = projected(own[part])
    for others, first in one_direction(table, world.gather(place)):
        table.write(others, table[first])
    return table.own


class _Rows:
    """The rows of all processes by number, in order of rank; every process asks for the same ones, and gets them."""

    def __init__(self, own: Float[Tensor, "o d"], counts: list[int], world: World) -> None:
        self.own, self.world = own, world
        self.ends = torch.tensor(counts, device=own.device).cumsum(0)
        self.shape, self.dtype, self.device = (sum(counts), own.shape[1]), own.dtype, own.device
        self._start, self._given = sum(counts[: world.rank]), own

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, number: Int64[Tensor, " m"]) -> Float[Tensor, "m d"]:
        owner = torch.searchsorted(self.ends, number, right=True)
        order = owner.argsort(stable=True)
        found = self.world.gather(self.own[number[owner == self.world.rank] - self._start])
        out = torch.empty_like(found)
        out[order] = found
        return out

    def write(self, number: Int64[Tensor, " m"], rows: Float[Tensor, "m d"]) -> None:
        """Rows by number, of which each process writes its own; into a copy, once one of them changes."""
        mine = (number >= self._start) & (number < self._start + len(self.own))
        number, rows = number[mine] - self._start, rows[mine]
        if torch.equal(self.own[number], rows):
            return
        if self.own is self._given:
            self.own = self.own.clone()
        self.own[number] = rows
