"""Single-gallery-shot: one gallery row of each identity, drawn at random, and all draws at once.

Letters: q queries, g gallery rows, c identities, t pairs of a query and one of its positives, k ranks, u nodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import UNLABELLED, ArrayLike, Metric
from legolas_metric.evaluation.arguments import Asked, as_ks, as_table
from legolas_metric.evaluation.bootstrap import Difference, paired_difference
from legolas_metric.geometry import chunks, exact_similarity
from legolas_metric.lookup import lookup
from legolas_metric.rows import Rows, as_ids
from legolas_metric.signatures import typed

_NODES = 32  # of the integral over the order of ties: exact up to 63 of them


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleShotReport:
    """Rank@k where the gallery holds one row of each identity.

    Attributes:
        rank: k -> share of the draws in which the query's identity is among the first k, mean over the queries.
        queries: that have a positive of another group.
        unanswerable: labelled queries that have none.
        identities: of the gallery.
        per_query: [q, k] the same of each query.
        asked_by: [q] their identities.
    """

    rank: Mapping[int, float]
    queries: int
    unanswerable: int
    identities: int
    per_query: Float64[Tensor, "q k"] = field(repr=False)
    asked_by: Int64[Tensor, " q"] = field(repr=False)

    def interval(self, k: int = 1) -> Difference:
        """`rank[k]`, less 0, with its 95 % interval by the bootstrap over identities.

        Warns:
            UserWarning: fewer than ten identities.
        """
        assert self.rank[k] >= 0  # or it says which were asked for
        values = self.per_query[:, list(self.rank).index(k)]
        return paired_difference(values, (self.asked_by, None), over="identities", level=0.95, resamples=1000, seed=0)


@typed
def evaluate_single_shot(
    embeddings: ArrayLike | EmbeddingBank,
    labels: ArrayLike | None = None,
    *,
    ids: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    queries: ArrayLike | None = None,
    gallery: ArrayLike | None = None,
    metric: Metric = "cosine",
    ks: int | ArrayLike = (1, 5, 10, 20),
) -> SingleShotReport:
    """Rank@k by the protocol of CUHK03: of each identity one gallery row is drawn, anew for each query.

    What a query's own camera (group) saw of its person is taken out first, and so is the query itself. Code in use
    repeats the draw ten times; here each query's value is the mean over all draws, which ten repeats scatter around:
    with m_j rows of identity j in the query's gallery, a_j of them more similar than the drawn row of its own identity,
    those ahead are independent with probabilities a_j / m_j, so that their number is below k with the probability of a
    Poisson binomial distribution. Ties are in random order. Time O(q g + t c k), memory 64 MB beside the rows.

    Args:
        embeddings: [n, d], or a bank.
        labels: [n] identities; rows of -1 are left out.
        ids: [n] names of the rows (default: row numbers).
        groups: [n] cameras or sessions.
        queries, gallery: ids of who asks and who is found (default: all rows).
        metric: "cosine", "dot" or "euclidean".
        ks: ranks.

    Raises:
        ValueError: what `evaluate_ranking` refuses; no query with a positive; a single identity.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.2]])
        >>> evaluate_single_shot(rows, [0, 0, 1, 1], ks=1).rank[1]
        0.75

    Source: Li et al. (2014), DeepReID, CVPR; the closed form is ours.
    """
    depths = as_ks(ks)
    rows, metric = as_table(embeddings, labels, ids=ids, groups=groups, metric=metric)
    assert rows.labels is not None
    asking, found_in = (_some(rows, side, name) for side, name in ((queries, "queries"), (gallery, "gallery")))
    assert asking.labels is not None
    assert found_in.labels is not None
    people, own = found_in.labels.unique(return_inverse=True)
    if len(people) < 2:
        raise ValueError(f"the gallery has {len(people)} identities: two are needed, or nothing can be found wrong")
    values, answered = [], []
    for part in chunks(len(asking), rows_for(BLOCK, 64 * len(found_in) + 8 * rows.embeddings.shape[1])):
        some = asking[part]
        for row in range(len(some)):
            value = _one_query(some[row : row + 1], found_in, own, len(people), depths, metric)
            answered.append(value is not None)
            values += [] if value is None else [value]
    if not values:
        raise ValueError("no query has a positive in the gallery (of another group, where groups are given)")
    each = torch.stack(values)
    return SingleShotReport(
        rank=Asked(dict(zip(depths, each.mean(0).tolist())), name="rank", argument="ks"),
        queries=len(values),
        unanswerable=len(answered) - len(values),
        identities=len(people),
        per_query=each,
        asked_by=asking.labels[torch.tensor(answered)],
    )


def _some(rows: Rows, ids: ArrayLike | None, name: str) -> Rows:
    """The labelled rows of some ids."""
    assert rows.labels is not None
    if ids is None:
        return rows[(rows.labels != UNLABELLED).nonzero().flatten()]
    place, found = lookup(as_ids(ids, None, name=name), rows.ids)
    if not bool(found.all()):
        raise ValueError(f"{int((~found).sum())} of the {name} are no ids of the rows")
    return rows[place[rows.labels[place] != UNLABELLED]]


def _one_query(
    query: Rows, gallery: Rows, own: Int64[Tensor, " g"], people: int, depths: tuple[int, ...], metric: Metric
) -> Float64[Tensor, " k"] | None:
    """The probabilities of one query to be answered within each depth, over all draws; None without a positive."""
    kept = gallery.ids != query.ids
    same = gallery.labels == query.labels
    if gallery.groups is not None:
        kept &= ~(same & (gallery.groups == query.groups))
    positive = kept & same
    if not bool(positive.any()):
        return None
    score = exact_similarity(query.embeddings.expand_as(gallery.embeddings), gallery.embeddings, metric)
    other = kept & ~same
    size = torch.zeros(people, dtype=torch.float64).index_add_(0, own[other], torch.ones(int(other.sum())).double())
    there = size > 0
    ahead, tied = (
        _share_of_each(compare(score[other], score[positive][:, None]), own[other], size)[:, there]
        for compare in (torch.gt, torch.eq)
    )
    return _within(ahead, tied, depths).mean(0)


def _share_of_each(
    hit: Bool[Tensor, "t g"], own: Int64[Tensor, " g"], size: Float64[Tensor, " c"]
) -> Float64[Tensor, "t c"]:
    total = torch.zeros(len(hit), len(size), dtype=torch.float64).index_add_(1, own, hit.double())
    return total / size


def _within(
    ahead: Float64[Tensor, "t c"], tied: Float64[Tensor, "t c"], depths: tuple[int, ...]
) -> Float64[Tensor, "t k"]:
    """The probability that fewer than k identities come before, with ties in random order."""
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(_NODES))
    if not bool(tied.any()):
        nodes, weights = nodes[:1], weights.new_full((1,), 2.0)
    p = ahead[:, None] + (nodes[:, None] + 1) / 2 * tied[:, None]  # a tie is ahead with the probability of its node
    count = torch.zeros(*p.shape[:2], max(depths), dtype=torch.float64)  # of identities ahead: [t, u, k]
    count[..., 0] = 1
    for one in p.unbind(2):
        before = count * one[..., None]
        count -= before
        count[..., 1:] += before[..., :-1]
    sums = (count * weights[:, None] / 2).sum(1).cumsum(1)
    return sums[:, [k - 1 for k in depths]]
