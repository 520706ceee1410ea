"""Class means of rows that lie on several processes: enough to say which classes are near each other.

Letters: n rows of all processes, c classes, d dimensions.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import UNLABELLED, Metric
from legolas_metric.distributed import World
from legolas_metric.geometry import chunks
from legolas_metric.lookup import lookup


@dataclass(frozen=True, slots=True)
class ClassMeans:
    """What `NeighborPKSampler` asks of a bank, where no process holds all rows.

    Attributes:
        labels, ids, groups: [n], of all rows.
        metric: of the rows.
        classes: [c], ascending.
        sums: [c, d], of the rows of each class.
    """

    labels: Int64[Tensor, " n"]
    ids: Int64[Tensor, " n"]
    groups: Int64[Tensor, " n"] | None
    metric: Metric
    classes: Int64[Tensor, " c"]
    sums: Float64[Tensor, "c d"]

    @classmethod
    def of(
        cls,
        bank: EmbeddingBank,
        labels: Int64[Tensor, " n"],
        ids: Int64[Tensor, " n"],
        groups: Int64[Tensor, " n"] | None,
        world: World,
    ) -> "ClassMeans":
        """Of each process's own bank, and the names of all rows; all processes call it."""
        classes = labels[labels != UNLABELLED].unique().to(bank.labels.device)
        place, there = lookup(bank.labels, classes)
        sums = class_sums(bank.embeddings, torch.where(there, place, len(classes)), len(classes))
        return cls(labels, ids, groups, bank.metric, classes, world.reduce(sums))


def class_sums(rows: Tensor, owner: Int64[Tensor, " n"], classes: int) -> Float64[Tensor, "c d"]:
    """The sums of the rows of each class; `owner`: [n], its number, or `classes` for none."""
    sums = rows.new_zeros(classes + 1, rows.shape[1], dtype=torch.float64)
    for part in chunks(len(rows), rows_for(BLOCK, 8 * rows.shape[1])):
        sums.index_add_(0, owner[part], rows[part].double())
    return sums[:-1]
