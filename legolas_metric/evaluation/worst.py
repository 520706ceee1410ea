"""The queries that went most wrong, with what was found instead."""

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.evaluation.placing import own_class
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.report import QueryMeasures, WrongNeighbours
from legolas_metric.evaluation.trials import Trial
from legolas_metric.numerics import similarity_matrix

_QUERIES = 20
_WRONG = 5


def worst_queries(
    trial: Trial, measured: QueryMeasures, protocol: RetrievalProtocol, metric: Metric
) -> tuple[WrongNeighbours, ...]:
    """The queries whose best negative beats their best positive by the widest margin, at most 20, widest first.

    Args:
        trial: the queries and their gallery.
        measured: the trial's answerable queries, each once.
        protocol: what is taken out of the gallery.
        metric: of the similarity.
    """
    margin = measured.negative - measured.positive
    order = margin.argsort(descending=True, stable=True)[:_QUERIES]
    order = order[margin[order] > 0]
    ids, turn = trial.queries.ids.sort()
    query = turn[torch.searchsorted(ids, measured.ids[order])]
    place = measured.start + (measured.size + 1) / (measured.tied + 1)
    return tuple(
        _wrong_neighbours(trial, query[i : i + 1], float(place[row]), protocol, metric)
        for i, row in enumerate(order.tolist())
    )


def _wrong_neighbours(
    trial: Trial, query: Int64[Tensor, " 1"], place: float, protocol: RetrievalProtocol, metric: Metric
) -> WrongNeighbours:
    queries, gallery = trial.queries[query], trial.gallery
    assert queries.labels is not None
    assert gallery.labels is not None
    wide = similarity_matrix(queries.embeddings.double(), gallery.embeddings.double(), metric)
    if callable(protocol.exclude):
        wide.masked_fill_(protocol.exclude(trial.asker[query], trial.found), -torch.inf)
    scores, own = wide.float()[0], own_class(trial, query, protocol)
    column = own.column[0][own.honest[0]]
    positive = column[scores[column].argmax()]
    best = float(scores[positive])
    scores[own.column[0]] = -torch.inf
    nearest = scores.argsort(descending=True, stable=True)[:_WRONG]
    nearest = nearest[scores[nearest] > -torch.inf]
    return WrongNeighbours(
        id=int(queries.ids),
        label=int(queries.labels),
        place=place,
        positive=int(gallery.ids[positive]),
        positive_similarity=best,
        wrong=tuple(gallery.ids[nearest].tolist()),
        wrong_labels=tuple(gallery.labels[nearest].tolist()),
        wrong_similarities=tuple(scores[nearest].tolist()),
    )
