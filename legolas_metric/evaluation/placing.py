"""Finding the places of each query's positives: against the whole gallery, or only among its first rows.

Letters: q queries of a block, w places for positives (padded), g gallery rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import Metric
from legolas_metric.evaluation.progress import bar
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.ranking_measures import Places
from legolas_metric.evaluation.scores import (
    Counts,
    Scorer,
    Ties,
    ahead_in_order,
    count_ahead,
    row_blocks,
    score_block,
    score_pairs,
    turned,
    widened,
    within_range,
)
from legolas_metric.evaluation.trials import Trial
from legolas_metric.geometry import chunks
from legolas_metric.index.exact import ExactIndex
from legolas_metric.lookup import lookup
from legolas_metric.relations import LabelRelation, positives_and_negatives

_LEAST_GALLERY = 8192
_LARGEST_CLASS = 64
_BAND_ROWS = 256
_INDEX_MB = 32
_SCORED = 2.0**-40
"""What rounding makes of a scorer's scores at most, as a share of them."""
_COMPARED = 4
"""How many tables as large as the scores a relation needs beside them, at most."""
_REPORTED = 2.0**-22
"""By how much a similarity that was rounded to float32 may err, and then some, as a share of it."""
_SETTLED = 2.0**-31
"""By how much the 33 bits by which an index chooses may err, and then some, as a share of 1 + |s|, or of |s|."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Places of the positives of some answerable queries.

    Attributes:
        query: their numbers in the trial.
        places: of their positives. Counts of rows ahead are exact up to the depth that was asked for, and at least
            that depth beyond it.
        positive, negative: similarity of the best positive and of the best negative (-inf where there is none).
        negatives: how many there are.
    """

    query: Int64[Tensor, " q"]
    places: Places
    positive: Float64[Tensor, " q"]
    negative: Float64[Tensor, " q"]
    negatives: Int64[Tensor, " q"]


@dataclass(frozen=True, slots=True)
class OwnClass:
    """The class of each query of a block, in the gallery: its columns, and which are honest positives.

    By a relation, the columns are those of its positives, and `neither` says which rows are no answer: the query
    itself, what the protocol takes out, and what is neither positive nor negative.
    """

    column: Int64[Tensor, "q w"]
    honest: Bool[Tensor, "q w"]
    neither: Bool[Tensor, "q g"] | None = None


def place_all(
    trial: Trial, protocol: RetrievalProtocol, metric: Metric, depth: int | None, scorer: Scorer | None = None
) -> Iterator[Placed]:
    """Places of all answerable queries of a trial, block by block.

    Args:
        trial: the queries and their gallery.
        protocol: what is taken out of the gallery.
        metric: of the similarity.
        depth: rows of the ranking that matter, beside the first R; None for all of them.
        scorer: what scores in the metric's place; the trial's rows are what it made of them.
    """
    shallow = 0
    if scorer is None and depth is not None and len(trial.gallery) >= _LEAST_GALLERY and not _own_rule(trial, protocol):
        shallow = int((trial.count <= _LARGEST_CLASS).sum())  # the first ones, as queries are in order of class size
    ties = Ties.of(trial.gallery.embeddings, metric) if scorer is None else Ties(0.0, _SCORED, torch.inf)
    undecided = torch.arange(shallow, len(trial), device=trial.asker.device)
    if shallow:
        assert depth is not None
        placed, more = _place_among_first(trial, protocol, metric, ties, depth, shallow)
        yield from placed
        undecided = torch.cat([more, undecided])
    if len(undecided) == 0:
        return
    wide = widened(trial.gallery.embeddings, metric) if scorer is None else trial.gallery.embeddings.double()
    with bar(len(undecided), "rank", "queries") as told:
        tables = 1 if trial.relation is None else _COMPARED
        for part in row_blocks(len(undecided), tables * len(wide)):
            among_all = _place_among_all(trial, undecided[part], wide, protocol, metric, ties, scorer)
            told.update(part.stop - part.start)
            if among_all is not None:
                yield among_all


def own_class(trial: Trial, query: Int64[Tensor, " q"], protocol: RetrievalProtocol) -> OwnClass:
    """Columns of the queries' own classes; padding repeats a column of theirs."""
    if trial.relation is not None:
        return _related(trial, query, protocol, trial.relation)
    count = trial.count[query]
    place = torch.arange(int(count.max()), device=query.device)
    inside = place < count[:, None]
    column = torch.where(inside, trial.first[query, None] + place, trial.first[query, None])
    honest = inside & (trial.gallery.ids[column] != trial.queries.ids[query, None])
    if protocol.exclude == "same_group":
        assert trial.gallery.groups is not None
        assert trial.queries.groups is not None
        honest &= trial.gallery.groups[column] != trial.queries.groups[query, None]
    return OwnClass(column, honest)


def _related(
    trial: Trial, query: Int64[Tensor, " q"], protocol: RetrievalProtocol, relation: LabelRelation
) -> OwnClass:
    queries, gallery = trial.queries[query], trial.gallery
    assert queries.labels is not None
    assert gallery.labels is not None
    positive, negative = positives_and_negatives(
        relation, queries.labels, gallery.labels, queries.groups, gallery.groups
    )
    taken = queries.ids[:, None] == gallery.ids
    if protocol.exclude == "same_group":
        assert queries.groups is not None
        assert gallery.groups is not None
        taken |= positive & (queries.groups[:, None] == gallery.groups)
    count = positive.sum(1)
    place = torch.arange(int(count.max()), device=query.device)
    honest = place < count[:, None]
    column = positive.int().argmax(1, keepdim=True).repeat(1, len(place))
    column[honest] = positive.nonzero()[:, 1]
    return OwnClass(column, honest, taken | ~(positive | negative))


def _own_rule(trial: Trial, protocol: RetrievalProtocol) -> bool:
    """Whether more than classes decides what a query may find."""
    return callable(protocol.exclude) or trial.relation is not None


def _place_among_all(
    trial: Trial,
    query: Int64[Tensor, " q"],
    gallery: Float64[Tensor, "g e"],
    protocol: RetrievalProtocol,
    metric: Metric,
    ties: Ties,
    scorer: Scorer | None,
) -> Placed | None:
    """Places against every gallery row; None where no query has positives enough."""
    own = own_class(trial, query, protocol)
    if own.column.shape[1] == 0:
        return None
    asking = trial.queries.embeddings[query]
    if scorer is None:
        scores = score_block(turned(widened(asking, metric), metric), gallery, metric)
    else:
        scores = scorer.compare(asking.double(), gallery)
    if callable(protocol.exclude):
        scores.masked_fill_(protocol.excluded(trial.asker[query], trial.found), -torch.inf)
    if own.neither is not None:
        scores.masked_fill_(own.neither, -torch.inf)
    positive = torch.where(own.honest, scores.gather(1, own.column), -torch.inf)
    asked = (positive > -torch.inf).sum(1) >= protocol.min_positives
    if not bool(asked.any()):
        return None
    scores.scatter_(1, own.column, -torch.inf)
    if not bool(asked.all()):
        query, positive, scores = query[asked], positive[asked], scores[asked]
    levels = _Levels.of(positive, ties)
    found = levels.places(count_ahead(scores, levels.low, levels.high))
    best, negative = (x if scorer else within_range(x, metric) for x in (levels.best[:, 0], scores.amax(1)))
    return Placed(query, found, best, negative, _negatives(trial, query, scores, protocol))


def _negatives(
    trial: Trial, query: Int64[Tensor, " q"], scores: Float64[Tensor, "q g"], protocol: RetrievalProtocol
) -> Int64[Tensor, " q"]:
    if _own_rule(trial, protocol):
        return (scores > -torch.inf).sum(1)
    return len(trial.gallery) - trial.count[query]


@dataclass(frozen=True, slots=True)
class _Levels:
    """Similarities of each query's positives, best first (-inf where there is none), and the level that each is in.

    Attributes:
        best: the similarities.
        low, high: where the level begins and ends.
        before, tied: positives ranked before the level, and in it.
    """

    best: Float64[Tensor, "q w"]
    low: Float64[Tensor, "q w"]
    high: Float64[Tensor, "q w"]
    before: Int64[Tensor, "q w"]
    tied: Int64[Tensor, "q w"]

    @classmethod
    def of(cls, positive: Float64[Tensor, "q w"], ties: Ties) -> "_Levels":
        best = positive.sort(1, descending=True).values
        low, high = ties.bounds(best)
        # Positives of one level reach into each other's bounds.
        begins = torch.ones_like(best, dtype=torch.bool)
        begins[:, 1:] = best[:, 1:] < low[:, :-1]
        ends = torch.ones_like(begins)
        ends[:, :-1] = begins[:, 1:]
        place = torch.arange(best.shape[1], device=best.device).expand_as(begins)
        first = torch.where(begins, place, 0).cummax(1).values
        last = torch.where(ends, place, best.shape[1]).flip(1).cummin(1).values.flip(1)
        return cls(best, low.gather(1, last), high.gather(1, first), first, last - first + 1)

    def places(self, negatives: Counts) -> Places:
        """Places of the positives, given how many negatives lie above each level, and how many in it."""
        start, size = self.before + negatives[0], self.tied + negatives[1]
        valid = self.best > -torch.inf
        return Places(valid, torch.where(valid, start, 0), torch.where(valid, size, 1), self.before, self.tied)


def _place_among_first(
    trial: Trial, protocol: RetrievalProtocol, metric: Metric, ties: Ties, depth: int, queries: int
) -> tuple[list[Placed], Int64[Tensor, " u"]]:
    """Places of the trial's first queries, among the nearest negatives that an exact index finds.

    Also returns the undecided queries: a positive of theirs ties with the last negative, and more may tie beyond.
    """
    rows, similarities = _nearest_negatives(trial, metric, depth, queries)
    placed, undecided = [], []
    for part in chunks(queries, _BAND_ROWS):
        if int(trial.count[part].max()) == 0:
            continue
        query = torch.arange(part.start, part.stop, device=trial.asker.device)
        positive = _band(trial, query, protocol, metric)
        query = query[(positive > -torch.inf).sum(1) >= protocol.min_positives]
        if len(query) == 0:
            continue
        levels = _Levels.of(positive[query - part.start], ties)
        ahead = _refined(trial, query, rows[query], similarities[query].double(), levels.best, metric)
        last = ahead[:, -1:]
        slack = _SETTLED * ((1.0 if metric == "cosine" else 0.0) + last.abs().nan_to_num(posinf=0.0))
        reached = (levels.low <= last + slack) & (last - slack <= levels.high)
        open_end = (reached & (levels.best > -torch.inf)).any(1)
        undecided.append(query[open_end])
        if not bool(open_end.all()):
            found = levels.places(ahead_in_order(ahead.flip(1).contiguous(), levels.low, levels.high))
            sure = ~open_end
            count = len(trial.gallery) - trial.count[query[sure]]
            best = within_range(levels.best[sure, 0], metric)
            placed.append(Placed(query[sure], found[sure], best, ahead[sure, 0], count))
    return placed, torch.cat(undecided) if undecided else trial.asker.new_empty(0)


def _band(
    trial: Trial, query: Int64[Tensor, " q"], protocol: RetrievalProtocol, metric: Metric
) -> Float64[Tensor, "q w"]:
    """Similarities of queries to their honest positives, and -inf: classes stand together in the gallery."""
    own = own_class(trial, query, protocol)
    start, end = int(own.column.min()), int(own.column.max()) + 1
    asking = turned(widened(trial.queries.embeddings[query], metric), metric)
    band = score_block(asking, widened(trial.gallery.embeddings[start:end], metric), metric)
    return torch.where(own.honest, band.gather(1, own.column - start), -torch.inf)


def _refined(
    trial: Trial,
    query: Int64[Tensor, " q"],
    rows: Int64[Tensor, "q k"],
    reported: Float64[Tensor, "q k"],
    best: Float64[Tensor, "q w"],
    metric: Metric,
) -> Float64[Tensor, "q k"]:
    """Similarities of negatives, descending: worked out anew where their rounding hides what comes first."""
    error = _REPORTED * best.abs().nan_to_num(posinf=0.0)[:, None]
    near = ((reported[:, :, None] - best[:, None]).abs() <= error).any(2)
    near[:, -1] |= reported[:, -1] > -torch.inf
    row, column = near.nonzero().unbind(1)
    x, y = trial.queries.embeddings, trial.gallery.embeddings
    for part in chunks(len(row), rows_for(BLOCK, 32 * x.shape[1])):
        exact = score_pairs(x[query[row[part]]], y[rows[row[part], column[part]]], metric)
        reported[row[part], column[part]] = exact
    return reported.sort(1, descending=True).values


def _nearest_negatives(trial: Trial, metric: Metric, depth: int, queries: int) -> tuple[Int64[Tensor, "q k"], Tensor]:
    """The first queries' nearest negatives, one more than any measure looks at: rows, and similarities as reported."""
    own, gallery = trial.queries[slice(queries)], trial.gallery
    k = min(max(depth, int(trial.count[:queries].max())) + 1, len(gallery))
    index = ExactIndex(metric=metric, workspace_mb=_INDEX_MB).fit(gallery.embeddings, gallery.labels, ids=gallery.ids)
    place, there = lookup(trial.asker[:queries], trial.found)
    if 2 * queries > len(gallery) and bool(there.all()):
        joined = index.self_join(k, want="negative")
        ids, similarities = joined.ids[place], joined.similarities[place]
    else:
        found = index.search(own.embeddings, k, labels=own.labels, ids=own.ids, want="negative")
        ids, similarities = found.ids, found.similarities
    return lookup(ids, gallery.ids)[0], similarities
