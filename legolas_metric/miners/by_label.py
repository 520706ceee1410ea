"""Which rows are an anchor's positives and negatives where labels alone decide it: drawn and listed without a search.

Row numbers that do not exist are -1.

Letters: q anchors, n rows, k draws, m the most positives of any anchor.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.disk.disk_rows import AnyRows
from legolas_metric.lookup import inverse, runs_of
from legolas_metric.miners.joint import JointNames
from legolas_metric.rows import NO_ID

Part = slice | Int64[Tensor, " m"]


@dataclass(frozen=True, slots=True)
class Classes:
    """Relations by equality of labels: an anchor's class is a run of rows ordered by label, then group, then row.

    Attributes:
        order: [n], row numbers in that order.
        start, size: [q], the anchor's class is order[start : start + size]; empty where no row has its label.
        self_row: [q], the row that each anchor is; -1: none of them.
        group: where in `order` the anchor's group begins, and how long it is, if positives must be of another group.
    """

    order: Int64[Tensor, " n"]
    start: Int64[Tensor, " q"]
    size: Int64[Tensor, " q"]
    self_row: Int64[Tensor, " q"]
    group: tuple[Int64[Tensor, " q"], Int64[Tensor, " q"]] | None = None

    @classmethod
    def of(
        cls, anchors: AnyRows, self_row: Int64[Tensor, " q"], rows: AnyRows | JointNames, *, other_group: bool = False
    ) -> "Classes":
        """Classes of the anchors, each of which is row `self_row` (-1: none of the rows).

        Args:
            anchors: with labels, none of them -1.
            self_row: [q].
            rows: with labels.
            other_group: positives must be of another group.
        """
        assert anchors.labels is not None
        assert rows.labels is not None
        if not other_group:
            ordered, order = rows.labels.sort(stable=True)
            return cls(order, *runs_of(anchors.labels, ordered), self_row)
        assert anchors.groups is not None
        assert rows.groups is not None
        q = len(anchors)
        label = torch.cat([anchors.labels, rows.labels])
        groups, group = torch.cat([anchors.groups, rows.groups]).unique(return_inverse=True)
        label = label.unique(return_inverse=True)[1]  # dense, so that the key below cannot overflow
        key = label * len(groups) + group
        keys, order = key[q:].sort(stable=True)
        return cls(order, *runs_of(label[:q], label[q:][order]), self_row, runs_of(key[:q], keys))

    def __getitem__(self, part: Part) -> "Classes":
        """The same for some of the anchors."""
        group = None if self.group is None else (self.group[0][part], self.group[1][part])
        return Classes(self.order, self.start[part], self.size[part], self.self_row[part], group)

    @property
    def fewest(self) -> int:
        """No anchor has fewer positives or negatives than this, however many it may have."""
        if self.group is not None:
            return 0
        least, most = torch.stack(self.size.aminmax()).tolist()
        return min(least - 1, self.order.shape[0] - most)

    @property
    def positives(self) -> Int64[Tensor, " q"]:
        """How many positives each anchor has."""
        return self.size - (self.group[1] if self.group is not None else (self.self_row >= 0).long())

    @property
    def negatives(self) -> Int64[Tensor, " q"]:
        """How many negatives each anchor has; rows without a label are negatives."""
        return len(self.order) - self.size

    def draw_positive(self, uniform: Float64[Tensor, " q"]) -> Int64[Tensor, " q"]:
        """A positive of each anchor, by a draw in [0, 1)."""
        count = self.positives
        place = self.start + (uniform * count).long()
        skip, skipped = self.group or self._own_place()
        place = place + torch.where(place >= skip, skipped, 0)
        return torch.where(count > 0, self.order[place.clamp_max(len(self.order) - 1)], NO_ID)

    def draw_negatives(self, uniform: Float64[Tensor, "q k"]) -> Int64[Tensor, "q k"]:
        """k different negatives of each anchor, by draws in [0, 1)."""
        place = draw_distinct(uniform, self.negatives)
        start, size = self.start[:, None], self.size[:, None]
        row = self.order[(place + torch.where(place >= start, size, 0)).clamp(0, len(self.order) - 1)]
        return torch.where(place >= 0, row, NO_ID)

    def list_positives(self) -> Int64[Tensor, "q m"]:
        """All positives of each anchor, ascending; -1 in place of other rows of the class, and past the last."""
        member, other = self._members()
        if self.group is None:
            return member.masked_fill(other, NO_ID)
        row = member.masked_fill(other, len(self.order)).sort(1).values
        return row.masked_fill(row == len(self.order), NO_ID)

    def split_(self, score: Float32[Tensor, "q n"]) -> tuple[Int64[Tensor, "q m"], Float32[Tensor, "q m"]]:
        """The positives of anchors that have any, and their scores; sets all scores but the negatives' to -inf."""
        member, other = self._members()
        kept = score.gather(1, member).masked_fill_(other, -torch.inf)
        score.scatter_(1, member, -torch.inf)  # the anchor's own class only: the rest is not touched
        return member.masked_fill_(other, NO_ID), kept

    def _members(self) -> tuple[Int64[Tensor, "q m"], Bool[Tensor, "q m"]]:
        """Rows of each anchor's class, the last one repeated; and which of them are no positives, or repetitions."""
        place = self.start[:, None] + torch.arange(int(self.size.max()), device=self.start.device)
        end = (self.start + self.size)[:, None]
        member = self.order[torch.minimum(place, end - 1)]
        other = place >= end
        if self.group is None:
            return member, other.logical_or_(member == self.self_row[:, None])
        beyond = place - self.group[0][:, None]
        return member, other.logical_or_((beyond >= 0) & (beyond < self.group[1][:, None]))

    def _own_place(self) -> tuple[Int64[Tensor, " q"], Int64[Tensor, " q"]]:
        """Where in `order` each anchor stands, and how many rows it is: one, or none."""
        return inverse(self.order)[self.self_row], (self.self_row >= 0).long()


def draw_distinct(uniform: Float64[Tensor, "q k"], count: Int64[Tensor, " q"]) -> Int64[Tensor, "q k"]:
    """k different numbers below count in each row, by draws in [0, 1), each set equally likely; -1 past the count."""
    drawn: list[Tensor] = []  # numbers drawn so far, each column ascending over the list
    out = torch.full(uniform.shape, NO_ID, device=uniform.device)
    for j in range(uniform.shape[1]):
        value = (uniform[:, j] * (count - j)).long()
        for earlier in drawn:  # the value-th of the numbers that are left
            value = value + (value >= earlier).long()
        out[:, j] = torch.where(count > j, value, NO_ID)
        drawn = list(torch.stack([*drawn, value]).sort(0).values)
    return out
