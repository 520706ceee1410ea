"""What a ranking came to for each query, and for those that went most wrong."""

from dataclasses import dataclass

from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.evaluation import ranking_measures as measures


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QueryMeasures:
    """One entry for each answerable query (of each episode, where there are episodes).

    Attributes:
        ids, labels, groups: of the query; groups are None where none were given.
        positives: R, rows of its class in its gallery.
        negatives: rows of other labels there.
        start, size, tied: the level of the best positive: rows ranked strictly before it (exact up to the report's
            `depth`), rows in it, positives in it.
        r_precision, map_at_r: see `RankingReport`.
        recall_at_k, precision_at_k, map_at_k, ndcg_at_k: a column for each of the report's ks.
        average_precision, reciprocal_place, inverse_penalty, ndcg: over the whole ranking; None unless `full=True`.
        positive, negative: similarity of the best positive and of the best negative (-inf where there is none), in
            float64, as they decide.
    """

    ids: Int64[Tensor, " q"]
    labels: Int64[Tensor, " q"]
    groups: Int64[Tensor, " q"] | None
    positives: Int64[Tensor, " q"]
    negatives: Int64[Tensor, " q"]
    start: Int64[Tensor, " q"]
    size: Int64[Tensor, " q"]
    tied: Int64[Tensor, " q"]
    r_precision: Float64[Tensor, " q"]
    map_at_r: Float64[Tensor, " q"]
    recall_at_k: Float64[Tensor, "q k"]
    precision_at_k: Float64[Tensor, "q k"]
    map_at_k: Float64[Tensor, "q k"]
    ndcg_at_k: Float64[Tensor, "q k"]
    average_precision: Float64[Tensor, " q"] | None
    reciprocal_place: Float64[Tensor, " q"] | None
    inverse_penalty: Float64[Tensor, " q"] | None
    ndcg: Float64[Tensor, " q"] | None
    positive: Float64[Tensor, " q"]
    negative: Float64[Tensor, " q"]

    def __len__(self) -> int:
        return len(self.ids)

    def rank_at(self, k: int) -> Float64[Tensor, " q"]:
        """Probability that the first k rows hold a positive: exact up to the report's `depth`."""
        return measures.rank_at(self.start, self.size, self.tied, k)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongNeighbours:
    """A query that went wrong, with what was found before its first positive.

    Attributes:
        id, label: of the query, and `label_name`, where labels came as names.
        place: expected place of its first positive, from 1 (at least the report's depth, where it lies beyond).
        positive: id of the most similar positive, and `positive_similarity`.
        wrong, wrong_labels, wrong_similarities: the nearest rows of other labels, nearest first; and `wrong_names`.
    """

    id: int
    label: int
    place: float
    positive: int
    positive_similarity: float
    wrong: tuple[int, ...]
    wrong_labels: tuple[int, ...]
    wrong_similarities: tuple[float, ...]
    label_name: str | None = None
    wrong_names: tuple[str, ...] | None = None
