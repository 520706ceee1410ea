"""What a miner may be given as `index` and `relation`."""

from typing import Literal

from legolas_metric.checks import Metric
from legolas_metric.index.exact import ExactIndex
from legolas_metric.index.interface import NeighborIndex
from legolas_metric.relations import LabelRelation

Index = NeighborIndex | Literal["auto"]


def check_shared(index: object, relation: object) -> None:
    """Raise where a word stands for an index, unless it is "auto", or something else for index or relation."""
    if isinstance(index, str):
        if index != "auto":
            raise ValueError(f"index must be 'auto' or an index such as ExactIndex(), got {index!r}")
    elif isinstance(index, type) or not isinstance(index, NeighborIndex):
        raise TypeError(f"index must be 'auto' or an index such as ExactIndex(), got {index!r}")
    if relation is not None and not isinstance(relation, LabelRelation):
        raise TypeError(f"relation must be a LabelRelation or None, got {relation!r}")


def template(index: Index, metric: Metric) -> NeighborIndex:
    """The index that a bank of a metric is searched with."""
    return ExactIndex(metric=metric) if isinstance(index, str) else index


def batch_metric(index: Index) -> Metric:
    """The metric of batches: the index's, or "cosine"."""
    return "cosine" if isinstance(index, str) else index.metric
