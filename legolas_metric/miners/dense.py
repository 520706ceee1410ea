"""The dense pool: a block of anchors with all its similarities.

Letters: q anchors, n rows, m pairs, k negatives, d dimensions.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.index.protocol import NO_ID, Rows
from legolas_metric.index.ranking import best_of
from legolas_metric.index.scan import scan
from legolas_metric.miners.classes import Part
from legolas_metric.miners.pool import Ranked, Window
from legolas_metric.miners.relation import Relations
from legolas_metric.numerics import similarity_matrix
from legolas_metric.records import SearchStats

_SCREENED_ROWS = (512, 4096)  # with fewer, nothing is saved; with more, most choices are left open


class Table:
    """The rows of a dense search, shared by all blocks of anchors.

    Exact similarities are float64 products rounded to float32, so that a batch is mined exactly like a small bank. A
    screened table gives float32 products first; a block recomputes the anchors whose choice they leave open.

    Args:
        anchors: [q].
        rows: [n], with ascending ids.
        metric: of the similarity.
        screened: whether similarities may be off by `error` where they do not change a choice.
    """

    def __init__(self, anchors: Rows, rows: Rows, metric: Metric, *, screened: bool = False) -> None:
        self.anchors, self.rows = anchors, rows
        self.metric: Metric = metric
        self.error: float | None = None
        if screened and metric != "euclidean" and _SCREENED_ROWS[0] <= len(rows) <= _SCREENED_ROWS[1]:
            longest = (
                [1.0] if metric == "cosine" else [float(side.embeddings.norm(dim=1).max()) for side in (anchors, rows)]
            )
            self.error = 1.01 * (rows.embeddings.shape[1] + 8) * 2.0**-24 * longest[0] * longest[-1] + 2.0**-120
        self._wide: Float64[Tensor, "n d"] | None = None
        self._near: dict[tuple[int, bool], Int64[Tensor, "m k"]] = {}

    def exact(self) -> "Table":
        """The same without screening."""
        out = Table(self.anchors, self.rows, self.metric)
        out._wide = self._wide = self._wide if self._wide is not None else self.rows.embeddings.double()
        return out

    def similarities(self, anchors: Rows) -> Float32[Tensor, "q n"]:
        """All similarities of some anchors, screened or exact."""
        if self.error is not None:
            return similarity_matrix(anchors.embeddings, self.rows.embeddings, self.metric)
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

    def __init__(self, table: Table, part: Part, relations: Relations) -> None:
        self.anchors, self.rows = table.anchors[part], table.rows
        self.relations: Relations = relations
        self.metric: Metric = table.metric
        self.screened = table.error is not None
        self._table, self._part = table, part
        self._screened: tuple[Tensor, Tensor, Tensor] | None = None

    def positives(self, k: int, *, farthest: bool) -> Ranked:
        """See `Pool`."""
        _, row, similarity = self.screen()
        if farthest:
            similarity = torch.where(row == NO_ID, -torch.inf, -similarity)
        if self._table.error is not None and k > 1:
            return self._exact(slice(None)).positives(k, farthest=farthest)
        place, value = _best(similarity, k)
        found = torch.where(value == -torch.inf, NO_ID, row.gather(1, place.clamp_min(0)))
        value = torch.where(found == NO_ID, -torch.inf, -value) if farthest else value
        if self._table.error is not None:
            open_ = (~_settled(similarity, place, self._table.error)).nonzero()[:, 0]
            if len(open_):
                found[open_], value[open_] = self._exact(open_).positives(k, farthest=farthest)
        return found, value

    def negatives(self, anchor: Int64[Tensor, " m"] | None, k: int, window: Window | None) -> Ranked:
        """See `Pool`."""
        error = self._table.error
        if error is not None and k > 1:
            return self._exact(slice(None)).negatives(anchor, k, window)
        score = self.screen()[0]
        if anchor is not None:
            score = score[anchor]
        if window is not None:
            high = float32_bound(window[1] + (error or 0), up=True)
            score = torch.where(score < high[:, None], score, -torch.inf)
        place, value = _best(score, k)
        found = value.clone()
        if window is not None:  # the best below `high` are sorted, so `low` can wait until they are chosen
            found = torch.where(value > float32_bound(window[0], up=False)[:, None], value, -torch.inf)
        row = torch.where(found == -torch.inf, NO_ID, place)
        if error is not None:
            settled = _settled(score, place, error)
            if window is not None:
                settled &= (value[:, 0] < window[1] - error) & ((value[:, 0] - window[0]).abs() > error)
            open_ = (~settled).nonzero()[:, 0]
            if len(open_):
                of = open_ if anchor is None else anchor[open_]
                bounds = None if window is None else (window[0][open_], window[1][open_])
                row[open_], found[open_] = self._exact(of).negatives(None, k, bounds)
        return row, found

    def weighted(self, uniform: Float64[Tensor, "q k"], cutoffs: tuple[float, float]) -> Ranked:
        """See `Pool`. The weight is 1 / q(d), with q the density of distances on the sphere, for d below the cutoff."""
        if self._table.error is not None:
            return self._exact(slice(None)).weighted(uniform, cutoffs)
        score = self.screen()[0]
        weight = _sphere_weights(score, self.rows.embeddings.shape[1], *cutoffs)
        row = torch.full(uniform.shape, NO_ID, device=score.device)
        for draw in range(uniform.shape[1]):
            mass = weight.cumsum(1)
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

    def _exact(self, of: Part) -> "DensePool":
        """The same pool without screening, for some of its anchors (in any order, perhaps repeated)."""
        part = self._part
        if isinstance(part, slice):
            part = torch.arange(part.start, part.start + len(self.anchors), device=self.anchors.ids.device)
        return DensePool(self._table.exact(), part[of], self.relations[of])

    def screen(self) -> tuple[Float32[Tensor, "q n"], Int64[Tensor, "q m"], Float32[Tensor, "q m"]]:
        """Similarities, -inf but for the negatives; and the positives: rows (-1 past the last), similarities."""
        if self._screened is None:
            score = self._table.similarities(self.anchors)
            row = self.relations.list_positives()
            similarity = score.gather(1, row.clamp_min(0)).masked_fill_(row == NO_ID, -torch.inf)
            self.relations.keep_negatives_(score)
            self._screened = score, row, similarity
        return self._screened


def _settled(score: Float32[Tensor, "m n"], place: Int64[Tensor, "m 1"], error: float) -> Bool[Tensor, " m"]:
    """Rows whose best entry stays the best if every entry may be off by `error`; and those without any."""
    if score.shape[1] == 0:
        return torch.ones(len(score), dtype=torch.bool, device=score.device)
    best = score.gather(1, place)
    second = score.scatter_(1, place, -torch.inf).amax(1)
    score.scatter_(1, place, best)
    return (best[:, 0] == -torch.inf) | (best[:, 0] - second > 2 * error)


def _sphere_weights(score: Float32[Tensor, "q n"], d: int, least: float, largest: float) -> Float64[Tensor, "q n"]:
    """1 / q of each distance, largest 1 in each row; q(x) ~ x^(d-2) (1 - x^2 / 4)^((d-3)/2) (Wu et al. 2017)."""
    s = score.double().clamp(-1 + 1e-12, 1 - least**2 / 2)
    weight = -((d - 2) / 2) * (2 - 2 * s).log() - ((d - 3) / 2) * ((1 + s) / 2).log()
    weight.masked_fill_(score <= 1 - largest**2 / 2, -torch.inf)
    return (weight - weight.amax(1, keepdim=True).clamp_min(-1e300)).exp_()


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
