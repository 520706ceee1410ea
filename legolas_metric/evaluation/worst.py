"""The queries that went most wrong, with what was found instead."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.budgets import CACHE, rows_for
from legolas_metric.checks import Metric
from legolas_metric.evaluation.placing import own_class
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.query_measures import QueryMeasures, WrongNeighbours
from legolas_metric.evaluation.trials import Trial
from legolas_metric.geometry import chunks, exact_similarity
from legolas_metric.lookup import lookup
from legolas_metric.names import name_of

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
    order = order[measured.start[order] > 0]
    query, _ = lookup(measured.ids[order], trial.queries.ids)
    place = measured.start + (measured.size + 1) / (measured.tied + 1)
    x, y = trial.queries.embeddings[query, None], trial.gallery.embeddings
    parts = chunks(len(y), rows_for(CACHE, 16 * x.numel() + 8))
    pairs = (torch.broadcast_tensors(x, y[None, part]) for part in parts)
    exact = torch.cat([exact_similarity(one, other, metric) for one, other in pairs], 1)
    if callable(protocol.exclude) and len(query):
        exact.masked_fill_(protocol.excluded(trial.asker[query], trial.found), -torch.inf)
    return tuple(
        _wrong_neighbours(trial, query[i : i + 1], scores, float(place[row]), protocol)
        for i, (row, scores) in enumerate(zip(order.tolist(), exact))
    )


def _wrong_neighbours(
    trial: Trial, query: Int64[Tensor, " 1"], scores: Float64[Tensor, " g"], place: float, protocol: RetrievalProtocol
) -> WrongNeighbours:
    queries, gallery = trial.queries[query], trial.gallery
    assert queries.labels is not None
    assert gallery.labels is not None
    own = own_class(trial, query, protocol)
    if own.neither is not None:
        scores[own.neither[0]] = -torch.inf
    column = own.column[0][own.honest[0]]
    positive = column[scores[column].argmax()]
    best = float(scores[positive].float())
    scores[own.column[0]] = -torch.inf
    # Ties go to the first in the gallery, as everywhere: among all that reach the last of the nearest.
    least = scores.topk(min(_WRONG, len(scores))).values[-1]
    nearest = (scores >= least).nonzero().flatten()
    nearest = nearest[scores[nearest].argsort(descending=True, stable=True)][:_WRONG]
    nearest = nearest[scores[nearest] > -torch.inf]
    names, label, wrong = gallery.label_names, int(queries.labels), gallery.labels[nearest].tolist()
    return WrongNeighbours(
        id=int(queries.ids),
        label=label,
        place=place,
        positive=int(gallery.ids[positive]),
        positive_similarity=best,
        wrong=tuple(gallery.ids[nearest].tolist()),
        wrong_labels=tuple(wrong),
        wrong_similarities=tuple(scores[nearest].float().tolist()),
        label_name=None if names is None else name_of(label, names),
        wrong_names=None if names is None else tuple(name_of(other, names) for other in wrong),
    )
