"""Which reference rows are positives and which are negatives of each anchor, one block of anchors at a time.

N anchors, M reference rows, B anchors of a block, W columns of its band. Sorted by label, the positives of a block of
anchors are one band of columns, so masks are [B, W] and never [N, M].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED
from legolas_metric.numerics import chunks


@dataclass(frozen=True, slots=True)
class Block:
    """Some anchors, and their relation to the columns of `band`. Every column outside the band is a negative.

    Attributes:
        rows: the anchors.
        band: columns to which the masks belong.
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
    counts: Bool[Tensor, " t"] | None


@dataclass(frozen=True, slots=True)
class ByLabel:
    """Same label: positive; other label: negative; the same row or the same id: neither.

    Label -1 is never an anchor (the caller gives it no weight) and never a positive.
    """

    order: Int64[Tensor, " n"] | None
    ref_order: Int64[Tensor, " m"] | None
    labels: Int64[Tensor, " n"]
    ref_labels: Int64[Tensor, " m"]
    same_rows: bool
    ids: Int64[Tensor, " n"] | None
    ref_ids: Int64[Tensor, " m"] | None

    @classmethod
    def of(
        cls,
        labels: Int64[Tensor, " n"],
        ref_labels: Int64[Tensor, " m"] | None,
        ids: Int64[Tensor, " n"] | None = None,
        ref_ids: Int64[Tensor, " m"] | None = None,
    ) -> "ByLabel":
        """Sort both sides by label; without `ref_labels` the anchors are their own reference rows."""
        sorted_labels, order = labels.sort(stable=True)
        sorted_ids = None if ids is None else ids[order]
        if ref_labels is None:
            return cls(order, order, sorted_labels, sorted_labels, True, sorted_ids, sorted_ids)
        sorted_refs, ref_order = ref_labels.sort(stable=True)
        sorted_ref_ids = None if ref_ids is None else ref_ids[ref_order]
        return cls(order, ref_order, sorted_labels, sorted_refs, False, sorted_ids, sorted_ref_ids)

    def whole(self) -> Block:
        """All anchors as one block, without a data-dependent shape."""
        return self._block(slice(0, len(self.labels)), slice(0, len(self.ref_labels)))

    def blocks(self, size: int) -> Iterator[Block]:
        """All anchors in order, each block with the band of columns that bear its labels."""
        if self.ids is not None:  # the same id may bear another label on the other side
            everything = slice(0, len(self.ref_labels))
            yield from (self._block(rows, everything) for rows in chunks(len(self.labels), size))
            return
        parts = list(chunks(len(self.labels), size))
        if not parts:
            return
        first = self.labels[[part.start for part in parts]]
        last = self.labels[[part.stop - 1 for part in parts]]
        starts = torch.searchsorted(self.ref_labels, first).tolist()
        stops = torch.searchsorted(self.ref_labels, last, right=True).tolist()
        for rows, start, stop in zip(parts, starts, stops):
            start = min(start, len(self.ref_labels) - 1)  # at least one column, so that every reduction has something
            yield self._block(rows, slice(start, max(stop, start + 1)))

    def _block(self, rows: slice, band: slice) -> Block:
        same = self.labels[rows, None] == self.ref_labels[None, band]
        other = ~same
        if self.same_rows:
            device = same.device
            own = torch.arange(rows.start, rows.stop, device=device)[:, None]
            same = same & (own != torch.arange(band.start, band.stop, device=device)[None])
        if self.ids is not None and self.ref_ids is not None:
            distinct = self.ids[rows, None] != self.ref_ids[None, band]
            same, other = same & distinct, other & distinct
        return Block(rows, band, same & (self.labels[rows, None] != UNLABELLED), other)


@dataclass(frozen=True, slots=True)
class ByPairs:
    """Exactly the pairs that are listed, each once: (anchor_p, positive) and (anchor_n, negative), sorted by anchor."""

    order: None
    ref_order: None
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
        """Sort the pairs by anchor; a reference row labelled -1 is nobody's positive."""
        anchor_p, p_order = anchor_p.sort()
        anchor_n, n_order = anchor_n.sort()
        may = None if ref_labels is None else ref_labels != UNLABELLED
        return cls(None, None, anchor_p, positive[p_order], anchor_n, negative[n_order], shape, may)

    def whole(self) -> Block:
        """All anchors as one block, without a data-dependent shape."""
        everything = slice(None)
        return self._block(slice(0, self.shape[0]), everything, everything)

    def blocks(self, size: int) -> Iterator[Block]:
        """All anchors in order, every block with all columns as its band."""
        parts = list(chunks(self.shape[0], size))
        bounds = torch.tensor([0] + [part.stop for part in parts], device=self.anchor_p.device)
        of_p = torch.searchsorted(self.anchor_p, bounds).tolist()
        of_n = torch.searchsorted(self.anchor_n, bounds).tolist()
        for number, rows in enumerate(parts):
            yield self._block(rows, slice(of_p[number], of_p[number + 1]), slice(of_n[number], of_n[number + 1]))

    def _block(self, rows: slice, of_p: slice, of_n: slice) -> Block:
        positive, negative = self.positive.new_zeros(2, rows.stop - rows.start, self.shape[1], dtype=torch.bool)
        positive[self.anchor_p[of_p] - rows.start, self.positive[of_p]] = True
        negative[self.anchor_n[of_n] - rows.start, self.negative[of_n]] = True
        if self.may_be_positive is not None:
            positive &= self.may_be_positive
        return Block(rows, slice(0, self.shape[1]), positive, negative)


@dataclass(frozen=True, slots=True)
class ByTriplets:
    """Exactly the triplets that are listed, each as often as it is listed, sorted by anchor."""

    order: None
    ref_order: None
    anchor: Int64[Tensor, " t"]
    positive: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]
    rows: int
    counts: Bool[Tensor, " t"] | None

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
        counts = None if ref_labels is None else ref_labels[positive] != UNLABELLED
        return cls(None, None, anchor, positive, negative, rows, counts)

    def whole(self) -> TripletBlock:
        """All anchors as one block, without a data-dependent shape."""
        return TripletBlock(slice(0, self.rows), self.anchor, self.positive, self.negative, self.counts)

    def blocks(self, size: int) -> Iterator[TripletBlock]:
        """All anchors in order, each block with its triplets."""
        parts = list(chunks(self.rows, size))
        bounds = torch.tensor([0] + [part.stop for part in parts], device=self.anchor.device)
        places = torch.searchsorted(self.anchor, bounds).tolist()
        for rows, start, stop in zip(parts, places, places[1:]):
            part = slice(start, stop)
            counts = None if self.counts is None else self.counts[part]
            yield TripletBlock(rows, self.anchor[part] - rows.start, self.positive[part], self.negative[part], counts)


Relation = ByLabel | ByPairs | ByTriplets
"""Who is whose positive and negative, with the anchors and the reference rows in an `order` (None: as they came)."""
