"""Rank the gallery of each query and measure it: Rank@k, R-precision, MAP@R, mAP, expected over the order of ties."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import UNLABELLED, ArrayLike, Metric
from legolas_metric.evaluation import ranking_measures as measures
from legolas_metric.evaluation.arguments import Asked, as_ks, as_table, rows_of_baseline
from legolas_metric.evaluation.dispersion import mean_squared_distances
from legolas_metric.evaluation.placing import Placed, place_all
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.query_measures import QueryMeasures
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.evaluation.scores import Scorer
from legolas_metric.evaluation.trials import Trial, trials
from legolas_metric.evaluation.worst import worst_queries
from legolas_metric.relations import LabelRelation
from legolas_metric.rows import Rows
from legolas_metric.signatures import typed


@typed
def evaluate_ranking(
    embeddings: ArrayLike | EmbeddingBank,
    labels: ArrayLike | None = None,
    *,
    ids: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    metric: Metric = "cosine",
    protocol: RetrievalProtocol | str = RetrievalProtocol(),  # noqa: B008  (frozen)
    ks: int | ArrayLike = (1, 5, 10),
    full: bool = False,
    baseline: ArrayLike | EmbeddingBank | RankingReport | None = None,
    scorer: Scorer | None = None,
    relation: LabelRelation | None = None,
) -> RankingReport:
    """Rank the gallery for each query, exactly, in bounded memory.

    Gallery rows of equal similarity (`geometry.exact_similarity`, in float64, to what rounding leaves of it) count with
    their expectation over random order, so that a collapsed encoder scores chance (McSherry & Najork 2008). MAP@R and
    R-precision: Musgrave 2020. Peak memory, in bytes: 24 n d + 128 MB + 8 q w (2 + 3 len(ks)), with w rows of the
    largest class; and for q queries of classes of 64 rows or fewer in a gallery of 8,192 or more, unless `full`,
    q (1,200 + 72 max(w, ks)), which is the search's.

    Args:
        embeddings: [n, d], finite; or a bank, whose labels, ids, groups and metric are taken.
        labels: [n] integers; -1 is unlabelled: it asks nothing, and is a negative of every query, or junk where the
            protocol says `distractors=False`.
        ids: [n] unique, names of the rows (default: row numbers). The same id is self, and never found.
        groups: [n] session, camera or recording, for protocols that compare it, and for `by_group`.
        metric: "cosine", "dot" or "euclidean".
        protocol: what is asked and what must not be found; or "leave-one-out", "re-identification", "cross-session",
            "cross-day", "single-gallery-shot".
        ks: depths of Rank@k and of the other measures at k, or one of them; beyond the gallery's size every answerable
            query is answered.
        full: work out the whole rankings: mAP, MRR, mINP, nDCG, CMC to any k, Rank@1 against gallery size.
        baseline: embeddings of the same rows by the untrained encoder (or a bank of them), or their report.
        scorer: `ScoreNorm`, `PLDA` or `KReciprocal`, which then scores in the metric's place; `worst` is empty.
        relation: what is a positive and a negative of a query, as for miners (default: equality of labels): rows of
            several tags, a tree of classes. What is neither is junk, neither found nor missed. `intra`, `inter` and
            means by label still go by the labels. Every query is compared to every row.

    Raises:
        TypeError: integer embeddings or float labels; no labels; ks that are no integers; what is no protocol.
        ValueError: NaN or inf, zero rows under cosine, rows whose similarities overflow float32, lengths that differ,
            ids that repeat, k < 1, a protocol or a relation that needs groups where none are given, unknown ids, no
            row of another class in any gallery, no query with a positive, or a relation beside episodes or draws, which
            go by class.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.2]])
        >>> report = evaluate_ranking(rows, [0, 0, 1, 1], ks=(1, 2))
        >>> report.rank[1], report.queries
        (0.75, 4)

    Source: McSherry and Najork (2008); Musgrave et al. (2020), A Metric Learning Reality Check, arXiv:2003.08505.
    """
    depths, asked_for = as_ks(ks), RetrievalProtocol.named(protocol)
    rows, metric = as_table(embeddings, labels, ids=ids, groups=groups, metric=metric)
    relation = None if relation == LabelRelation() else relation
    _check_answerable(rows, asked_for, relation)
    _check_scorer(scorer, rows, asked_for)
    reference = baseline
    if reference is not None and not isinstance(reference, RankingReport):
        other, named = rows_of_baseline(reference, rows), {"ids": rows.ids, "groups": rows.groups}
        reference = evaluate_ranking(
            other, rows.labels, **named, metric=metric, protocol=asked_for, ks=depths, full=full, relation=relation
        )
    assert rows.labels is not None
    intra, inter = mean_squared_distances(rows.embeddings, rows.labels)
    names, group_names = rows.label_names, rows.group_names
    unlabelled = int((rows.labels == UNLABELLED).sum())
    depth = None if full else max(depths, default=1)
    asked, gallery, found, worst = 0, 0, [], ()
    if scorer is not None:
        rows = replace(rows, embeddings=scorer.transform(rows.embeddings, rows.ids))
    asking = trials(rows, asked_for, metric, relation)
    del rows  # its memory is worth more to the search
    for trial in asking:
        asked, gallery = asked + len(trial), max(gallery, len(trial.gallery))
        measured = [
            _measure(trial, placed, depths, full) for placed in place_all(trial, asked_for, metric, depth, scorer)
        ]
        found += measured
        if asked_for.episodes is asked_for.repeats is None and measured and scorer is None:
            worst = worst_queries(trial, _joined(measured), asked_for, metric)
    per_query = _answered(found, asked, asked_for, relation)
    return RankingReport(
        **_means(per_query, depths),
        nn_accuracy=float(per_query.rank_at(1).sum()) / asked,
        intra=intra,
        inter=inter,
        queries=len(per_query),
        unanswerable=asked - len(per_query),
        unlabelled=unlabelled,
        gallery=gallery,
        depth=depth,
        protocol=asked_for,
        label_names=names,
        group_names=group_names,
        per_query=per_query,
        worst=worst,
        baseline=reference,
    )


def _answered(
    found: list[QueryMeasures], asked: int, protocol: RetrievalProtocol, relation: LabelRelation | None
) -> QueryMeasures:
    """All that was measured, joined; refused where no query has an answer, or none can be wrong."""
    if not found:
        raise ValueError(
            f"none of {asked} queries has {_fewest(protocol)} in its gallery under {protocol.name!r}"
            f"{'' if relation is None else ' and the relation'}: "
            "give each class at least two rows (of different groups, where groups are compared)"
        )
    per_query = _joined(found)
    if not callable(protocol.exclude) and not bool(per_query.negatives.any()):  # a rule of one's own may mean that
        raise ValueError(
            f"no query has a row of another label in its gallery under {protocol.name!r}, so that nothing could be "
            f"wrong: a gallery needs {'rows of other classes' if relation is None else 'negatives of the relation'}"
        )
    return per_query


def _means(found: QueryMeasures, ks: tuple[int, ...]) -> dict[str, Any]:
    """The means over queries, by the report's names."""

    def at_k(name: str, columns: Float64[Tensor, "q k"]) -> Asked:
        means = columns.mean(0).tolist()
        return Asked(dict(zip(ks, means)), name=name, argument="ks")

    ranks = torch.stack([found.rank_at(k) for k in ks], 1) if ks else found.recall_at_k
    return {
        "rank": at_k("rank", ranks),
        "recall_at_k": at_k("recall_at_k", found.recall_at_k),
        "precision_at_k": at_k("precision_at_k", found.precision_at_k),
        "map_at_k": at_k("map_at_k", found.map_at_k),
        "ndcg_at_k": at_k("ndcg_at_k", found.ndcg_at_k),
        "r_precision": float(found.r_precision.mean()),
        "map_at_r": float(found.map_at_r.mean()),
        "mean_average_precision": _mean(found.average_precision),
        "mrr": _mean(found.reciprocal_place),
        "minp": _mean(found.inverse_penalty),
        "ndcg": _mean(found.ndcg),
    }


def _check_answerable(rows: Rows, protocol: RetrievalProtocol, relation: LabelRelation | None) -> None:
    """Refuse a table in which nothing can be asked, or nothing can be wrong."""
    assert rows.labels is not None
    if protocol.exclude == "same_group" and rows.groups is None:
        raise ValueError(f"the protocol {protocol.name!r} compares groups (session, camera, recording): pass groups")
    if relation is not None and relation.needs_groups and rows.groups is None:
        raise ValueError("the relation compares groups (session, camera, recording): pass groups")
    if relation is not None and (protocol.episodes or protocol.repeats):
        raise ValueError(f"the protocol {protocol.name!r} draws by class: leave out the relation, or take another one")
    distinct = rows.labels.unique()
    if not bool((distinct != UNLABELLED).any()):
        raise ValueError("all rows are unlabelled (-1): nothing can be asked")
    if len(distinct) == 1 and relation is None:
        raise ValueError(f"all {len(rows)} rows have label {int(distinct)}: a ranking needs rows of another class")


def _check_scorer(scorer: Scorer | None, rows: Rows, protocol: RetrievalProtocol) -> None:
    if scorer is None:
        return
    if protocol.episodes is not None and protocol.episodes.prototypes:
        raise ValueError("prototypes are means of rows, which a scorer does not compare: leave out one of the two")
    assert rows.labels is not None
    scorer.check(rows.labels, rows.label_names)


def _columns(rows: Int64[Tensor, " q"], values: list[Float64[Tensor, " q"]]) -> Float64[Tensor, "q k"]:
    """Values side by side, in as many rows as there are, even if there are no values."""
    return torch.stack(values, 1) if values else rows.new_empty(len(rows), 0).double()


def _measure(trial: Trial, placed: Placed, ks: tuple[int, ...], full: bool) -> QueryMeasures:
    """Measures of some queries, from the places of their positives."""
    found, queries, query = placed.places, trial.queries, placed.query
    assert queries.labels is not None
    depth = found.positives
    at = [torch.full_like(depth, k) for k in ks]
    return QueryMeasures(
        ids=queries.ids[query],
        labels=queries.labels[query],
        groups=None if queries.groups is None else queries.groups[query],
        positives=depth,
        negatives=placed.negatives,
        start=found.start[:, 0],
        size=found.size[:, 0],
        tied=found.tied[:, 0],
        r_precision=measures.hits_at(found, depth) / depth,
        map_at_r=measures.average_precision(found, depth),
        recall_at_k=_columns(depth, [measures.hits_at(found, k) / depth for k in at]),
        precision_at_k=_columns(depth, [measures.hits_at(found, k) / k for k in at]),
        map_at_k=_columns(depth, [measures.average_precision(found, k) for k in at]),
        ndcg_at_k=_columns(depth, [measures.discounted_gain(found, k) for k in at]),
        average_precision=measures.average_precision(found) if full else None,
        reciprocal_place=measures.reciprocal_place(found) if full else None,
        inverse_penalty=measures.inverse_penalty(found) if full else None,
        ndcg=measures.discounted_gain(found) if full else None,
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


def _fewest(protocol: RetrievalProtocol) -> str:
    least = protocol.min_positives
    return "a positive" if least == 1 else f"min_positives={least} positives"


def _mean(column: Float64[Tensor, " q"] | None) -> float | None:
    return None if column is None else float(column.mean())
