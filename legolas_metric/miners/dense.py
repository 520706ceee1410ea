"""The dense pool: a block of anchors with all its similarities, in torch alone, the same on every device.

Every pair is scored by one product of float32 rows that are centred and scaled to norms of at most 1, so that a narrow
cone of rows keeps its differences. A score is off by `error` at most; what that leaves open (the runner-up of a choice,
the sides of a window) is decided by `exact_similarity`.

Letters: q anchors, n rows, m pairs or positives, k negatives, d dimensions, o rows left open, t pairs to compare.
"""

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import CACHE, rows_for
from legolas_metric.checks import Metric
from legolas_metric.geometry import chunks, product, tie_distance
from legolas_metric.index.arithmetic import exact_arithmetic, is_exact
from legolas_metric.lookup import turns
from legolas_metric.miners.by_label import Part
from legolas_metric.miners.masks import Relations
from legolas_metric.miners.pool import Window, similarities_between
from legolas_metric.records import SearchStats
from legolas_metric.rows import NO_ID, Rows

_UNIT = 2.0**-24  # half a unit in the last place of float32


class Table:
    """The rows of a dense search as they are scored, shared by all blocks of anchors.

    A score is `unit` times <x, y>; or, where rows lie together or under "euclidean", times -|x - y|^2 / 2.

    Args:
        anchors: [q].
        rows: [n], ties go to the smaller of them.
        metric: of the similarity.
    """

    def __init__(self, anchors: Rows, rows: Rows, metric: Metric) -> None:
        self.anchors, self.rows = anchors, rows
        self.metric: Metric = metric
        self._near: dict[tuple[int, bool], Int64[Tensor, "m k"]] = {}
        x, y, d = anchors.embeddings, rows.embeddings, rows.embeddings.shape[1]
        self._centred = metric == "euclidean" or (metric == "cosine" and _lie_together(y))
        if self._centred:
            centre = y.mean(0, dtype=torch.float64)
            y = y.double() - centre
            x = y if anchors is rows else x.double() - centre
            scale = min(_scale(side) for side in (x, y))
            self.unit = scale**2
            self._y = _with_halves(_scaled(y, scale), first=False)
            self._x = _with_halves(_scaled(x, scale), first=True)
            self.error = (2.02 * (d + 3) + 24) * _UNIT + 2.0**-120
        else:
            scales = (1.0, 1.0) if metric == "cosine" else (_scale(x), _scale(y))
            self.unit = scales[0] * scales[1]
            self._y = _scaled(y, scales[1])
            self._x = self._y if anchors is rows else _scaled(x, scales[0])
            self.error = (1.01 * d + 12) * _UNIT + 2.0**-120
        if metric == "cosine":  # ties of one direction, rounding near 1; norms near 1, and what is kept above -1
            self.error += (tie_distance(rows.embeddings.dtype) ** 2 / 2 + 2.0**-52) * self.unit
            self.error += 2.0**-20 if self.unit <= 1 else 0.0

    def scores(self, part: Part | None) -> Float32[Tensor, "q n"]:
        """All scores of some anchors; None: of all."""
        x = self._x if part is None else self._x[part]
        if is_exact(x.device):
            return product(x, self._y)
        with exact_arithmetic(x.device):
            return product(x, self._y)

    def as_scores(self, s: Float64[Tensor, " m"]) -> Float32[Tensor, " m"]:
        """Similarities as scores, to within the error."""
        if not self._centred:
            return (s * self.unit).float()
        if self.metric == "cosine":
            return ((s - 1) * self.unit).float()
        return torch.where(s > 0, torch.inf, -s.square() / 2 * self.unit).float()

    def as_similarities(self, score: Float32[Tensor, "q n"]) -> Float32[Tensor, "q n"]:
        """Scores as similarities under "cosine", to within float32."""
        return score / self.unit + 1 if self._centred else score

    def neighbours(self, k: int, *, of_anchors: bool) -> Int64[Tensor, "m k"]:
        """The k most similar rows of each anchor, or of each row; never itself."""
        if (k, of_anchors) not in self._near:
            of = self.anchors if of_anchors else self.rows
            table = self if of_anchors or self.anchors is self.rows else Table(self.rows, self.rows, self.metric)
            pool = DensePool(table, None, None)
            found = []
            for part in chunks(len(of), block_rows(len(self.rows))):
                score = table.scores(part)
                own = of.ids[part][:, None] == self.rows.ids
                number = torch.arange(part.start, part.stop, device=score.device)
                found.append(pool.best(score.masked_fill_(own, -torch.inf), number, k, None))
            self._near[k, of_anchors] = torch.cat(found)
        return self._near[k, of_anchors]


class DensePool:
    """A block of anchors and all its scores: for a batch, for reference rows, for any relation.

    Args:
        table: what all blocks share.
        part: the anchors of this block; None: all.
        relations: of the anchors of this block.
    """

    def __init__(self, table: Table, part: Part | None, relations: Relations | None) -> None:
        self.anchors, self.rows = table.anchors if part is None else table.anchors[part], table.rows
        self.metric: Metric = table.metric
        self.error = table.error
        self._relations = relations
        self._table, self._part = table, part
        self._parts: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def relations(self) -> Relations:
        """See `Pool`."""
        assert self._relations is not None
        return self._relations

    @property
    def longest(self) -> float:
        """See `Pool`."""
        return self.rows.longest

    def positives(self, *, farthest: bool) -> Int64[Tensor, " q"]:
        """See `Pool`."""
        _, row, score = self._split()
        every = torch.arange(len(row), device=row.device)
        score = torch.where(row == NO_ID, -torch.inf, -score) if farthest else score
        return self.best(score, every, 1, None, rows=row, farthest=farthest)[:, 0]

    def negatives(self, anchor: Int64[Tensor, " m"], k: int, window: Window | None) -> Int64[Tensor, "m k"]:
        """See `Pool`."""
        score = self._split()[0]
        if len(anchor) <= len(score):
            return self.best(score if len(anchor) == len(score) else score[anchor], anchor, k, window)
        out = anchor.new_empty(len(anchor), k)
        for part in chunks(len(anchor), block_rows(score.shape[1])):
            bounds = None if window is None else (window[0][part], window[1][part])
            out[part] = self.best(score[anchor[part]], anchor[part], k, bounds)
        return out

    def weighted(
        self, anchor: Int64[Tensor, " m"], uniform: Float64[Tensor, "m k"], cutoffs: tuple[float, float]
    ) -> Int64[Tensor, "m k"]:
        """See `Pool`. The weight is 1 / q(d), with q the density of distances on the sphere, for d below the cutoff."""
        score = self._split()[0]
        row = torch.full(uniform.shape, NO_ID, device=score.device)
        for part in chunks(len(anchor), block_rows(score.shape[1])):
            similarity = self._table.as_similarities(score[anchor[part]])
            weight = _sphere_weights(similarity, self.rows.embeddings.shape[1], *cutoffs)
            for draw in range(uniform.shape[1]):
                mass = weight.cumsum(1, dtype=torch.float64)
                total = mass[:, -1:]
                target = torch.minimum(uniform[part, draw, None] * total, torch.nextafter(total, total.new_tensor(0)))
                place = torch.searchsorted(mass, target, right=True).clamp_max(score.shape[1] - 1)
                row[part, draw] = torch.where(total > 0, place, NO_ID)[:, 0]
                weight.scatter_(1, place, 0)
        return row

    def neighbours(self, k: int, rows: Int64[Tensor, " m"] | None) -> Int64[Tensor, "m k"]:
        """See `Pool`."""
        found = self._table.neighbours(k, of_anchors=rows is None)
        which = self._part if rows is None else rows
        return found if which is None else found[which]

    def similarities(self, anchor: Int64[Tensor, " m"], row: Int64[Tensor, "m k"]) -> Float64[Tensor, "m k"]:
        """See `Pool`."""
        return similarities_between(self.anchors, self.rows.embeddings.__getitem__, self.metric, anchor, row)

    def stats(self) -> SearchStats:
        """See `Pool`."""
        return SearchStats(engine="dense")

    def informative(self, epsilon: float) -> tuple[Int64[Tensor, "q m"], Bool[Tensor, "q n"]]:
        """Positives under, and negatives over, the bounds of Wang et al. (2019): their rows (-1: none), and a mask."""
        s_an, row, s_ap = self._split()
        every = torch.arange(len(row), device=row.device)
        nearest = self.similarities(every, self.negatives(every, 1, None))[:, 0] + epsilon
        farthest = self.similarities(every, self.positives(farthest=True)[:, None])[:, 0] - epsilon
        over = self._beyond(s_an, farthest, None)
        under = self._beyond(-s_ap, nearest, row)
        return row.masked_fill(~under, NO_ID), over

    def best(
        self,
        score: Float32[Tensor, "m n"],
        anchor: Int64[Tensor, " m"],
        k: int,
        window: Window | None,
        *,
        rows: Int64[Tensor, "m n"] | None = None,
        farthest: bool = False,
    ) -> Int64[Tensor, "m k"]:
        """The k best rows of each line of scores inside its window, ties to the smaller; -1 past the last.

        `rows` names the columns where they are not the rows themselves. `farthest` tells that scores are negated.
        """
        if score.shape[1] == 0:
            return anchor.new_full((len(anchor), k), NO_ID)
        low = high = None
        if window is not None:
            low, high = (self._table.as_scores(bound)[:, None] for bound in window)
            score = score.masked_fill(score >= high + self.error, -torch.inf)
        place, value, second = _two_largest(score)
        gap = value - second
        if k == 1 and window is None and float(gap.min()) > 2 * self.error:  # most blocks: nothing is left open
            return place if rows is None else rows.gather(1, place)
        unsure = gap <= 2 * self.error
        if low is not None and high is not None:
            unsure |= (value >= high - self.error) | ((value - low).abs() <= self.error)
            value = value.masked_fill(value <= low, -torch.inf)
        found = place if rows is None else rows.gather(1, place)
        found = found.masked_fill_(value == -torch.inf, NO_ID)
        if k > 1:
            found, unsure = found.new_full((len(found), k), NO_ID), torch.ones_like(unsure)
        open_ = unsure.nonzero()[:, 0]
        if len(open_):
            some = None if window is None else (window[0][open_], window[1][open_])
            listed = None if rows is None else rows[open_]
            found[open_] = self._compared(score[open_], anchor[open_], k, some, listed, farthest)
        return found

    def _compared(
        self,
        score: Float32[Tensor, "o n"],
        anchor: Int64[Tensor, " o"],
        k: int,
        window: Window | None,
        rows: Int64[Tensor, "o n"] | None,
        farthest: bool,
    ) -> Int64[Tensor, "o k"]:
        """The same for lines that scores leave open, by the similarities of all that can be among the k best."""
        sure = score
        if window is not None:
            low, high = (self._table.as_scores(bound)[:, None] for bound in window)
            score = score.masked_fill(score < low - self.error, -torch.inf)
            sure = score.masked_fill((score >= high - self.error) | (score <= low + self.error), -torch.inf)
        least = sure.topk(min(k, sure.shape[1]), 1).values[:, -1:] if k > 1 else sure.amax(1, keepdim=True)
        least = least if k <= sure.shape[1] else torch.full_like(least, -torch.inf)
        least = (least - 2 * self.error).clamp_min_(torch.finfo(torch.float32).min)
        line, place = (score >= least).nonzero(as_tuple=True)
        row = place if rows is None else rows[line, place]
        s = self.similarities(anchor[line], row[:, None])[:, 0]
        if window is not None:
            inside = (s > window[0][line]) & (s < window[1][line])
            line, row, s = line[inside], row[inside], s[inside]
        order = s.argsort(descending=not farthest, stable=True)  # rows ascend in each line, so ties stay in order
        order = order[line[order].argsort(stable=True)]
        line, row = line[order], row[order]
        rank = turns(line)
        out = row.new_full((len(score), k), NO_ID)
        out[line[rank < k], rank[rank < k]] = row[rank < k]
        return out

    def _beyond(
        self, score: Float32[Tensor, "q n"], bound: Float64[Tensor, " q"], rows: Int64[Tensor, "q n"] | None
    ) -> Bool[Tensor, "q n"]:
        """Which negatives lie over their bound; or which of the listed positives, whose scores are negated, under."""
        limit = self._table.as_scores(bound)[:, None]
        over = score - limit if rows is None else score + limit
        out = over > 0
        if rows is not None:
            out &= rows != NO_ID
        open_ = (over.abs().amin(1) <= self.error).nonzero()[:, 0]
        if len(open_):
            line, place = (over[open_].abs() <= self.error).nonzero(as_tuple=True)
            line = open_[line]
            row = place if rows is None else rows[line, place]
            s = self.similarities(line, row[:, None])[:, 0]
            out[line, place] = s > bound[line] if rows is None else (s < bound[line]) & (row != NO_ID)
        return out

    def _split(self) -> tuple[Float32[Tensor, "q n"], Int64[Tensor, "q m"], Float32[Tensor, "q m"]]:
        """Scores, -inf but for the negatives; and the positives: rows (-1 for none), scores."""
        if self._parts is None:
            score = self._table.scores(self._part)
            self._parts = score, *self.relations.split_(score)
        return self._parts


def block_rows(n: int) -> int:
    """How many lines of n scores are looked at in one go: they stay in the cache, unless they would be very few."""
    return max(64, rows_for(CACHE, 4 * n))


def _lie_together(rows: Float[Tensor, "n d"]) -> bool:
    """Whether unit rows fill a narrow cone, so that it pays to look at them from its middle."""
    return float(rows.mean(0).square().sum()) > 0.75


def _scale(rows: Float[Tensor, "n d"]) -> float:
    """What brings all norms to at most 1."""
    longest = float(torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).max()) if len(rows) else 0.0
    return (1 - 2.0**-20) / longest if longest > 0 else 1.0


def _scaled(rows: Float[Tensor, "n d"], scale: float) -> Float32[Tensor, "n d"]:
    return rows.float() if scale == 1 else (rows.double() * scale).float()


def _with_halves(rows: Float32[Tensor, "n d"], *, first: bool) -> Float32[Tensor, "n e"]:
    """Rows with two further columns, by which a product is <x, y> - |x|^2 / 2 - |y|^2 / 2."""
    half = rows.double().square().sum(1, keepdim=True).div_(-2).float()
    one = torch.ones_like(half)
    return torch.cat([rows, half, one] if first else [rows, one, half], 1)


def _sphere_weights(score: Float32[Tensor, "q n"], d: int, least: float, largest: float) -> Float32[Tensor, "q n"]:
    """1 / q of each distance, largest 1 in each row; q(x) ~ x^(d-2) (1 - x^2 / 4)^((d-3)/2) (Wu et al. 2017)."""
    s = score.clamp(-1 + 1e-6, 1 - least**2 / 2)
    weight = (1 - s).log_().mul_(-(d - 2) / 2)  # constant factors cancel
    weight -= s.add_(1).log_().mul_((d - 3) / 2)
    weight.masked_fill_(score <= 1 - largest**2 / 2, -torch.inf)
    return weight.sub_(weight.amax(1, keepdim=True).clamp_min_(torch.finfo(torch.float32).min)).exp_()


def _two_largest(
    score: Float32[Tensor, "m n"],
) -> tuple[Int64[Tensor, "m 1"], Float32[Tensor, "m 1"], Float32[Tensor, "m 1"]]:
    """The place of each row's largest entry, the first of equals, its value, and the second largest value."""
    if score.device.type == "cpu":  # by NumPy, in a seventh of the time
        place = torch.from_numpy(score.numpy().argmax(1))[:, None]
    else:
        place = score.max(1, keepdim=True).indices
    value = score.gather(1, place)
    score.scatter_(1, place, -torch.inf)
    second = score.amax(1, keepdim=True)
    score.scatter_(1, place, value)
    return place, value, second
