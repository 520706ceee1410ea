"""Rank the gallery of each query and measure it: Rank@k, R-precision, MAP@R, mAP, expected over the order of ties."""

from collections.abc import Sequence
from dataclasses import fields

import torch
from jaxtyping import Float64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, Metric, check_at_least, check_metric
from legolas_metric.evaluation import ranking_measures as expectation
from legolas_metric.evaluation.dispersion import mean_squared_distances
from legolas_metric.evaluation.placing import Placed, place_all
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.ranking_report import QueryMeasures, RankingReport
from legolas_metric.evaluation.trials import Trial, trials
from legolas_metric.evaluation.worst import worst_queries
from legolas_metric.rows import Rows, fitted_rows


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
    """Rank the gallery for each query, exactly, in bounded memory.

    Gallery rows of equal similarity (float64 product, rounded to float32) count with their expectation over random
    order, so that a collapsed encoder scores chance (McSherry & Najork 2008). MAP@R and R-precision: Musgrave 2020.

    Args:
        embeddings: [n, d], finite.
        labels: [n] integers; -1 marks a distractor, which asks nothing and is a negative of every query.
        ids: [n] unique, names of the rows (default: row numbers). The same id is self, and never found.
        groups: [n] session, camera or recording, for protocols that compare it, and for `by_group`.
        metric: "cosine", "dot" or "euclidean".
        protocol: what is asked and what must not be found.
        ks: depths of Rank@k; beyond the gallery's size every answerable query is answered.
        full: work out the whole rankings: mAP, mINP, nDCG, CMC to any k, Rank@1 against gallery size.
        baseline: embeddings of the same rows by the untrained encoder, or their report.

    Raises:
        TypeError: integer embeddings or float labels.
        ValueError: NaN or inf, zero rows under cosine, lengths that differ, ids that repeat, k < 1, a protocol that
            needs groups where none are given or names unknown ids, no row of another class, or no query with a
            positive.

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
    _check_answerable(rows, protocol)
    reference = baseline
    if reference is not None and not isinstance(reference, RankingReport):
        reference = evaluate_ranking(
            reference, labels, ids=ids, groups=groups, metric=metric, protocol=protocol, ks=ks, full=full
        )
    depth = None if full else max(ks, default=1)
    asked, gallery, found = 0, 0, []
    worst = ()
    assert rows.labels is not None
    intra, inter = mean_squared_distances(rows.embeddings, rows.labels)
    asking = trials(rows, protocol, metric)
    del rows  # its memory is worth more to the search
    for trial in asking:
        asked, gallery = asked + len(trial), max(gallery, len(trial.gallery))
        measured = [_measure(trial, placed, full) for placed in place_all(trial, protocol, metric, depth)]
        found += measured
        if protocol.episodes is None and measured:
            worst = worst_queries(trial, _joined(measured), protocol, metric)
    if not found:
        raise ValueError(
            f"none of {asked} queries has a positive in its gallery under {protocol.name!r}: "
            "give each class at least two rows (of different groups, where groups are compared)"
        )
    per_query = _joined(found)
    first = {k: expectation.rank_at(per_query.start, per_query.size, per_query.tied, k) for k in {1, *ks}}
    return RankingReport(
        rank={k: float(first[k].mean()) for k in ks},
        r_precision=float(per_query.r_precision.mean()),
        map_at_r=float(per_query.map_at_r.mean()),
        mean_average_precision=_mean(per_query.average_precision),
        minp=_mean(per_query.inverse_penalty),
        ndcg=_mean(per_query.ndcg),
        nn_accuracy=float(first[1].sum()) / asked,
        intra=intra,
        inter=inter,
        queries=len(per_query),
        unanswerable=asked - len(per_query),
        gallery=gallery,
        depth=depth,
        protocol=protocol,
        per_query=per_query,
        worst=worst,
        baseline=reference,
    )


def _check_answerable(rows: Rows, protocol: RetrievalProtocol) -> None:
    """Refuse a table in which nothing can be asked, or nothing can be wrong."""
    assert rows.labels is not None
    if protocol.exclude == "same_group" and rows.groups is None:
        raise ValueError(f"the protocol {protocol.name!r} compares groups (session, camera, recording): pass groups")
    distinct = rows.labels.unique()
    if not bool((distinct != UNLABELLED).any()):
        raise ValueError("all rows are unlabelled (-1): nothing can be asked")
    if len(distinct) == 1:
        raise ValueError(f"all {len(rows)} rows have label {int(distinct)}: a ranking needs rows of another class")


def _measure(trial: Trial, placed: Placed, full: bool) -> QueryMeasures:
    """Measures of some queries, from the places of their positives."""
    found, queries, query = placed.places, trial.queries, placed.query
    assert queries.labels is not None
    depth = found.positives
    return QueryMeasures(
        ids=queries.ids[query],
        labels=queries.labels[query],
        groups=None if queries.groups is None else queries.groups[query],
        positives=depth,
        negatives=placed.negatives,
        start=found.start[:, 0],
        size=found.size[:, 0],
        tied=found.tied[:, 0],
        r_precision=expectation.precision_at(found, depth),
        map_at_r=expectation.average_precision(found, depth),
        average_precision=expectation.average_precision(found) if full else None,
        inverse_penalty=expectation.inverse_penalty(found) if full else None,
        ndcg=expectation.discounted_gain(found) if full else None,
        positive=placed.positive,
        negative=placed.negative,
    )


def _joined(parts: Sequence[QueryMeasures]) -> QueryMeasures:
    """All queries, in order of their ids."""
    order = torch.cat([part.ids for part in parts]).argsort(stable=True)
    columns = {}
    for name in (entry.name for entry in fields(QueryMeasures)):
        values = [getattr(part, name) for part in parts]
        columns[name] = None if values[0] is None else torch.cat(values)[order]
    return QueryMeasures(**columns)


def _mean(column: Float64[Tensor, " q"] | None) -> float | None:
    return None if column is None else float(column.mean())
