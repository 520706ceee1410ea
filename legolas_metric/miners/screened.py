"""The screened pool: a batch's choices from float32 products, and only those that these leave open compared exactly.

A product that is off by less than `error` decides every choice whose runner-up is farther away than twice that. All
passes over the whole matrix are additions and maxima, which cost a fifth of comparisons and a twentieth of `nonzero`.

Letters: q anchors, n rows, m pairs or positives, t pairs to compare, p rows left open, k negatives.
"""

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.index.arithmetic import exact_arithmetic, is_exact
from legolas_metric.index.top_k import similarities_of
from legolas_metric.miners.dense import DensePool, PairTuple, gaps, kept_pairs
from legolas_metric.miners.pool import Ranked, Window
from legolas_metric.records import SearchStats
from legolas_metric.rows import NO_ID, Rows

_NONE = -(1 << 23)  # the bits of -inf as an integer: the largest of all finite negative numbers lie below it


def screening_error(anchors: Rows, rows: Rows, metric: Metric) -> float:
    """How far a float32 product lies from the reported similarity at most, with room for one more sum of each."""
    if metric == "cosine" or not len(anchors) or not len(rows):
        norms = [1.0]
    else:
        norms = [float(side.embeddings.norm(dim=1).max()) for side in (anchors, rows)]
    return 1.01 * (rows.embeddings.shape[1] + 8) * 2.0**-24 * norms[0] * norms[-1] + 2.0**-120


class OverExact:
    """What pools of float32 products share: what these do not answer is asked of an exact pool.

    Args:
        exact: the same block, for whatever is not answered from the products.
        error: of the products, finite; see `screening_error`.
    """

    def __init__(self, exact: DensePool, error: float) -> None:
        self.anchors, self.rows, self.relations = exact.anchors, exact.rows, exact.relations
        self.metric: Metric = exact.metric
        self.exact = exact
        self.error = error

    def weighted(self, uniform: Float64[Tensor, "q k"], cutoffs: tuple[float, float]) -> Ranked:
        """See `Pool`."""
        return self.exact.weighted(uniform, cutoffs)

    def neighbours(self, k: int, *, of_anchors: bool) -> Int64[Tensor, "m k"]:
        """See `Pool`."""
        return self.exact.neighbours(k, of_anchors=of_anchors)

    def stats(self) -> SearchStats:
        """See `Pool`."""
        return self.exact.stats()


class ScreenedPool(OverExact):
    """A block of anchors whose similarities may be off by `error` where that does not change a choice."""

    screened = True

    def __init__(self, exact: DensePool, error: float) -> None:
        super().__init__(exact, error)
        self._parts: tuple[Tensor, Tensor, Tensor] | None = None

    def positives(self, k: int, *, farthest: bool) -> Ranked:
        """See `Pool`."""
        if k > 1:
            return self.exact.positives(k, farthest=farthest)
        _, row, score = self.split()
        if farthest:
            score = score.neg().masked_fill_(row == NO_ID, -torch.inf)
        place, value, second = _two_largest(score)
        found = row.gather(1, place)
        open_ = (value - second <= 2 * self.error).nonzero()[:, 0]
        if len(open_):
            query, at = (score[open_] >= value[open_] - 2 * self.error).nonzero(as_tuple=True)
            of = open_[query]
            candidate = row[of, at]
            compared = self._exactly(of, candidate)
            found[open_] = _best(query, candidate, -compared if farthest else compared, len(open_))[0]
        return found, -value if farthest else value

    def negatives(self, anchor: Int64[Tensor, " m"] | None, k: int, window: Window | None) -> Ranked:
        """See `Pool`."""
        if k > 1:
            return self.exact.negatives(anchor, k, window)
        score = self.split()[0]
        score = score if anchor is None else score[anchor]
        if window is not None:
            return self._inside(score, anchor, window)
        place, value, second = _two_largest(score)
        open_ = (value - second <= 2 * self.error).nonzero()[:, 0]
        if len(open_):
            place[open_], value[open_] = self._compare(score, anchor, open_, None)
        return place, value

    def split(self) -> tuple[Float32[Tensor, "q n"], Int64[Tensor, "q m"], Float32[Tensor, "q m"]]:
        """Screened similarities, -inf but for the negatives; and the positives: rows (-1 for none), similarities."""
        if self._parts is None:
            score = product(self.anchors.embeddings, self.rows.embeddings)
            self._parts = score, *self.relations.split_(score)
        return self._parts

    def informative(self, epsilon: float) -> PairTuple:
        """See `DensePool`; anchors with an entry so near to a bound that it may lie on either side are done exactly."""
        s_an, row, s_ap = self.split()
        under, over = gaps(s_ap, s_an, epsilon)
        nearest = torch.minimum(under.abs().amin(1), over.abs().amin(1))
        open_ = (nearest <= 2 * self.error).nonzero()[:, 0]
        if len(open_):
            s_an, listed, s_ap = self.exact.some(open_).split()
            under[open_, : listed.shape[1]], over[open_] = gaps(s_ap, s_an, epsilon)
        return kept_pairs(under, row, over)

    def _inside(self, score: Float32[Tensor, "m n"], anchor: Int64[Tensor, " m"] | None, window: Window) -> Ranked:
        """The best entry of each row inside its window."""
        low, high = window
        place, under, second = _two_largest_below(score, (high + self.error).float())
        value = score.gather(1, place).masked_fill_(under == -torch.inf, -torch.inf)
        above = value.double() - low[:, None]
        unsure = (under - second <= 2 * self.error) | (under >= -2 * self.error) | (above.abs() <= self.error)
        open_ = unsure.nonzero()[:, 0]
        if len(open_):
            place[open_], value[open_] = self._compare(score, anchor, open_, high[open_])
        value = value.masked_fill(value.double() <= low[:, None], -torch.inf)
        return place.masked_fill(value == -torch.inf, NO_ID), value

    def _compare(
        self,
        score: Float32[Tensor, "m n"],
        anchor: Int64[Tensor, " m"] | None,
        open_: Int64[Tensor, " p"],
        high: Float64[Tensor, " p"] | None,
    ) -> tuple[Int64[Tensor, "p 1"], Float32[Tensor, "p 1"]]:
        """The best entry, below its bound, of each row that screening left open."""
        own = score[open_]
        sure = own
        if high is not None:
            bound = high[:, None]
            sure = own.masked_fill(own >= bound - self.error, -torch.inf)
            own = own.masked_fill_(own > bound + self.error, -torch.inf)
        least = (sure.amax(1, keepdim=True) - 2 * self.error).clamp_min(torch.finfo(torch.float32).min)
        query, row = (own >= least).nonzero(as_tuple=True)
        of = open_[query]
        compared = self._exactly(of if anchor is None else anchor[of], row)
        if high is not None:
            inside = compared.double() < high[query]
            query, row, compared = query[inside], row[inside], compared[inside]
        return _best(query, row, compared, len(open_))

    def _exactly(self, anchor: Int64[Tensor, " t"], row: Int64[Tensor, " t"]) -> Float32[Tensor, " t"]:
        """The reported similarities of pairs."""
        return similarities_of(self.anchors.embeddings, self.rows.embeddings, anchor, row, self.metric)


def product(x: Float32[Tensor, "q d"], y: Float32[Tensor, "n d"]) -> Float32[Tensor, "q n"]:
    """x y^T in float32, whatever the caller has switched on."""
    if is_exact(x.device):
        return x @ y.T
    with exact_arithmetic(x.device):
        return x @ y.T


def _best(
    query: Int64[Tensor, " t"], row: Int64[Tensor, " t"], score: Float32[Tensor, " t"], q: int
) -> tuple[Int64[Tensor, "q 1"], Float32[Tensor, "q 1"]]:
    """The row of each query's largest score, ties to the smaller row; any row, with -inf, where it has none."""
    value = score.new_full((q,), -torch.inf).scatter_reduce_(0, query, score, "amax")
    row = torch.where(score == value[query], row, torch.iinfo(torch.int64).max)
    place = row.new_zeros(q).scatter_reduce_(0, query, row, "amin", include_self=False)
    return place[:, None], value[:, None]


def _two_largest(score: Float32[Tensor, "m n"]) -> tuple[Int64[Tensor, "m 1"], Float32[Tensor, "m 1"], Tensor]:
    """The place of each row's largest entry, its value, and the second largest value."""
    place = _first(score, least=False)
    value = score.gather(1, place)
    score.scatter_(1, place, -torch.inf)
    second = score.amax(1, keepdim=True)
    score.scatter_(1, place, value)
    return place, value, second


def _two_largest_below(
    score: Float32[Tensor, "m n"], bound: Float32[Tensor, " m"]
) -> tuple[Int64[Tensor, "m 1"], Float32[Tensor, "m 1"], Float32[Tensor, "m 1"]]:
    """The same among entries below a bound, counted from it (so negative); -inf where there are no such entries.

    The bits of negative numbers, read as integers, fall as the numbers grow, and lie below those of all others: the
    least of them is the largest number below the bound, with no comparison.
    """
    below = (score + (0.0 - bound)[:, None]).view(torch.int32)  # 0 - bound is no -0, and so neither is a sum
    place = _first(below, least=True)
    first = below.gather(1, place).clamp_max_(_NONE)
    second = below.scatter_(1, place, torch.iinfo(torch.int32).max).amin(1, keepdim=True).clamp_max_(_NONE)
    return place, first.view(torch.float32), second.view(torch.float32)


def _first(values: Tensor, *, least: bool) -> Int64[Tensor, "m 1"]:
    """The first place of each row's least or largest entry; on the processor by NumPy, in a seventh of the time."""
    if values.device.type != "cpu":
        return values.min(1, keepdim=True).indices if least else values.max(1, keepdim=True).indices
    array = values.numpy()
    return torch.from_numpy(array.argmin(1) if least else array.argmax(1))[:, None]
