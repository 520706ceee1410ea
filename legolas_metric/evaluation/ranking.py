"""Rank the gallery of each query and measure it: Rank@k, R-precision, MAP@R, mAP, expected over the order of ties."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, Metric, check_at_least, check_metric
from legolas_metric.datasets.labels import LabelIndex
from legolas_metric.evaluation import expectation
from legolas_metric.evaluation.dispersion import mean_squared_distances
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.scores import row_blocks, score_block
from legolas_metric.index.protocol import Rows, fitted_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingReport:
    """How well each row finds its own class. Shares are means over the answerable queries.

    Attributes:
        rank: k -> share of queries with a positive among the first k (CMC).
        r_precision: share of positives among the first R, R being the query's own number of positives.
        map_at_r: (1/R) sum over i <= R of P(i) rel(i).
        mean_average_precision: the same over the whole ranking, divided by R; None unless `full=True`.
        nn_accuracy: share of *all* labelled rows whose nearest row has their label; the unanswerable count as wrong.
        intra: mean squared distance of all pairs of one class (d^2 under cosine and euclidean).
        inter: mean squared distance of all pairs of different labels.
        queries: answerable queries, the denominator of the means.
        unanswerable: labelled rows for which the gallery holds no positive; counted here and left out.
        gallery: rows that are searched, before the protocol takes out what a query must not find.
        protocol: how it was asked.
        baseline: the report of the untrained encoder, by which this one is to be read; None where none was given.
    """

    rank: Mapping[int, float]
    r_precision: float
    map_at_r: float
    mean_average_precision: float | None
    nn_accuracy: float
    intra: float
    inter: float
    queries: int
    unanswerable: int
    gallery: int
    protocol: RetrievalProtocol
    baseline: "RankingReport | None" = None


def evaluate_ranking(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    ids: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    metric: Metric = "cosine",
    protocol: RetrievalProtocol = RetrievalProtocol(),  # noqa: B008  (frozen)
    ks: Sequence[int] = (1, 5, 10),
    full: bool = False,
    baseline: ArrayLike | RankingReport | None = None,
) -> RankingReport:
    """Rank all other rows for each labelled row, exactly, in bounded memory.

    Gallery rows of equal similarity (float64 product, rounded to float32) count with their expectation over random
    order, so that a collapsed encoder scores chance (McSherry & Najork 2008). MAP@R and R-precision: Musgrave 2020.

    Args:
        embeddings: [n, d], finite.
        labels: [n] integers; -1 marks a distractor, which asks nothing and is a negative of every query.
        ids: [n] unique, names of the rows (default: row numbers). The same id is self, and never found.
        groups: [n] session, camera or recording, for protocols that compare it.
        metric: "cosine", "dot" or "euclidean".
        protocol: what is asked and what must not be found.
        ks: depths of Rank@k; beyond the gallery's size every answerable query is answered.
        full: rank the whole gallery too, for mAP.
        baseline: embeddings of the same rows by the untrained encoder, or their report.

    Raises:
        TypeError: integer embeddings or float labels.
        ValueError: NaN or inf, zero rows under cosine, lengths that differ, ids that repeat, k < 1, a protocol that
            needs groups where none are given, no row of another class, or no query with a positive.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.2]])
        >>> report = evaluate_ranking(rows, [0, 0, 1, 1], ks=(1, 2))
        >>> report.rank[1], report.queries
        (0.75, 4)
    """
    check_metric(metric)
    for k in ks:
        check_at_least("k", k, 1)
    rows = fitted_rows(embeddings, labels, ids=ids, groups=groups, metric=metric)
    assert rows.labels is not None
    check_answerable(rows, protocol)
    reference = baseline
    if reference is not None and not isinstance(reference, RankingReport):
        reference = evaluate_ranking(
            reference, labels, ids=ids, groups=groups, metric=metric, protocol=protocol, ks=ks, full=full
        )
    values, unanswerable = _rank_all(rows, metric, protocol, ks, full)
    if not len(values):
        raise ValueError(
            f"none of {unanswerable} queries has a positive in its gallery under exclude={protocol.exclude!r}: "
            "give each class at least two rows (of different groups)"
        )
    means = [float(column) for column in values.mean(0)]
    intra, inter = mean_squared_distances(rows.embeddings, rows.labels)
    return RankingReport(
        rank=dict(zip(ks, means[3:])),
        r_precision=means[1],
        map_at_r=means[2],
        mean_average_precision=means[-1] if full else None,
        nn_accuracy=means[0] * len(values) / (len(values) + unanswerable),
        intra=intra,
        inter=inter,
        queries=len(values),
        unanswerable=unanswerable,
        gallery=len(rows),
        protocol=protocol,
        baseline=reference,
    )


def check_answerable(rows: Rows, protocol: RetrievalProtocol) -> None:
    """Refuse a table in which nothing can be asked, or nothing can be wrong."""
    assert rows.labels is not None
    if protocol.exclude == "same_group" and rows.groups is None:
        raise ValueError("exclude='same_group' compares groups: pass groups")
    distinct = rows.labels.unique()
    if not bool((distinct != UNLABELLED).any()):
        raise ValueError("all rows are unlabelled (-1): nothing can be asked")
    if len(distinct) == 1:
        raise ValueError(f"all {len(rows)} rows have label {int(distinct)}: a ranking needs rows of another class")


def _rank_all(
    rows: Rows, metric: Metric, protocol: RetrievalProtocol, ks: Sequence[int], full: bool
) -> tuple[Float64[Tensor, "q m"], int]:
    """A row of measures for each answerable query, and how many queries are not."""
    assert rows.labels is not None
    members = LabelIndex.of(rows.labels)
    wide = rows.embeddings.double()
    # Large classes last: rows of a block then have about as many positives each.
    rank_of_class = members.counts.argsort(stable=True)
    queries = torch.cat([members.rows_of(int(c)) for c in rank_of_class])
    measured, unanswerable = [], 0
    for part in row_blocks(len(queries), len(rows)):
        own = queries[part]
        scores = score_block(wide[own], wide, metric)
        positive = _take_positives(scores, own, rows, members, protocol)
        asked = (positive > -torch.inf).any(1)
        unanswerable += int((~asked).sum())
        if bool(asked.any()):
            measured.append(_measure(positive[asked], _ascending(scores[asked]), ks, full))
    columns = 3 + len(ks) + full
    return (torch.cat(measured) if measured else wide.new_empty(0, columns)), unanswerable


def _take_positives(
    scores: Float32[Tensor, "q n"],
    own: Int64[Tensor, " q"],
    rows: Rows,
    members: LabelIndex,
    protocol: RetrievalProtocol,
) -> Float32[Tensor, "q w"]:
    """Similarities of each query's positives; in `scores` its whole class is overwritten by -inf: negatives remain."""
    assert rows.labels is not None
    c = torch.searchsorted(members.classes, rows.labels[own])
    count = members.counts[c]
    place = torch.arange(int(count.max()), device=own.device)
    inside = place < count[:, None]
    member = (members.offsets[c, None] + place).clamp_max(len(members.rows) - 1)
    column = torch.where(inside, members.rows[member], own[:, None])
    honest = column != own[:, None]
    if protocol.exclude == "same_group":
        assert rows.groups is not None
        honest &= rows.groups[column] != rows.groups[own, None]
    positive = torch.where(honest, scores.gather(1, column), -torch.inf)
    scores.scatter_(1, column, -torch.inf)
    return positive


def _ascending(scores: Float32[Tensor, "q n"]) -> Float32[Tensor, "q n"]:
    # On the CPU NumPy's vectorised sort takes a fifth of the time of torch's.
    if scores.device.type == "cpu":
        return torch.from_numpy(np.sort(scores.numpy(), axis=1))
    return scores.sort(1).values


def _measure(
    positive: Float32[Tensor, "q w"], negative: Float32[Tensor, "q n"], ks: Sequence[int], full: bool
) -> Float64[Tensor, "q m"]:
    found = expectation.places(positive, negative)
    depth = found.positives
    columns = [
        expectation.rank_at(found, 1),
        expectation.precision_at(found, depth),
        expectation.average_precision(found, depth),
        *(expectation.rank_at(found, k) for k in ks),
    ]
    if full:
        columns.append(expectation.average_precision(found))
    return torch.stack(columns, 1)
