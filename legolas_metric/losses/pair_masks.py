"""Which reference rows are positives and which are negatives of each anchor, one block of anchors at a time.

N anchors, M reference rows, B anchors of a block, W columns of its band. Sorted by label, the positives of a block of
anchors are one band of columns, so masks are [B, W] and never [N, M].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED
from legolas_metric.geometry import chunks
from legolas_metric.lookup import runs_of


@dataclass(frozen=True, slots=True)
class Block:
    """Some anchors, and their relation to the columns of `band`. Every column outside the band is a negative.

    Attributes:
        rows: the anchors.
        band: columns to which the masks belong, at least one.
        positive, negative: [b, w]; a column of the band that is neither is ignored.
    """

    rows: slice
    band: slice
    positive: Bool[Tensor, "b w"]
    negative: Bool[Tensor, "b w"]


@dataclass(frozen=True, slots=True)
class TripletBlock:
    """Some anchors and the triplets that are listed for them.

    Attributes:
        rows: the anchors.
        anchor: [t], counted from the first of `rows`.
        positive, negative: [t], columns.
        counts: [t], whether a triplet counts.
    """

    rows: slice
    anchor: Int64[Tensor, " t"]
    positive: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]
    counts: Bool[Tensor, " t"]


class Runs(NamedTuple):
    """The classes of a sorted batch: the first row of each anchor's, how many it has, and its own number among them."""

    start: Int64[Tensor, " n"]
    length: Int64[Tensor, " n"]
    number: Int64[Tensor, " n"]
    others: Int64[Tensor, " p"]  # 1, 2, ... up to the most positives of any anchor

    def strip(self, rows: slice) -> tuple[Int64[Tensor, "b p"], Bool[Tensor, "b p"]]:
        """The positives of some anchors, numbered from the first of these on, and which there are.

        A place that holds none has another row of the class, or the anchor itself.
        """
        length = self.length[rows, None]
        column = (self.number[rows, None] + self.others).remainder_(length).add_(self.start[rows, None] - rows.start)
        some = self.others < length
        if rows.start:  # what lies before is another strip's
            some &= column >= 0
            column.clamp_min_(0)
        return column, some

    def reach(self, rows: slice) -> int:
        """Up to where the classes of some anchors go."""
        last = rows.stop - 1
        return int(self.start[last] + self.length[last])


@dataclass(frozen=True, slots=True)
class ByLabel:
    """Same label: positive; other label: negative; the same row or the same id: neither.

    Label -1 is never an anchor (the caller gives it no weight) and never a positive. Labels are kept so that an
    unlabelled anchor equals nothing: -1 among the anchors is -2 among the reference rows.

    Attributes:
        order, ref_order: where the anchors and the reference rows come from; None where they stay as they came.
        labels, ref_labels: in that order.
        diagonal: row i of both sides is the same example.
        ids, ref_ids: the same id is the same example, too.
        ids_follow_labels: the same id bears the same label on both sides.
    """

    order: Int64[Tensor, " n"] | None
    ref_order: Int64[Tensor, " m"] | None
    labels: Int64[Tensor, " n"]
    ref_labels: Int64[Tensor, " m"]
    diagonal: bool
    ids: Int64[Tensor, " n"] | None
    ref_ids: Int64[Tensor, " m"] | None
    ids_follow_labels: bool

    @classmethod
    def of(
        cls,
        labels: Int64[Tensor, " n"],
        ref_labels: Int64[Tensor, " m"] | None,
        *,
        ids: Int64[Tensor, " n"] | None = None,
        ref_ids: Int64[Tensor, " m"] | None = None,
        ids_follow_labels: bool = False,
    ) -> "ByLabel":
        """Sort both sides by label; without `ref_labels` the anchors are their own reference rows."""
        diagonal = ref_labels is None
        others = labels if ref_labels is None else ref_labels
        if ids is None or ref_ids is None:
            ids = ref_ids = None
        order = ref_order = None
        if not torch.compiler.is_compiling():
            labels, order = labels.sort(stable=True)
            others, ref_order = (labels, order) if diagonal else others.sort(stable=True)
            ids = None if ids is None else ids[order]
            ref_ids = None if ref_ids is None else ref_ids[ref_order]
        others = others.masked_fill(others == UNLABELLED, UNLABELLED - 1)
        return cls(order, ref_order, labels, others, diagonal, ids, ref_ids, ids_follow_labels)

    def whole(self) -> Block:
        """All anchors as one block, without a data-dependent shape."""
        return self._block(slice(0, len(self.labels)), slice(0, len(self.ref_labels)))

    def blocks(self, size: int) -> Iterator[Block]:
        """All anchors in order, each block with the band of columns that bear its labels."""
        everything = slice(0, len(self.ref_labels))
        if self.order is None or (self.ids is not None and not self.ids_follow_labels):
            yield from (self._block(rows, everything) for rows in chunks(len(self.labels), size))
            return
        for rows, start, stop in self._bands(size):
            start = min(start, everything.stop - 1)
            yield self._block(rows, slice(start, max(stop, start + 1)))

    def runs(self) -> Runs:
        """Of a sorted batch against itself: where each anchor's class lies; unlabelled rows are alone in theirs."""
        start, length = runs_of(self.labels, self.labels)
        own = torch.arange(len(start), device=start.device)
        if int(self.labels[0]) == UNLABELLED:  # they may be many, and have no positives
            unlabelled = slice(0, int(length[0]))
            start[unlabelled], length[unlabelled] = own[unlabelled], 1
        return Runs(start, length, own - start, torch.arange(1, int(length.max()), device=start.device))

    def _bands(self, size: int) -> Iterator[tuple[slice, int, int]]:
        n = len(self.labels)
        row = torch.arange(0, n, size, device=self.labels.device)
        starts, _ = runs_of(self.labels[row], self.ref_labels)
        begin, width = runs_of(self.labels[(row + size).clamp_max(n) - 1], self.ref_labels)
        return zip(chunks(n, size), *torch.stack([starts, begin + width]).tolist())

    def _block(self, rows: slice, band: slice) -> Block:
        positive = self.labels[rows, None] == self.ref_labels[None, band]
        negative = ~positive
        if self.diagonal:
            # Rows may start before their band: those of the first block that are labelled -1.
            positive.diagonal(rows.start - band.start).fill_(False)
        if self.ids is not None and self.ref_ids is not None:
            distinct = self.ids[rows, None] != self.ref_ids[None, band]
            positive, negative = positive & distinct, negative & distinct
        return Block(rows, band, positive, negative)


@dataclass(frozen=True, slots=True)
class ByPairs:
    """Exactly the pairs that are listed, each once: (anchor_p, positive) and (anchor_n, negative), sorted by anchor.

    A reference row labelled -1 is nobody's positive (`may_be_positive`, None: all may).
    """

    anchor_p: Int64[Tensor, " s"]
    positive: Int64[Tensor, " s"]
    anchor_n: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]
    shape: tuple[int, int]
    may_be_positive: Bool[Tensor, " m"] | None

    @classmethod
    def of(
        cls,
        anchor_p: Int64[Tensor, " s"],
        positive: Int64[Tensor, " s"],
        anchor_n: Int64[Tensor, " t"],
        negative: Int64[Tensor, " t"],
        *,
        shape: tuple[int, int],
        ref_labels: Int64[Tensor, " m"] | None,
    ) -> "ByPairs":
        """Sort the pairs by anchor."""
        anchor_p, p_order = anchor_p.sort()
        anchor_n, n_order = anchor_n.sort()
        may = None if ref_labels is None else ref_labels != UNLABELLED
        return cls(anchor_p, positive[p_order], anchor_n, negative[n_order], shape, may)

    def whole(self) -> Block:
        """All anchors as one block, without a data-dependent shape."""
        everything = slice(None)
        return self._block(slice(0, self.shape[0]), everything, everything)

    def blocks(self, size: int) -> Iterator[Block]:
        """All anchors in order, every block with all columns as its band."""
        parts = list(chunks(self.shape[0], size))
        of_p, of_n = (_parts(anchors, parts) for anchors in (self.anchor_p, self.anchor_n))
        return (self._block(*part) for part in zip(parts, of_p, of_n))

    def _block(self, rows: slice, of_p: slice, of_n: slice) -> Block:
        positive = self.positive.new_zeros(rows.stop - rows.start, self.shape[1], dtype=torch.bool)
        negative = torch.zeros_like(positive)
        positive[self.anchor_p[of_p] - rows.start, self.positive[of_p]] = True
        negative[self.anchor_n[of_n] - rows.start, self.negative[of_n]] = True
        if self.may_be_positive is not None:
            positive &= self.may_be_positive
        if not torch.compiler.is_compiling():
            _refuse_both(positive, negative, rows.start)
        return Block(rows, slice(0, self.shape[1]), positive, negative)


@dataclass(frozen=True, slots=True)
class ByTriplets:
    """Exactly the triplets that are listed, each as often as it is listed, sorted by anchor."""

    anchor: Int64[Tensor, " t"]
    positive: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]
    rows: int
    counts: Bool[Tensor, " t"]

    @classmethod
    def of(
        cls,
        anchor: Int64[Tensor, " t"],
        positive: Int64[Tensor, " t"],
        negative: Int64[Tensor, " t"],
        *,
        rows: int,
        ref_labels: Int64[Tensor, " m"] | None,
    ) -> "ByTriplets":
        """Sort the triplets by anchor; one whose positive is labelled -1 does not count."""
        anchor, order = anchor.sort()
        positive, negative = positive[order], negative[order]
        all_count = torch.ones_like(anchor, dtype=torch.bool)
        counts = all_count if ref_labels is None else ref_labels[positive] != UNLABELLED
        return cls(anchor, positive, negative, rows, counts)

    def whole(self) -> TripletBlock:
        """All anchors as one block, without a data-dependent shape."""
        return TripletBlock(slice(0, self.rows), self.anchor, self.positive, self.negative, self.counts)

    def blocks(self, size: int) -> Iterator[TripletBlock]:
        """All anchors in order, each block with its triplets."""
        parts = list(chunks(self.rows, size))
        for rows, part in zip(parts, _parts(self.anchor, parts)):
            anchor = self.anchor[part] - rows.start
            yield TripletBlock(rows, anchor, self.positive[part], self.negative[part], self.counts[part])


Relation = ByLabel | ByPairs | ByTriplets
"""Who is whose positive and negative."""


def _refuse_both(positive: Bool[Tensor, "b m"], negative: Bool[Tensor, "b m"], first: int) -> None:
    both = positive & negative
    if bool(both.any()):
        row, column = both.nonzero()[0].tolist()
        raise ValueError(
            f"indices_tuple lists anchor {first + row} with row {column} both as positive and as negative: a pair is "
            "one of them; look at the labels that the miner was given"
        )


def _parts(anchors: Int64[Tensor, " t"], parts: list[slice]) -> list[slice]:
    """Where each part's anchors lie in a sorted list of anchors."""
    bounds = torch.tensor([0] + [part.stop for part in parts], device=anchors.device)
    places = torch.searchsorted(anchors, bounds).tolist()
    return [slice(start, stop) for start, stop in pairwise(places)]
