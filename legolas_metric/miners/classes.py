"""Which rows are an anchor's positives and negatives where labels alone decide it: drawn and listed without a search.

Row numbers that do not exist are -1.

Letters: q anchors, n rows, k draws, m the most positives of any anchor.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.index.protocol import NO_ID, Rows

Part = slice | Int64[Tensor, " m"]


@dataclass(frozen=True, slots=True)
class Classes:
    """Relations by equality of labels: an anchor's class is a run of rows ordered by label, then group, then row.

    Attributes:
        order: [n], row numbers in that order.
        start, end: [q], the anchor's class is order[start:end]; empty where no row has its label.
        skip_start, skip_end: [q], the part of that run which is no positive: the anchor itself, or its whole group.
        grouped: whether `order` minds groups.
    """

    order: Int64[Tensor, " n"]
    start: Int64[Tensor, " q"]
    end: Int64[Tensor, " q"]
    skip_start: Int64[Tensor, " q"]
    skip_end: Int64[Tensor, " q"]
    grouped: bool = False

    @classmethod
    def of(cls, anchors: Rows, self_row: Int64[Tensor, " q"], rows: Rows, *, other_group: bool = False) -> "Classes":
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
            labels, order = rows.labels.sort(stable=True)
            start, end = _run(labels, anchors.labels)
            place = torch.empty_like(order)
            place[order] = torch.arange(len(order), device=order.device)
            known = self_row >= 0
            own = torch.where(known, place[self_row], start)
            return cls(order, start, end, own, own + known)
        assert anchors.groups is not None
        assert rows.groups is not None
        q = len(anchors)
        label = torch.cat([anchors.labels, rows.labels])
        groups, group = torch.cat([anchors.groups, rows.groups]).unique(return_inverse=True)
        label = label.unique(return_inverse=True)[1]  # dense, so that the key below cannot overflow
        key = label * len(groups) + group
        keys, order = key[q:].sort(stable=True)
        start, end = _run(label[q:][order], label[:q])
        return cls(order, start, end, *_run(keys, key[:q]), grouped=True)

    def __getitem__(self, part: Part) -> "Classes":
        """The same for some of the anchors."""
        runs = (run[part] for run in (self.start, self.end, self.skip_start, self.skip_end))
        return Classes(self.order, *runs, grouped=self.grouped)

    @property
    def positives(self) -> Int64[Tensor, " q"]:
        """How many positives each anchor has."""
        return (self.end - self.start) - (self.skip_end - self.skip_start)

    @property
    def negatives(self) -> Int64[Tensor, " q"]:
        """How many negatives each anchor has; rows without a label are negatives."""
        return len(self.order) - (self.end - self.start)

    def draw_positive(self, uniform: Float64[Tensor, " q"]) -> Int64[Tensor, " q"]:
        """A positive of each anchor, by a draw in [0, 1)."""
        count = self.positives
        row = self._positive((uniform * count).long()[:, None])[:, 0]
        return torch.where(count > 0, row, NO_ID)

    def draw_negatives(self, uniform: Float64[Tensor, "q k"]) -> Int64[Tensor, "q k"]:
        """k different negatives of each anchor, by draws in [0, 1)."""
        place = draw_distinct(uniform, self.negatives)
        start, size = self.start[:, None], (self.end - self.start)[:, None]
        row = self.order[(place + torch.where(place >= start, size, 0)).clamp(0, len(self.order) - 1)]
        return torch.where(place >= 0, row, NO_ID)

    def list_positives(self) -> Int64[Tensor, "q m"]:
        """All positives of each anchor, ascending."""
        count = self.positives[:, None]
        number = torch.arange(int(count.max()), device=count.device).expand(len(count), -1)
        row, filled = self._positive(number), number < count
        if self.grouped:
            row = row.masked_fill(~filled, len(self.order)).sort(1).values
        return row.masked_fill(~filled, NO_ID)

    def keep_negatives_(self, score: Float32[Tensor, "q n"]) -> None:
        """Set the scores of all rows but the negatives to -inf, in place; touches the anchors' own classes only."""
        size = self.end - self.start
        place = self.start[:, None] + torch.arange(max(1, int(size.max())), device=size.device)
        place = torch.minimum(place, torch.maximum(self.end - 1, self.start)[:, None])
        same = self.order[place.clamp_max(len(self.order) - 1)]  # some other row where there is no class
        known = size > 0
        if bool(known.all()):
            score.scatter_(1, same, -torch.inf)
        else:
            score.scatter_(1, same, torch.where(known[:, None], -torch.inf, score.gather(1, same)))

    def _positive(self, number: Int64[Tensor, "q m"]) -> Int64[Tensor, "q m"]:
        """The row of an anchor's positive by its number; any row where there are not so many."""
        place = self.start[:, None] + number
        skipped = (self.skip_end - self.skip_start)[:, None]
        place = place + torch.where(place >= self.skip_start[:, None], skipped, 0)
        return self.order[place.clamp_max(len(self.order) - 1)]


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


def _run(ordered: Int64[Tensor, " n"], values: Int64[Tensor, " q"]) -> tuple[Int64[Tensor, " q"], Int64[Tensor, " q"]]:
    """Where each value's run in an ascending array starts and ends."""
    return torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)
