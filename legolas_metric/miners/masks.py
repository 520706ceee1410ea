"""What the rows are to each anchor by a `LabelRelation`, as dense masks.

Letters: q anchors, n rows, c labels, l levels, t tags, k draws, m the most positives of any anchor.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.miners.by_label import Classes, Part, draw_distinct
from legolas_metric.relations import LabelRelation, positives_and_negatives
from legolas_metric.rows import NO_ID, Rows


@dataclass(slots=True)
class Masks:
    """What the rows are to each anchor by a `LabelRelation`, as dense masks, worked out when first asked for.

    Row numbers that do not exist are -1.

    Attributes:
        anchors, rows: with labels, and groups where the relation needs them.
        self_row: [q], the row that each anchor is (-1: none).
        relation: the rule.
    """

    anchors: Rows
    rows: Rows
    self_row: Int64[Tensor, " q"]
    relation: LabelRelation
    _masks: tuple[Bool[Tensor, "q n"], Bool[Tensor, "q n"]] | None = field(default=None, repr=False)

    def __getitem__(self, part: Part) -> "Masks":
        """The same for some of the anchors."""
        known = None if self._masks is None else (self._masks[0][part], self._masks[1][part])
        return Masks(self.anchors[part], self.rows, self.self_row[part], self.relation, known)

    @property
    def fewest(self) -> int:
        """The fewest positives, or negatives, of any anchor."""
        return min(int(self.positives.min()), int(self.negatives.min()))

    @property
    def positives(self) -> Int64[Tensor, " q"]:
        """How many positives each anchor has."""
        return self._both()[0].sum(1)

    @property
    def negatives(self) -> Int64[Tensor, " q"]:
        """How many negatives each anchor has."""
        return self._both()[1].sum(1)

    def draw_positive(self, uniform: Float64[Tensor, " q"]) -> Int64[Tensor, " q"]:
        """A positive of each anchor, by a draw in [0, 1)."""
        mask = self._both()[0]
        return _numbered(mask, draw_distinct(uniform[:, None], mask.sum(1)))[:, 0]

    def draw_negatives(self, uniform: Float64[Tensor, "q k"]) -> Int64[Tensor, "q k"]:
        """k different negatives of each anchor, by draws in [0, 1)."""
        mask = self._both()[1]
        return _numbered(mask, draw_distinct(uniform, mask.sum(1)))

    def list_positives(self) -> Int64[Tensor, "q m"]:
        """All positives of each anchor, ascending; -1 past the last."""
        mask = self._both()[0]
        count = mask.sum(1)[:, None]
        number = torch.arange(int(count.max()), device=count.device).expand(len(count), -1)
        return _numbered(mask, torch.where(number < count, number, NO_ID))

    def split_(self, score: Float32[Tensor, "q n"]) -> tuple[Int64[Tensor, "q m"], Float32[Tensor, "q m"]]:
        """The positives and their scores; sets all scores but the negatives' to -inf."""
        row = self.list_positives()
        kept = score.gather(1, row.clamp_min(0)).masked_fill_(row == NO_ID, -torch.inf)
        score.masked_fill_(~self._both()[1], -torch.inf)
        return row, kept

    def _both(self) -> tuple[Bool[Tensor, "q n"], Bool[Tensor, "q n"]]:
        if self._masks is None:
            self._masks = self._compare()
        return self._masks

    def _compare(self) -> tuple[Bool[Tensor, "q n"], Bool[Tensor, "q n"]]:
        anchors, rows = self.anchors, self.rows
        assert anchors.labels is not None
        assert rows.labels is not None
        positive, negative = positives_and_negatives(
            self.relation, anchors.labels, rows.labels, anchors.groups, rows.groups
        )
        own = self.self_row[:, None] == torch.arange(len(rows), device=self.self_row.device)
        return positive & ~own, negative & ~own


Relations = Classes | Masks
"""What the rows are to each anchor: two ways of knowing it, with the same methods."""


def _numbered(mask: Bool[Tensor, "q n"], number: Int64[Tensor, "q k"]) -> Int64[Tensor, "q k"]:
    """The column of the number-th set entry of each row; -1 where the number is."""
    place = torch.searchsorted(mask.long().cumsum(1), number + 1)
    return torch.where(number < 0, NO_ID, place)
