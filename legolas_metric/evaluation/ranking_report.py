"""What a ranking came to: the means, and what lies behind them, query by query."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.checks import check_whole
from legolas_metric.evaluation import ranking_measures as measures
from legolas_metric.evaluation.bootstrap import Difference, Over, intervals, paired_difference
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.query_measures import QueryMeasures, WrongNeighbours
from legolas_metric.measures import figures_sheet, ranking_figures, worse_than_baseline
from legolas_metric.names import Names, name_of
from legolas_metric.signatures import typed
from legolas_metric.tables import Sheet, Shown

# A fall from the untrained encoder's figure by no more than this is not worth a word.
WORSE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Breakdown:
    """Means over the queries of each class, or of each group, weakest Rank@1 first.

    Attributes:
        keys: labels or groups.
        names: what these are called, where they came as names; else None.
        queries: answerable queries of each.
        rank1, r_precision, map_at_r: means.
    """

    keys: Int64[Tensor, " c"]
    names: tuple[str, ...] | None
    queries: Int64[Tensor, " c"]
    rank1: Float64[Tensor, " c"]
    r_precision: Float64[Tensor, " c"]
    map_at_r: Float64[Tensor, " c"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RankingReport(Shown):
    """How well each row finds its own class. Shares are means over the answerable queries.

    Attributes:
        rank: k -> share of queries with a positive among the first k (CMC).
        recall_at_k: k -> share of a query's positives that are among the first k (not Rank@k).
        precision_at_k: k -> share of the first k rows that are positives.
        map_at_k: k -> (1/R) sum over places i <= k of P(i) rel(i), R being the query's own number of positives.
        ndcg_at_k: k -> nDCG of the first k places.
        r_precision: share of positives among the first R, R being the query's own number of positives.
        map_at_r: (1/R) sum over places i <= R of P(i) rel(i).
        mean_average_precision: the same over the whole ranking, also divided by R; None unless `full=True`.
        mrr: mean of 1 / place of the first positive; None unless `full=True`.
        minp: mean of R / place of the last positive (mINP, Ye et al. 2021); None unless `full=True`.
        ndcg: over the whole ranking, gains 1, discounts 1 / log2(1 + place); None unless `full=True`.
        nn_accuracy: share of *all* queries whose nearest row has their label: the unanswerable count as wrong.
        intra: mean squared distance of all pairs of one class (d^2 under cosine and euclidean).
        inter: mean squared distance of all pairs of different labels.
        queries: answerable queries, the denominator of the means (in all episodes).
        unanswerable: queries whose gallery holds no positive, or fewer than asked for; counted here and left out.
        unlabelled: rows of label -1, which ask nothing; missing names are among them.
        gallery: rows that are searched, before what a query must not find is taken out.
        depth: places up to which rankings were worked out, beside the first R of each; None for all of them.
        protocol: how it was asked.
        label_names, group_names: what labels and groups stand for, `label_names[label]`, where they came as names; else
            None.
        per_query: what the means are taken of.
        worst: the queries that lost by the widest margin, with their wrong neighbours.
        baseline: the report of the untrained encoder, or of the same rows without a scorer, by which this one is to be
            read; None where none was given.

    Example:
        >>> import torch
        >>> from legolas_metric import evaluate_ranking
        >>> report = evaluate_ranking(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), [0, 0, 1])
        >>> report.rank[1], report.queries, report.unanswerable
        (1.0, 2, 1)

    Source: beside each measure; of R-precision and MAP@R, Musgrave et al. (2020), A Metric Learning Reality Check.
    """

    rank: Mapping[int, float]
    recall_at_k: Mapping[int, float]
    precision_at_k: Mapping[int, float]
    map_at_k: Mapping[int, float]
    ndcg_at_k: Mapping[int, float]
    r_precision: float
    map_at_r: float
    mean_average_precision: float | None
    mrr: float | None
    minp: float | None
    ndcg: float | None
    nn_accuracy: float
    intra: float
    inter: float
    queries: int
    unanswerable: int
    unlabelled: int
    gallery: int
    depth: int | None
    protocol: RetrievalProtocol
    label_names: Names | None = field(repr=False)
    group_names: Names | None = field(repr=False)
    per_query: QueryMeasures = field(repr=False, compare=False)
    worst: tuple[WrongNeighbours, ...] = field(repr=False, compare=False)
    baseline: "RankingReport | None" = None

    def _sheet(self) -> Sheet:
        asked = f"{self.queries:,} queries" + (f", {self.unanswerable:,} unanswerable" if self.unanswerable else "")
        title = f"Ranking, {self.protocol.name}: {asked}, gallery of {self.gallery:,}"
        return figures_sheet(title, ranking_figures(self), self.baseline and ranking_figures(self.baseline))

    def shares(self) -> dict[str, float]:
        """The measures that say how good the ranking is, in [0, 1], by name; larger is better."""
        names = ("r_precision", "map_at_r", "mean_average_precision", "mrr", "minp", "ndcg", "nn_accuracy")
        values = {f"rank_at_{k}": share for k, share in self.rank.items()} | {n: getattr(self, n) for n in names}
        return {name: value for name, value in values.items() if value is not None}

    def scalars(self) -> dict[str, int | float]:
        """All that are single numbers, by name, for tables and JSON; what was not worked out is left out."""
        counts = {"queries": self.queries, "unanswerable": self.unanswerable, "gallery": self.gallery}
        return {**self.shares(), "intra": self.intra, "inter": self.inter, **counts}

    def cmc(self, k: int) -> Float64[Tensor, " k"]:
        """Rank@1 .. Rank@k.

        Raises:
            ValueError: k below 1, or beyond `depth`.
        """
        k = check_whole("k", k, 1)
        self._check_depth(k, f"Rank@{k}")
        found = self.per_query
        # Where nothing is tied, a query is answered from its own place on.
        plain = found.size == 1
        places = torch.bincount(found.start[plain].clamp_max(k), minlength=k + 1)[:k]
        answered = places.cumsum(0).double()
        if not bool(plain.all()):
            start, size, tied = (column[~plain] for column in (found.start, found.size, found.tied))
            answered += torch.stack([measures.rank_at(start, size, tied, i).sum() for i in range(1, k + 1)])
        return answered / len(found)

    def rank1_at(self, sizes: Sequence[int]) -> dict[int, float]:
        """Rank@1 where each query's gallery holds its positives and only `size` rows of other labels, drawn at random.

        The expected value: with b rows of other labels ahead of the best positive, of N, it is C(N-b, size)/C(N, size).

        Args:
            sizes: impostors in the gallery; those beyond what a query has mean all that it has.

        Raises:
            TypeError, ValueError: a size that is no whole number of at least 0; a ranking that was not worked out in
                full.
        """
        sizes = [check_whole("sizes", size, 0) for size in sizes]
        self._check_depth(None, "Rank@1 against gallery size")
        found = self.per_query
        cases = torch.stack([found.start, found.size - found.tied, found.tied, found.negatives], 1)
        unique, count = cases.unique(dim=0, return_counts=True)
        return {size: float(_rank1_among(unique, size) @ count.double()) / len(found) for size in sizes}

    def first(self) -> Float64[Tensor, " q"]:
        """Probability of each query to find a positive first, in the order of `per_query`; Rank@1 is its mean."""
        return measures.rank_at(self.per_query.start, self.per_query.size, self.per_query.tied, 1)

    def by_class(self) -> Breakdown:
        """Means of each class."""
        return _breakdown(self.per_query, self.per_query.labels, self.label_names)

    def by_group(self) -> Breakdown:
        """Means of the queries of each group.

        Raises:
            ValueError: no groups were given.
        """
        if self.per_query.groups is None:
            raise ValueError("by_group() needs groups: pass groups to evaluate_ranking")
        return _breakdown(self.per_query, self.per_query.groups, self.group_names)

    def intervals(
        self, *, level: float = 0.95, resamples: int = 1000, seed: int = 0, over: Over = "identities"
    ) -> dict[str, tuple[float, float]]:
        """Confidence intervals by the bootstrap over identities: queries of one class stand or fall together.

        Args:
            level: share of the resampled means inside.
            resamples: how many times the classes are drawn, with replacement.
            seed: of the draw.
            over: "identities", "groups" (where speakers, sessions or cameras are the question), or "both", each drawn
                for itself.

        Returns:
            name of the measure, as in `scalars` -> (low, high); NaN where there is one identity only.

        Raises:
            ValueError: a level outside (0, 1), no resamples, groups asked for where none were given.

        Warns:
            UserWarning: fewer than ten identities (or groups).
        """
        return intervals(self._columns(), self._drawn(over), over=over, level=level, resamples=resamples, seed=seed)

    @typed
    def difference(
        self,
        measure: str = "rank_at_1",
        *,
        level: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
        over: Over = "identities",
    ) -> Difference:
        """How much better this encoder is than the baseline, query by query: the paired bootstrap over identities.

        Args:
            measure: name of the measure, as in `intervals`.
            level, resamples, seed, over: as in `intervals`.

        Returns:
            The difference of the means with its interval; `shown` where the interval leaves out 0.

        Raises:
            ValueError: no baseline, one of other queries, of another protocol or relation, or an unknown measure.

        Warns:
            UserWarning: fewer than ten identities (or groups).

        Example:
            >>> import torch
            >>> from legolas_metric import evaluate_ranking
            >>> y = torch.arange(40) // 2
            >>> report = evaluate_ranking(torch.eye(20)[y], y, baseline=torch.ones(40, 20))
            >>> found = report.difference()
            >>> round(found.value, 3), found.identities, found.shown
            (0.974, 20, True)
        """
        if self.baseline is None:
            raise ValueError("no baseline to differ from: pass baseline to evaluate_ranking")
        own, other = self._columns(), self.baseline._columns()
        if measure not in own or measure not in other:
            both = ", ".join(name for name in own if name in other)
            raise ValueError(f"measure must be one of {both}, got {measure!r}")
        mine, theirs = self.per_query, self.baseline.per_query
        if self.protocol != self.baseline.protocol or not (
            mine.ids.equal(theirs.ids) and mine.labels.equal(theirs.labels)
        ):
            raise ValueError(
                f"the baseline answers other queries ({len(theirs)} under {self.baseline.protocol.name!r}) than this "
                f"report ({len(mine)} under {self.protocol.name!r}): evaluate both on the same rows and protocol"
            )
        if not (mine.positives.equal(theirs.positives) and mine.negatives.equal(theirs.negatives)):
            raise ValueError(
                "the queries have other positives or negatives in the baseline than in this report: evaluate both on "
                "the same rows, and by the same relation"
            )
        change = own[measure] - other[measure]
        return paired_difference(change, self._drawn(over), over=over, level=level, resamples=resamples, seed=seed)

    def values(self, measure: str = "rank_at_1") -> Float64[Tensor, " q"]:
        """A measure of each query, in the order of `per_query`; the report's own figure is its mean.

        Raises:
            ValueError: an unknown measure, or one that was not worked out.
        """
        columns = self._columns()
        if measure not in columns:
            raise ValueError(f"measure must be one of {', '.join(columns)}, got {measure!r}")
        return columns[measure]

    def _drawn(self, over: Over) -> tuple[Int64[Tensor, " q"], Int64[Tensor, " q"] | None]:
        """What the bootstrap may draw."""
        if over != "identities" and self.per_query.groups is None:
            raise ValueError(f"over={over!r} needs groups: pass groups to evaluate_ranking")
        return self.per_query.labels, self.per_query.groups

    def _columns(self) -> dict[str, Float64[Tensor, " q"]]:
        """Measures of each query, by name."""
        found = self.per_query
        columns = {f"rank_at_{k}": found.rank_at(k) for k in self.rank}
        columns |= {"r_precision": found.r_precision, "map_at_r": found.map_at_r}
        whole = {"ndcg": found.ndcg, "mean_average_precision": found.average_precision}
        whole |= {"mrr": found.reciprocal_place, "minp": found.inverse_penalty}
        columns |= {name: column for name, column in whole.items() if column is not None}
        for name in ("recall", "precision", "map", "ndcg"):
            columns |= {f"{name}_at_{k}": getattr(found, f"{name}_at_k")[:, i] for i, k in enumerate(self.rank)}
        return columns

    def warnings(self) -> tuple[str, ...]:
        """What makes these figures weaker than they look, a sentence each."""
        said = []
        before = {} if self.baseline is None else self.baseline.shares()
        for name, value in self.shares().items():
            if name in before and value < before[name] - WORSE:
                said.append(worse_than_baseline(name, value, before[name]))
        asked = self.queries + self.unanswerable
        if self.unanswerable > asked / 10:
            said.append(f"{self.unanswerable} of {asked} queries have too few positives to find and are left out")
        alone = int((self.per_query.negatives == 0).sum())
        if alone:
            said.append(f"{alone} queries have no row of another label in their gallery: they can't be wrong")
        return tuple(said)

    def _check_depth(self, k: int | None, what: str) -> None:
        if self.depth is not None and (k is None or k > self.depth):
            raise ValueError(f"{what} needs more of the ranking than its first {self.depth} places: pass full=True")


def _breakdown(found: QueryMeasures, keys: Int64[Tensor, " q"], names: Names | None) -> Breakdown:
    unique, place, count = keys.unique(return_inverse=True, return_counts=True)
    columns = (found.rank_at(1), found.r_precision, found.map_at_r)
    means = [torch.zeros(len(unique)).double().to(keys.device).index_add_(0, place, x) / count for x in columns]
    order = means[0].argsort(stable=True)
    rank1, r_precision, map_at_r = (mean[order] for mean in means)
    return Breakdown(
        keys=unique[order],
        names=None if names is None else tuple(name_of(key, names) for key in unique[order].tolist()),
        queries=count[order],
        rank1=rank1,
        r_precision=r_precision,
        map_at_r=map_at_r,
    )


def _rank1_among(cases: Int64[Tensor, "u 4"], size: int) -> Float64[Tensor, " u"]:
    """Rank@1 among `size` negatives drawn from those of each case: (ahead, tied negatives, tied positives, negatives).

    Of the ties, j negatives come before the first positive with probability C(e-j+p-1, p-1) / C(e+p, p).
    """
    ahead, other, tied, negatives = cases.double().unbind(1)
    drawn = negatives.clamp_max(size)
    total, chance = torch.zeros_like(ahead), tied / (other + tied)
    for j in range(int(other.max()) + 1):
        missed = _log_choose(negatives - ahead - j, drawn) - _log_choose(negatives, drawn)
        total += torch.where(j <= other, chance * missed.exp(), 0.0)
        left = (other - j).clamp_min(0)
        chance = chance * left / (left + tied - 1).clamp_min(1)
    return total


def _log_choose(n: Float64[Tensor, " u"], k: Float64[Tensor, " u"]) -> Float64[Tensor, " u"]:
    """log C(n, k); -inf where k > n."""
    inside = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma((n - k).clamp_min(0) + 1)
    return torch.where(k > n, -torch.inf, inside)
