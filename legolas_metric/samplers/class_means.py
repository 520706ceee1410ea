"""Class means of rows that lie on several processes: enough to say which classes are near each other.

Letters: n rows of all processes, c classes, d dimensions.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import UNLABELLED, Metric
from legolas_metric.distributed import World
from legolas_metric.geometry import chunks
from legolas_metric.lookup import lookup
from legolas_metric.samplers.members import Members


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


def class_centroids(bank: EmbeddingBank | ClassMeans, members: Members) -> tuple[Float32[Tensor, "c d"], Tensor]:
    """Mean row of each class, of unit length under "cosine" (zero where a class's rows cancel out); and an exponent.

    Under the other metrics all are divided by two to that power, so that no similarity of finite rows overflows; which
    classes are near each other stays as it is.
    """
    if isinstance(bank, ClassMeans):
        place, _ = lookup(torch.from_numpy(members.classes), bank.classes)
        return _centroids(bank.sums[place], torch.from_numpy(members.sizes).to(place.device), bank.metric)
    rows, sizes = bank.embeddings, torch.from_numpy(members.sizes)
    owner = torch.full((len(bank),), len(sizes))  # rows of no class go to a last one, which is dropped
    owner[torch.from_numpy(members.rows)] = torch.arange(len(sizes)).repeat_interleave(sizes)
    owner, sizes = owner.to(rows.device), sizes.to(rows.device)
    return _centroids(class_sums(rows, owner, len(sizes)), sizes, bank.metric)


def _centroids(
    sums: Float64[Tensor, "c d"], sizes: Int64[Tensor, " c"], metric: Metric
) -> tuple[Float32[Tensor, "c d"], Tensor]:
    if metric == "cosine":
        return torch.nn.functional.normalize(sums).float(), sizes.new_zeros(())
    means = sums / sizes[:, None]
    exponent = torch.frexp(means.abs().max()).exponent
    return torch.ldexp(means, -exponent).float(), exponent
