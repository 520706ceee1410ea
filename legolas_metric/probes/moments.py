"""Sums over unit rows, in float64: everything that a streaming probe keeps.

D dimensions, C classes. All of it is merged by addition, also over processes.
"""

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import CACHE, rows_for
from legolas_metric.checks import UNLABELLED
from legolas_metric.geometry import chunks
from legolas_metric.lookup import lookup


class Moments:
    """n, S1 = sum x and S2 = sum x x^T, of unlabelled and of labelled rows apart, S1 of the latter by class.

    Attributes:
        totals: [3], unlabelled rows, and the sums of |raw x| and |raw x|^2 over all rows.
        first: [D], S1 of the unlabelled rows.
        second: [2, D, D], S2 of the unlabelled and of the labelled rows.
        classes: int64 [C], the labels seen, ascending.
        class_counts, class_sums: [C] and [C, D], n and S1 of each class.
    """

    __slots__ = ("class_counts", "class_sums", "classes", "first", "second", "totals")

    def __init__(self, d: int, device: torch.device) -> None:
        self.totals: Float64[Tensor, " three"] = torch.zeros(3, dtype=torch.float64, device=device)
        self.first: Float64[Tensor, " d"] = self.totals.new_zeros(d)
        self.second: Float64[Tensor, "2 d d"] = self.totals.new_zeros(2, d, d)
        self.classes: Int64[Tensor, " c"] = torch.zeros(0, dtype=torch.int64, device=device)
        self.class_counts: Float64[Tensor, " c"] = self.totals.new_zeros(0)
        self.class_sums: Float64[Tensor, "c d"] = self.totals.new_zeros(0, d)

    @property
    def n(self) -> int:
        """Rows so far."""
        return int(self.totals[0] + self.class_counts.sum())

    def add(self, rows: Float32[Tensor, "b d"], labels: Int64[Tensor, " b"] | None) -> None:
        """Take rows as they were given; they are made unit here, in float64."""
        if labels is None or bool((labels == UNLABELLED).all()):
            self._add(rows, None)
        elif bool((labels != UNLABELLED).all()):
            self._add(rows, labels)
        else:
            labelled = labels != UNLABELLED
            self._add(rows[~labelled], None)
            self._add(rows[labelled], labels[labelled])

    def _add(self, rows: Float32[Tensor, "b d"], labels: Int64[Tensor, " b"] | None) -> None:
        slots = None
        if labels is not None:
            self.widen(labels)
            slots = lookup(labels, self.classes)[0]
            self.class_counts += torch.bincount(slots, minlength=len(self.classes))
        step = rows_for(CACHE, 8 * rows.shape[1])
        buffer = self.first.new_empty(min(step, len(rows)), rows.shape[1])
        for part in chunks(len(rows), step):
            unit = buffer[: part.stop - part.start].copy_(rows[part])
            norms = torch.linalg.vector_norm(unit, dim=1, keepdim=True)
            unit /= norms
            self.second[int(slots is not None)].addmm_(unit.T, unit)
            if slots is None:
                self.first += unit.sum(0)
            else:
                self.class_sums.index_add_(0, slots[part], unit)
            self.totals[1:] += torch.stack([norms.sum(), norms.square().sum()])
        if slots is None:
            self.totals[0] += len(rows)

    def widen(self, classes: Int64[Tensor, " c"]) -> None:
        """Make room for classes not seen yet, so that tables of equal classes can be added."""
        union = torch.cat([self.classes, classes.to(self.classes.device)]).unique()
        if len(union) == len(self.classes):
            return
        place = lookup(self.classes, union)[0]
        counts, sums = self.class_counts, self.class_sums
        self.class_counts = counts.new_zeros(len(union)).index_copy_(0, place, counts)
        self.class_sums = sums.new_zeros(len(union), sums.shape[1]).index_copy_(0, place, sums)
        self.classes = union

    def tensors(self) -> list[Tensor]:
        """Everything that is merged by addition; adding to these, in place, adds to the moments."""
        return [self.totals, self.first, self.second, self.class_counts, self.class_sums]

    def merge(self, other: "Moments") -> None:
        """Take the rows that another table has taken."""
        self.widen(other.classes)
        place = lookup(other.classes, self.classes)[0]
        self.totals += other.totals.to(self.totals.device)
        self.first += other.first.to(self.first.device)
        self.second += other.second.to(self.second.device)
        self.class_counts.index_add_(0, place, other.class_counts.to(self.first.device))
        self.class_sums.index_add_(0, place, other.class_sums.to(self.first.device))
