"""Candidates that are probably not negatives at all: mislabelled rows, unlabelled positives, near duplicates.

Letters: q anchors, n rows, p pairs of anchor and positive, c candidates of a pair, m positives of an anchor,
k neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import UNLABELLED, check_choice, check_number, check_whole
from legolas_metric.geometry import chunks, similarity
from legolas_metric.lookup import lookup
from legolas_metric.miners.masks import Masks
from legolas_metric.miners.pool import Pool
from legolas_metric.rows import NO_ID
from legolas_metric.signatures import typed_fields
from legolas_metric.tables import Sheet

Reference = Literal["mean", "quantile", "nearest"]

_REFERENCE_POSITIVES = 64
_MOST_LABELS = 1 << 14


@typed_fields
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FalseNegativeGuard:
    """Rejects candidates that are probably false negatives; the next candidate takes the place of a rejected one.

    A candidate n of anchor a is rejected, for the first of these reasons that holds:

    - "rank": it is among the `skip` nearest candidates.
    - "near_duplicate": d_an < near_duplicate.
    - "relative_margin": s_an > s_p - |s_p| (1 - relative), s_p the anchor's reference positive similarity; so the
      bound lies below s_p for negative similarities too.
    - "absolute_margin": s_an > s_p - absolute.
    - "vote": of the candidate's `neighbours` nearest rows at least `vote` carry the anchor's label, and more than carry
      its own; or the same the other way round: the anchor's neighbours carry the candidate's label (then the anchor is
      the mislabelled one). Rows without a label vote for none. Under a `LabelRelation` of labels, to carry a label is
      to be a positive of it, which it is asked for all labels of rows and anchors.

    Args:
        relative: r, below 1 for a bound below s_p; None switches it off.
        absolute: in s; None switches it off.
        reference: "mean", "quantile" or "nearest" of the anchor's positives (over at most 64 of them, evenly chosen).
            Against the farthest positive every hard negative would be rejected.
        quantile: for "quantile"; 0 is the farthest positive, 1 the nearest.
        near_duplicate: in d, which "dot" hasn't; None switches it off.
        skip: nearest candidates that are never taken.
        vote: share of the neighbours, in (0, 1]; None switches it off.
        neighbours: how many rows vote; all others, where there are fewer.
        depth: candidates that are looked at before a pair is dropped, and counted as exhausted.

    Raises:
        ValueError: a setting out of range; `near_duplicate` under "dot", or a vote by a relation of more than 16,384
            labels, when it mines.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, FalseNegativeGuard, HardMiner
        >>> angle = torch.tensor([0.0, 0.1, 0.2, 0.15, 1.5, 1.6])  # the row 3 is mislabelled
        >>> bank = EmbeddingBank(torch.stack([angle.cos(), angle.sin()], 1), [0, 0, 0, 1, 1, 1])
        >>> guard = FalseNegativeGuard(neighbours=3)
        >>> HardMiner(guard=guard).mine(bank, anchors=[0, 4, 5]).negative
        tensor([4, 2, 2])

    Source: ours.
    """

    relative: float | None = None
    absolute: float | None = None
    reference: Reference = "mean"
    quantile: float = 0.5
    near_duplicate: float | None = None
    skip: int = 0
    vote: float | None = 0.5
    neighbours: int = 10
    depth: int = 64

    def __post_init__(self) -> None:
        check_choice("reference", self.reference, get_args(Reference))
        for name, value in (("relative", self.relative), ("quantile", self.quantile), ("vote", self.vote)):
            if value is not None:
                check_number(name, value, least=0.0, most=1.0)
        if self.vote == 0:
            raise ValueError("vote=0 would reject every candidate: None switches it off")
        if self.absolute is not None:
            check_number("absolute", self.absolute)
        if self.near_duplicate is not None:
            check_number("near_duplicate", self.near_duplicate, least=0.0)
        check_whole("skip", self.skip, 0)
        check_whole("neighbours", self.neighbours, 1)
        check_whole("depth", self.depth, self.skip + 1)

    def __repr__(self) -> str:
        rules = [
            f"{rule.name}={getattr(self, rule.name)!r}"
            for rule in fields(self)
            if getattr(self, rule.name) != rule.default
        ]
        return f"FalseNegativeGuard({', '.join(rules)})"

    def _repr_html_(self) -> str:
        rows = [[rule.name, getattr(self, rule.name)] for rule in fields(self)]
        return Sheet("FalseNegativeGuard", ["rule", "setting"], rows).html()

    def reject(
        self, pool: Pool, anchor: Int64[Tensor, " p"], row: Int64[Tensor, "p c"]
    ) -> dict[str, Bool[Tensor, "p c"]]:
        """Which candidates are rejected, by reason, each for one reason only.

        Args:
            pool: of the anchors.
            anchor: [p], numbers of anchors in the pool.
            row: [p, c] candidates, nearest first; -1 past the last.

        Raises:
            ValueError: `near_duplicate` under "dot", which has no distance.
        """
        found: dict[str, Tensor] = {}
        measured = self.near_duplicate is not None or self.relative is not None or self.absolute is not None
        s_an = pool.similarities(anchor, row) if measured else torch.empty(0)
        if self.skip:
            found["rank"] = (torch.arange(row.shape[1], device=row.device) < self.skip).expand_as(row)
        if self.near_duplicate is not None:
            if pool.metric == "dot":
                raise ValueError("near_duplicate is a distance, which metric='dot' hasn't: use 'cosine' or 'euclidean'")
            nearest = torch.tensor(self.near_duplicate, dtype=torch.float64, device=s_an.device)
            found["near_duplicate"] = s_an > similarity(nearest, pool.metric)
        if self.relative is not None or self.absolute is not None:
            s_p = self._reference(pool)[anchor][:, None]
            if self.relative is not None:
                found["relative_margin"] = s_an > s_p - s_p.abs() * (1 - self.relative)
            if self.absolute is not None:
                found["absolute_margin"] = s_an > s_p - self.absolute
        if self.vote is not None:
            found["vote"] = self._outvoted(pool, anchor, row)
        taken = row == NO_ID
        for reason, mask in found.items():
            found[reason] = mask & ~taken
            taken = taken | mask
        return found

    def _reference(self, pool: Pool) -> Float64[Tensor, " q"]:
        """The reference positive similarity of each anchor; -inf where it has no positive."""
        if self.reference == "nearest":
            every = torch.arange(len(pool.anchors), device=pool.rows.ids.device)
            return pool.similarities(every, pool.positives(farthest=False)[:, None])[:, 0]
        out = []
        q = len(pool.anchors)
        largest = max(1, int(pool.relations.positives.max()))
        for part in chunks(q, rows_for(BLOCK, 32 * largest)):
            row = pool.relations[part].list_positives().sort(1, descending=True).values  # -1 last
            count = (row != NO_ID).sum(1)[:, None]
            kept = torch.arange(min(_REFERENCE_POSITIVES, row.shape[1]), device=row.device)
            place = torch.where(count > len(kept), kept * count // len(kept), kept)
            number = torch.arange(part.start, part.start + len(row), device=row.device)
            s = pool.similarities(number, row.gather(1, place))
            out.append(_summary(s, count[:, 0].clamp_max(len(kept)), self.reference, self.quantile))
        return torch.cat(out)

    def _outvoted(self, pool: Pool, anchor: Int64[Tensor, " p"], row: Int64[Tensor, "p c"]) -> Bool[Tensor, "p c"]:
        """Candidates whose neighbours carry the anchor's label, or that carry the label of the anchor's neighbours."""
        assert self.vote is not None
        alike, of_rows, of_anchors = _alike(pool)
        voters = min(self.neighbours, max(1, len(pool.rows) - 1))
        candidate, place = row.clamp_min(0).unique(return_inverse=True)
        near_row, near_anchor = (pool.neighbours(voters, rows) for rows in (candidate, None))
        row_votes, anchor_votes = ((near != NO_ID).sum(1).clamp_min(1) for near in (near_row, near_anchor))
        by_row, by_anchor = of_rows[near_row], of_rows[near_anchor]  # the last of the rows' stands for no neighbour
        own = alike(of_rows[candidate][:, None], by_row).sum(1) / row_votes
        own_of_anchor = alike(of_anchors[:, None], by_anchor).sum(1) / anchor_votes
        out = torch.zeros_like(row, dtype=torch.bool)
        for part in chunks(len(row), rows_for(BLOCK, 32 * row.shape[1] * voters)):
            a, c = anchor[part], place[part]
            for_anchor = alike(of_anchors[a][:, None, None], by_row[c]).sum(2) / row_votes[c]
            for_candidate = (
                alike(of_rows[candidate[c]][:, :, None], by_anchor[a][:, None]).sum(2) / anchor_votes[a][:, None]
            )
            out[part] = (for_anchor >= self.vote) & (for_anchor > own[c])
            out[part] |= (for_candidate >= self.vote) & (for_candidate > own_of_anchor[a][:, None])
        return out


def _alike(pool: Pool) -> tuple[Callable[[Tensor, Tensor], Tensor], Int64[Tensor, " n1"], Int64[Tensor, " q"]]:
    """Whether labels are positives of each other; the labels of the rows, one for no row at all, and of the anchors."""
    rows, anchors = pool.rows.labels, pool.anchors.labels
    assert rows is not None
    assert anchors is not None
    compare = pool.relations.relation.compare if isinstance(pool.relations, Masks) else None
    if compare is None:
        return _same_label, torch.cat([rows, rows.new_full((1,), NO_ID - 1)]), anchors
    known = torch.cat([rows, anchors]).unique()
    known = known[known != UNLABELLED]
    if len(known) > _MOST_LABELS:
        raise ValueError(
            f"a vote by a relation of {len(known)} labels compares each with each: give examples of equal tags one "
            "label, or pass FalseNegativeGuard(vote=None)"
        )
    table = torch.zeros(len(known) + 1, len(known) + 1, dtype=torch.bool, device=rows.device)
    table[:-1, :-1] = compare(known, known) > 0  # what has no label is like nothing

    def numbered(labels: Tensor) -> Tensor:
        return torch.where(labels == UNLABELLED, len(known), lookup(labels, known)[0])

    return (lambda a, b: table[a, b]), numbered(torch.cat([rows, rows.new_full((1,), UNLABELLED)])), numbered(anchors)


def _same_label(a: Int64[Tensor, "*s"], b: Int64[Tensor, "*t"]) -> Bool[Tensor, "*u"]:
    return (a == b) & (a != UNLABELLED)


def _summary(
    s: Float64[Tensor, "q m"], count: Int64[Tensor, " q"], reference: Reference, quantile: float
) -> Float64[Tensor, " q"]:
    """Mean or quantile of the first `count` entries of each row; the entries past it are -inf."""
    some = count > 0
    if reference == "mean":
        total = s.masked_fill(s == -torch.inf, 0).sum(1)
        return torch.where(some, total / count.clamp_min(1), -torch.inf)
    ordered = s.sort(1, descending=True).values
    place = ((1 - quantile) * (count - 1).clamp_min(0)).round().long()
    return ordered.gather(1, place[:, None])[:, 0]
