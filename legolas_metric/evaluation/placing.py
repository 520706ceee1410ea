"""Finding the places of each query's positives: against the whole gallery, or only among its first rows.

Letters: q queries of a block, w places for positives (padded), g gallery rows.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.compiled.jit import runs_compiled
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.ranking_measures import Places
from legolas_metric.evaluation.scores import Counts, above_in_order, count_above, row_blocks
from legolas_metric.evaluation.trials import Trial
from legolas_metric.geometry import chunks, pair_similarity, similarity_matrix
from legolas_metric.index.exact import ExactIndex
from legolas_metric.rows import Rows

_LEAST_GALLERY = 8192
_LARGEST_CLASS = 64
_BAND_ROWS = 256
_COMPILED_ROWS = 1 << 14
_INDEX_MB = 32


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
    positive: Float32[Tensor, " q"]
    negative: Float32[Tensor, " q"]
    negatives: Int64[Tensor, " q"]


@dataclass(frozen=True, slots=True)
class OwnClass:
    """The class of each query of a block, in the gallery: its columns, and which are honest positives."""

    column: Int64[Tensor, "q w"]
    honest: Bool[Tensor, "q w"]


def place_all(trial: Trial, protocol: RetrievalProtocol, metric: Metric, depth: int | None) -> Iterator[Placed]:
    """Places of all answerable queries of a trial, block by block.

    Args:
        trial: the queries and their gallery.
        protocol: what is taken out of the gallery.
        metric: of the similarity.
        depth: rows of the ranking that matter, beside the first R; None for all of them.
    """
    shallow = 0
    if depth is not None and len(trial.gallery) >= _LEAST_GALLERY and not callable(protocol.exclude):
        shallow = int((trial.count <= _LARGEST_CLASS).sum())  # the first ones, as queries are in order of class size
    undecided = torch.arange(shallow, len(trial), device=trial.asker.device)
    if shallow:
        assert depth is not None
        placed, more = _place_among_first(trial, protocol, metric, depth, shallow)
        yield from placed
        undecided = torch.cat([more, undecided])
    if len(undecided) == 0:
        return
    wide = trial.gallery.embeddings.double()
    for part in row_blocks(len(undecided), len(trial.gallery)):
        among_all = _place_among_all(trial, undecided[part], wide, protocol, metric)
        if among_all is not None:
            yield among_all


def own_class(trial: Trial, query: Int64[Tensor, " q"], protocol: RetrievalProtocol) -> OwnClass:
    """Columns of the queries' own classes; padding repeats a column of theirs."""
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


def _place_among_all(
    trial: Trial,
    query: Int64[Tensor, " q"],
    gallery: Float64[Tensor, "g d"],
    protocol: RetrievalProtocol,
    metric: Metric,
) -> Placed | None:
    """Places against every gallery row; None where no query has positives enough."""
    own = own_class(trial, query, protocol)
    if own.column.shape[1] == 0:
        return None
    wide = similarity_matrix(trial.queries.embeddings[query].double(), gallery, metric)
    if callable(protocol.exclude):
        wide.masked_fill_(protocol.exclude(trial.asker[query], trial.found), -torch.inf)
    _settle(wide, own, trial, query, metric)
    scores = wide.float()
    positive = torch.where(own.honest, scores.gather(1, own.column), -torch.inf)
    asked = (positive > -torch.inf).sum(1) >= protocol.min_positives
    if not bool(asked.any()):
        return None
    scores.scatter_(1, own.column, -torch.inf)
    if not bool(asked.all()):
        query, positive, scores = query[asked], positive[asked], scores[asked]
    best = positive.sort(1, descending=True).values
    found = _places(best, count_above(scores, best))
    return Placed(query, found, best[:, 0], scores.amax(1), _negatives(trial, query, scores, protocol))


def _negatives(
    trial: Trial, query: Int64[Tensor, " q"], scores: Float32[Tensor, "q g"], protocol: RetrievalProtocol
) -> Int64[Tensor, " q"]:
    if callable(protocol.exclude):
        return (scores > -torch.inf).sum(1)
    return len(trial.gallery) - trial.count[query]


def _settle(
    wide: Float64[Tensor, "q g"], own: OwnClass, trial: Trial, query: Int64[Tensor, " q"], metric: Metric
) -> None:
    """Make rows that are equal tie exactly, wherever they stand in the block.

    A product errs by up to d 2^-53 sum |x_i y_i|, by its place in the block. That changes its rounding to float32 only
    within this distance of the middle of two float32 numbers: where a positive lies there (one in a million), it and
    all that is as near as two float32 numbers are computed again, pair by pair.
    """
    if metric == "euclidean":
        return  # computed pair by pair already
    x, y = trial.queries.embeddings, trial.gallery.embeddings
    error = x.shape[1] * 2.0**-52
    longest = 1.0 if metric == "cosine" else float(x.norm(dim=1).max() * y.norm(dim=1).max())
    value = wide.gather(1, own.column)
    row, place = (_between_floats(value, error * longest) & own.honest).nonzero().unbind(1)
    pairs = (x[query[row]].double() * y[own.column[row, place]].double()).abs().sum(1)
    loose = _between_floats(value[row, place], error * pairs)
    for one, middle in zip(row[loose].tolist(), value[row, place][loose].tolist()):
        near = ((wide[one] - middle).abs() <= 2.0**-22 * abs(middle)).nonzero().flatten()
        wide[one, near] = pair_similarity(x[query[one]].expand(len(near), -1), y[near], metric).double()


def _between_floats(value: Float64[Tensor, "*b"], error: float | Float64[Tensor, "*b"]) -> Bool[Tensor, "*b"]:
    """Whether an error of this size can change the rounding to float32."""
    return (value - error).float() != (value + error).float()


def _places(best: Float32[Tensor, "q w"], negatives: Counts) -> Places:
    """Places of positives, given best first, with the counts of negatives above and at each."""
    before, tied = above_in_order(best.flip(1).contiguous(), best)
    return Places(best > -torch.inf, before + negatives[0], tied + negatives[1], before, tied)


def _place_among_first(
    trial: Trial, protocol: RetrievalProtocol, metric: Metric, depth: int, queries: int
) -> tuple[list[Placed], Int64[Tensor, " u"]]:
    """Places of the trial's first queries, among the nearest negatives that an exact index finds.

    Also returns the undecided queries: a positive of theirs ties with the last negative, and more may tie beyond.
    """
    nearest = _nearest_negatives(trial, metric, depth, queries)
    placed, undecided = [], []
    fast = runs_compiled(nearest.device)
    for part in chunks(queries, _COMPILED_ROWS if fast else _BAND_ROWS):
        if int(trial.count[part].max()) == 0:
            continue
        best = (_compiled_own if fast else _band_own)(trial, part, protocol, metric)
        found = best > -torch.inf
        asked = found.sum(1) >= protocol.min_positives
        open_end = (found & (best == nearest[part, -1:])).any(1)
        query = torch.arange(part.start, part.stop, device=best.device)
        undecided.append(query[asked & open_end])
        sure = asked & ~open_end
        if bool(sure.any()):
            best, ahead = best[sure], nearest[part][sure]
            negatives = above_in_order(ahead.flip(1).contiguous(), best)
            count = len(trial.gallery) - trial.count[query[sure]]
            placed.append(Placed(query[sure], _places(best, negatives), best[:, 0], ahead[:, 0], count))
    return placed, torch.cat(undecided) if undecided else trial.asker.new_empty(0)


def _band_own(trial: Trial, part: slice, protocol: RetrievalProtocol, metric: Metric) -> Float32[Tensor, "q w"]:
    """Similarities of queries to their honest positives, descending, then -inf: classes stand together."""
    own = own_class(trial, torch.arange(part.start, part.stop, device=trial.asker.device), protocol)
    start, end = int(own.column.min()), int(own.column.max()) + 1
    x, y = trial.queries.embeddings[part].double(), trial.gallery.embeddings[start:end].double()
    band = similarity_matrix(x, y, metric).float()
    return torch.where(own.honest, band.gather(1, own.column - start), -torch.inf).sort(1, descending=True).values


def _compiled_own(trial: Trial, part: slice, protocol: RetrievalProtocol, metric: Metric) -> Float32[Tensor, "q w"]:
    """The same, compiled: pair by pair."""
    from legolas_metric.evaluation.counting_loops import own_similarities

    def excluded(rows: Rows) -> np.ndarray:
        compared = [rows.ids, rows.groups] if protocol.exclude == "same_group" else [rows.ids]
        return torch.stack([names for names in compared if names is not None], 1).numpy()

    gallery, euclidean = trial.gallery.embeddings.numpy(), metric == "euclidean"
    found = excluded(trial.gallery)
    best = trial.queries.embeddings.new_empty(part.stop - part.start, int(trial.count[part].max()))

    def work(some: slice) -> None:
        asker = trial.queries[some]
        first, count = trial.first[some].numpy(), trial.count[some].numpy()
        place = best[some.start - part.start : some.stop - part.start].numpy()
        own_similarities(asker.embeddings.numpy(), gallery, first, count, excluded(asker), found, euclidean, place)

    threads = torch.get_num_threads()
    share = -(-len(best) // threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, (slice(part.start + s.start, part.start + s.stop) for s in chunks(len(best), share))))
    return best


def _nearest_negatives(trial: Trial, metric: Metric, depth: int, queries: int) -> Float32[Tensor, "q k"]:
    """Similarities of the first queries' nearest negatives, one more than any measure looks at; -inf where none is."""
    own, gallery = trial.queries[slice(queries)], trial.gallery
    k = min(max(depth, int(trial.count[:queries].max())) + 1, len(gallery))
    index = ExactIndex(metric=metric, workspace_mb=_INDEX_MB).fit(gallery.embeddings, gallery.labels, ids=gallery.ids)
    ordered, order = trial.found.sort()
    place = torch.searchsorted(ordered, trial.asker[:queries]).clamp_max(len(ordered) - 1)
    if 2 * queries > len(gallery) and bool((ordered[place] == trial.asker[:queries]).all()):
        return index.self_join(k, want="negative").similarities[order[place]]
    return index.search(own.embeddings, k, labels=own.labels, ids=own.ids, want="negative").similarities
