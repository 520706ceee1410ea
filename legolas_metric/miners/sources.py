"""From a bank or a batch to the pools that are mined, block by block, with what every miner checks first.

Letters: q anchors, n rows, m anchors of a block.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import UNLABELLED, ArrayLike, Metric, check_device, check_dimension
from legolas_metric.compiled.jit import runs_compiled
from legolas_metric.geometry import chunks
from legolas_metric.index.interface import NeighborIndex
from legolas_metric.miners.by_label import Classes, Part
from legolas_metric.miners.dense import DensePool, Table
from legolas_metric.miners.fused import FusedPool
from legolas_metric.miners.masks import Masks, Relations
from legolas_metric.miners.pool import IndexPool, Pool
from legolas_metric.miners.screened import ScreenedPool, screening_error
from legolas_metric.relations import LabelRelation
from legolas_metric.rows import NO_ID, Rows, as_groups, as_ids, as_labels, as_prepared

_BLOCK_ELEMENTS = 1 << 20  # of a block's similarities: they stay in the processor's cache
_LEAST_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Block:
    """Some of the anchors, in a pool: those that have a positive and a negative.

    Attributes:
        names: [m], what the answer calls them.
        number: [m], which of the anchors asked for.
        pool: of these anchors.
        no_positive, no_negative: anchors of this block that lack them.
    """

    names: Int64[Tensor, " m"]
    number: Part
    pool: Pool
    no_positive: int
    no_negative: int


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be mined.

    Attributes:
        names: [q], what the answer calls the anchors: ids, or positions in the batch.
        rows: among which positives and negatives are sought; the answer calls them by their ids.
        blocks: of the anchors, in order.
    """

    names: Int64[Tensor, " q"]
    rows: Rows
    blocks: Iterator[Block]


@dataclass(frozen=True, slots=True)
class Batch:
    """Checked arguments of a call by pytorch-metric-learning's convention; ids of anchors are their own rows, or -1."""

    anchors: Rows
    rows: Rows

    @classmethod
    def of(
        cls,
        embeddings: ArrayLike,
        labels: ArrayLike,
        ref_emb: ArrayLike | None,
        ref_labels: ArrayLike | None,
        groups: ArrayLike | None,
        ref_groups: ArrayLike | None,
        metric: Metric,
    ) -> "Batch":
        """Check and prepare the arguments."""
        if (ref_emb is None) != (ref_labels is None):
            raise ValueError("ref_emb and ref_labels go together: pass both or neither")
        anchors = _batch_rows(embeddings, labels, groups, metric, "")
        if ref_emb is None or ref_labels is None:
            return cls(anchors, anchors)
        rows = _batch_rows(ref_emb, ref_labels, ref_groups, metric, "ref_")
        check_device(anchors.embeddings, rows.embeddings, names=("embeddings", "ref_emb"))
        check_dimension(anchors.embeddings, rows.embeddings, names=("embeddings", "ref_emb"))
        if ref_labels is not labels:
            strangers = torch.full_like(anchors.ids, NO_ID)
            anchors = Rows(anchors.embeddings, anchors.labels, strangers, anchors.groups)
        return cls(anchors, rows)


def batch_source(batch: Batch, metric: Metric, relation: LabelRelation | None, *, screened: bool) -> Source:
    """The labelled anchors of a batch, as dense blocks; `screened` if only the choice matters, see `ScreenedPool`."""
    _check_groups(batch.anchors, relation, "the call, as groups and ref_groups")
    _check_groups(batch.rows, relation, "the call, as groups and ref_groups")
    assert batch.anchors.labels is not None
    if int(batch.anchors.labels.min()) > UNLABELLED:
        anchors, labelled = batch.anchors, batch.rows.ids
        if anchors is not batch.rows:
            labelled = torch.arange(len(anchors), device=anchors.embeddings.device)
    else:
        labelled = (batch.anchors.labels != UNLABELLED).nonzero()[:, 0]
        anchors = batch.anchors[labelled]
    table = Table(anchors, batch.rows, metric)
    error = screening_error(anchors, batch.rows, metric) if screened and metric != "euclidean" else math.inf
    error = error if math.isfinite(error) else None
    return Source(labelled, batch.rows, _dense_blocks(table, labelled, anchors.ids, relation, error))


def bank_source(
    bank: EmbeddingBank,
    anchors: ArrayLike | None,
    index: NeighborIndex,
    relation: LabelRelation | None,
    *,
    dense: bool,
) -> Source:
    """The anchors of a bank: behind an index, or as dense blocks where no index can answer.

    Raises:
        ValueError: labels that allow no triplet, unknown or unlabelled anchors, no groups where the relation needs
            them, or an index of another metric.
    """
    if index.metric != bank.metric:
        raise ValueError(f"the index has metric={index.metric!r}, the bank {bank.metric!r}: give both the same metric")
    rows = Rows(bank.embeddings, bank.labels, bank.ids, bank.groups)
    _check_groups(rows, relation, "EmbeddingBank")
    if relation is None or relation.compare is None:
        _refuse_hopeless(bank.labels)
    asked = _anchor_rows(bank, anchors)
    names = bank.ids[asked]
    if not dense and (relation is None or relation.by_label):
        return Source(names, rows, _index_blocks(asked, rows, index, relation))
    order = bank.ids.argsort()  # in a dense block, ties go to the smaller row
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    table = Table(rows[asked], rows[order], bank.metric)
    return Source(names, table.rows, _dense_blocks(table, names, place[asked], relation, None))


def _index_blocks(
    asked: Int64[Tensor, " q"], rows: Rows, index: NeighborIndex, relation: LabelRelation | None
) -> Iterator[Block]:
    other_group = relation is not None and relation.positive_group == "other"
    classes = Classes.of(rows[asked], asked, rows, other_group=other_group)
    kept, no_positive, no_negative = _usable(classes)
    if kept is None:
        kept = torch.arange(len(asked), device=asked.device)
    own = asked[kept]
    yield Block(rows.ids[own], kept, IndexPool(own, rows, index, classes[kept]), no_positive, no_negative)


def _dense_blocks(
    table: Table,
    names: Int64[Tensor, " q"],
    self_row: Int64[Tensor, " q"],
    relation: LabelRelation | None,
    error: float | None,
) -> Iterator[Block]:
    anchors, rows = table.anchors, table.rows
    if len(anchors) == 0:
        return
    relations: Relations = (
        Classes.of(anchors, self_row, rows) if relation is None else Masks(anchors, rows, self_row, relation)
    )
    compiled = error is not None and runs_compiled(rows.embeddings.device)
    screened = FusedPool if compiled else ScreenedPool
    for part in chunks(len(anchors), max(_LEAST_BLOCK, _BLOCK_ELEMENTS // len(rows))):
        own = relations if part.stop - part.start == len(anchors) else relations[part]
        kept, no_positive, no_negative = _usable(own)
        number: Part = part
        if kept is not None:
            number, own = kept + part.start, own[kept]
        pool = DensePool(table, number, own)
        yield Block(names[number], number, pool if error is None else screened(pool, error), no_positive, no_negative)


def _usable(relations: Relations) -> tuple[Int64[Tensor, " m"] | None, int, int]:
    """Numbers of the anchors that have a positive and a negative, or None for all; how many lack the one, the other."""
    if relations.fewest > 0:
        return None, 0, 0
    positive, negative = relations.positives > 0, relations.negatives > 0
    return (positive & negative).nonzero()[:, 0], int((~positive).sum()), int((positive & ~negative).sum())


def _batch_rows(
    embeddings: ArrayLike, labels: ArrayLike, groups: ArrayLike | None, metric: Metric, prefix: str
) -> Rows:
    name = f"{prefix}emb" if prefix else "embeddings"
    rows = as_prepared(embeddings, metric, name=name)
    n, device = rows.shape[0], rows.device
    own_labels = as_labels(labels, n, name=f"{prefix}labels", of=name).to(device)
    own_groups = as_groups(groups, n, of=name)
    return Rows(
        rows,
        own_labels,
        torch.arange(n, device=device),
        None if own_groups is None else own_groups.to(device),
    )


def _anchor_rows(bank: EmbeddingBank, anchors: ArrayLike | None) -> Int64[Tensor, " q"]:
    """Ascending rows of the anchors asked for."""
    if anchors is None:
        return (bank.labels != UNLABELLED).nonzero()[:, 0]
    rows = bank.rows(as_ids(anchors, len(anchors), of="anchors")).sort().values
    unlabelled = bank.ids[rows[bank.labels[rows] == UNLABELLED]]
    if len(unlabelled):
        raise ValueError(
            f"{len(unlabelled)} of {len(rows)} anchors are unlabelled (first: {unlabelled[:5].tolist()}): "
            "rows with label -1 are never anchors, leave them out"
        )
    return rows


def _check_groups(rows: Rows, relation: LabelRelation | None, where: str) -> None:
    if relation is not None and relation.needs_groups and rows.groups is None:
        raise ValueError(f"the relation compares groups, and there are none: pass groups to {where}")


def _refuse_hopeless(labels: Int64[Tensor, " n"]) -> None:
    """Raise where no triplet exists at all."""
    classes, counts = labels[labels != UNLABELLED].unique(return_counts=True)
    n, labelled = len(labels), int(counts.sum())
    if labelled == 0:
        raise ValueError(f"all {n} rows are unlabelled (-1): miners need labels")
    if labelled == n and len(classes) == 1:
        raise ValueError(f"no negatives: all {n} rows have the label {int(classes[0])}. Miners need two classes")
    if int(counts.max()) == 1:
        raise ValueError(f"no positives: each of {len(classes)} classes has one row. Miners need a class of two rows")
