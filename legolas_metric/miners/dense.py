"""The dense pool: a block of anchors with all its similarities.

Letters: q anchors, n rows, m pairs or positives, k negatives, d dimensions, s positive and t negative pairs.
"""

from dataclasses import replace

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.geometry import similarity_matrix
from legolas_metric.index.brute_force import scan
from legolas_metric.index.top_k import best_of
from legolas_metric.miners.by_label import Part
from legolas_metric.miners.masks import Relations
from legolas_metric.miners.pool import Ranked, Window
from legolas_metric.records import SearchStats
from legolas_metric.rows import NO_ID, Rows

PairTuple = tuple[Int64[Tensor, " s"], Int64[Tensor, " s"], Int64[Tensor, " t"], Int64[Tensor, " t"]]


class Table:
    """The rows of a dense search, shared by all blocks of anchors.

    Similarities are float64 products rounded to float32, so that a batch is mined exactly like a small bank.

    Args:
        anchors: [q].
        rows: [n], with ascending ids.
        metric: of the similarity.
    """

    def __init__(self, anchors: Rows, rows: Rows, metric: Metric) -> None:
        self.anchors, self.rows = anchors, rows
        self.metric: Metric = metric
        self._wide: Float64[Tensor, "n d"] | None = None
        self._near: dict[tuple[int, bool], Int64[Tensor, "m k"]] = {}

    def similarities(self, anchors: Rows) -> Float32[Tensor, "q n"]:
        """All similarities of some anchors."""
        if self._wide is None:
            self._wide = self.rows.embeddings.double()
        return similarity_matrix(anchors.embeddings.double(), self._wide, self.metric).float()

    def neighbours(self, k: int, *, of_anchors: bool) -> Int64[Tensor, "m k"]:
        """The k most similar rows of each anchor, or of each row; never itself."""
        if (k, of_anchors) not in self._near:
            of = self.anchors if of_anchors else self.rows
            numbered = replace(self.rows, ids=torch.arange(len(self.rows), device=self.rows.ids.device))
            place = torch.searchsorted(self.rows.ids, of.ids).clamp_max(len(self.rows) - 1)
            own = torch.where(self.rows.ids[place] == of.ids, place, NO_ID)
            self._near[k, of_anchors] = scan(replace(of, ids=own), numbered, k, want="any", metric=self.metric)[0]
        return self._near[k, of_anchors]


class DensePool:
    """A block of anchors and its whole matrix of similarities: for a batch, for reference rows, for any relation.

    Args:
        table: what all blocks share.
        part: the anchors of this block.
        relations: of the anchors of this block.
    """

    screened = False

    def __init__(self, table: Table, part: Part, relations: Relations) -> None:
        whole = isinstance(part, slice) and part.stop - part.start == len(table.anchors)
        self.anchors, self.rows = table.anchors if whole else table.anchors[part], table.rows
        self.relations: Relations = relations
        self.metric: Metric = table.metric
        self._table, self._part = table, part
        self._parts: tuple[Tensor, Tensor, Tensor] | None = None

    def positives(self, k: int, *, farthest: bool) -> Ranked:
        """See `Pool`."""
        _, row, similarity = self.split()
        score = torch.where(row == NO_ID, -torch.inf, -similarity) if farthest else similarity
        place, value = _best(score, k)
        found = torch.where(value == -torch.inf, NO_ID, row.gather(1, place.clamp_min(0)))
        return found, torch.where(found == NO_ID, -torch.inf, -value) if farthest else value

    def negatives(self, anchor: Int64[Tensor, " m"] | None, k: int, window: Window | None) -> Ranked:
        """See `Pool`."""
        score = self.split()[0]
        if anchor is not None:
            score = score[anchor]
        if window is not None:
            score = torch.where(score < float32_bound(window[1], up=True)[:, None], score, -torch.inf)
        place, value = _best(score, k)
        if window is not None:  # the best below `high` are sorted, so `low` can wait until they are chosen
            value = torch.where(value > float32_bound(window[0], up=False)[:, None], value, -torch.inf)
        return torch.where(value == -torch.inf, NO_ID, place), value

    def weighted(self, uniform: Float64[Tensor, "q k"], cutoffs: tuple[float, float]) -> Ranked:
        """See `Pool`. The weight is 1 / q(d), with q the density of distances on the sphere, for d below the cutoff."""
        score = self.split()[0]
        weight = _sphere_weights(score, self.rows.embeddings.shape[1], *cutoffs)
        row = torch.full(uniform.shape, NO_ID, device=score.device)
        for draw in range(uniform.shape[1]):
            mass = weight.cumsum(1, dtype=torch.float64)
            total = mass[:, -1:]
            target = torch.minimum(uniform[:, draw, None] * total, torch.nextafter(total, total.new_tensor(0)))
            place = torch.searchsorted(mass, target, right=True).clamp_max(score.shape[1] - 1)
            row[:, draw] = torch.where(total > 0, place, NO_ID)[:, 0]
            weight.scatter_(1, place, 0)
        return row, score.gather(1, row.clamp_min(0)).masked_fill(row == NO_ID, -torch.inf)

    def neighbours(self, k: int, *, of_anchors: bool) -> Int64[Tensor, "m k"]:
        """See `Pool`."""
        found = self._table.neighbours(k, of_anchors=of_anchors)
        return found[self._part] if of_anchors else found

    def stats(self) -> SearchStats:
        """See `Pool`."""
        return SearchStats(engine="dense")

    def some(self, of: Int64[Tensor, " m"]) -> "DensePool":
        """The same for some of its anchors, in any order."""
        part = self._part
        if isinstance(part, slice):
            part = torch.arange(part.start, part.start + len(self.anchors), device=of.device)
        return DensePool(self._table, part[of], self.relations[of])

    def informative(self, epsilon: float) -> PairTuple:
        """All positives under, and negatives over, the bounds of Wang et al. (2019): (a1, p, a2, n)."""
        s_an, row, s_ap = self.split()
        under, over = gaps(s_ap, s_an, epsilon)
        return kept_pairs(under, row, over)

    def split(self) -> tuple[Float32[Tensor, "q n"], Int64[Tensor, "q m"], Float32[Tensor, "q m"]]:
        """Similarities, -inf but for the negatives; and the positives: rows (-1 for none), similarities."""
        if self._parts is None:
            score = self._table.similarities(self.anchors)
            self._parts = score, *self.relations.split_(score)
        return self._parts


def gaps(
    s_ap: Float32[Tensor, "q m"], s_an: Float32[Tensor, "q k"], epsilon: float
) -> tuple[Float32[Tensor, "q m"], Float32[Tensor, "q k"]]:
    """How far positives lie under, and negatives over, the bound of each anchor; -inf where there are none."""
    none = s_ap == -torch.inf
    farthest, nearest = s_ap.masked_fill(none, torch.inf).amin(1), s_an.amax(1)
    under = float32_bound(nearest.double() + epsilon, up=True)[:, None] - s_ap
    return under.masked_fill_(none, -torch.inf), s_an - float32_bound(farthest.double() - epsilon, up=False)[:, None]


def kept_pairs(under: Float32[Tensor, "q m"], row: Int64[Tensor, "q m"], over: Float32[Tensor, "q n"]) -> PairTuple:
    """The pairs that lie on the informative side of their bounds."""
    a1, place = (under > 0).nonzero(as_tuple=True)
    a2, n = (over > 0).nonzero(as_tuple=True)
    return a1, row[a1, place], a2, n


def _sphere_weights(score: Float32[Tensor, "q n"], d: int, least: float, largest: float) -> Float32[Tensor, "q n"]:
    """1 / q of each distance, largest 1 in each row; q(x) ~ x^(d-2) (1 - x^2 / 4)^((d-3)/2) (Wu et al. 2017)."""
    s = score.clamp(-1 + 1e-6, 1 - least**2 / 2)
    weight = (1 - s).log_().mul_(-(d - 2) / 2)  # constant factors cancel
    weight -= s.add_(1).log_().mul_((d - 3) / 2)
    weight.masked_fill_(score <= 1 - largest**2 / 2, -torch.inf)
    return weight.sub_(weight.amax(1, keepdim=True).clamp_min_(torch.finfo(torch.float32).min)).exp_()


def _best(score: Float32[Tensor, "m n"], k: int) -> Ranked:
    """Places and values of the k largest entries of each row, ties to the smaller place; -inf past the last."""
    q, n = score.shape
    if n == 0:
        return torch.full((q, k), NO_ID, device=score.device), score.new_full((q, k), -torch.inf)
    if k == 1:  # max() returns the first of equals
        value, place = score.max(1, keepdim=True)
        return place, value
    least = score.topk(min(k, n), 1).values[:, -1:]
    query, place = ((score >= least) & (score > -torch.inf)).nonzero(as_tuple=True)
    return best_of(query, place, score[query, place], q=q, k=k, farthest=False)


def float32_bound(bound: Float64[Tensor, " m"], *, up: bool) -> Float32[Tensor, " m"]:
    """The nearest float32 not below (`up`) or not above: comparing float32 values with it is comparing in float64."""
    near = bound.float()
    off = near.double() < bound if up else near.double() > bound
    return torch.where(off, torch.nextafter(near, near.new_tensor(torch.inf if up else -torch.inf)), near)
