"""From a bank or a batch to the pools that are mined, block by block, with what every miner checks first.

Letters: q anchors, n rows, m anchors of a block.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import UNLABELLED, ArrayLike, Metric, as_integers
from legolas_metric.datasets.labels import class_sizes
from legolas_metric.disk.disk_rows import AnyRows, DiskRows, some_of
from legolas_metric.disk.stored_bank import StoredBank
from legolas_metric.geometry import chunks
from legolas_metric.index.interface import NeighborIndex
from legolas_metric.index.placement import Placing
from legolas_metric.lookup import inverse, lookup
from legolas_metric.miners.batch_rows import Batch
from legolas_metric.miners.by_label import Classes, Part
from legolas_metric.miners.dense import DensePool, Table, block_rows
from legolas_metric.miners.joint import JointNames, JointSearch
from legolas_metric.miners.masks import Masks, Relations
from legolas_metric.miners.pool import IndexPool, Pool, Searching
from legolas_metric.miners.sharing import BY_ITSELF, Sharing
from legolas_metric.records import MiningStats
from legolas_metric.relations import LabelRelation
from legolas_metric.rows import NO_ID, Rows, as_ids, places_of

PAIRS = BLOCK // 4096
"""Pairs of anchor and positive that are searched together: each has its slot, window and answer."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some of the anchors, in a pool: those that have a positive and a negative.

    Attributes:
        names: [m], what the answer calls them.
        asked: how many anchors this block is of.
        number: [m], which of these have a positive and a negative; None: all.
        pool: of these anchors.
        no_positive, no_negative: anchors of this block that lack them.
    """

    names: Int64[Tensor, " m"]
    asked: int
    number: Int64[Tensor, " m"] | None
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
        before: anchors, or pairs of anchor and positive, that the processes before this one mine.
        together: is entered while this is mined: what fails on one process fails on all.
        placing: where the rows of several processes lie, if that was decided.
        search: what answers where the rows lie on several processes.
    """

    names: Int64[Tensor, " q"]
    rows: AnyRows | JointNames
    blocks: Iterator[Block]
    before: int = 0
    together: AbstractContextManager[object] = field(default_factory=nullcontext)
    placing: Placing | None = None
    search: JointSearch | None = None

    def answered(self, stats: MiningStats) -> MiningStats:
        """What a process without anchors of its own says of the searches that it answered for others."""
        known = None if self.search is None or stats.anchors else self.search.stats
        return stats if known is None else replace(stats, search=known)


def batch_source(batch: Batch, metric: Metric, relation: LabelRelation | None) -> Source:
    """The labelled anchors of a batch, as dense blocks."""
    check_groups(batch.anchors, relation, "the call, as groups and ref_groups")
    check_groups(batch.rows, relation, "the call, as groups and ref_groups")
    assert batch.anchors.labels is not None
    if int(batch.anchors.labels.min()) > UNLABELLED:
        anchors, labelled = batch.anchors, batch.rows.ids
        if anchors is not batch.rows:
            labelled = torch.arange(len(anchors), device=anchors.embeddings.device)
    else:
        labelled = (batch.anchors.labels != UNLABELLED).nonzero()[:, 0]
        anchors = batch.anchors[labelled]
    table = Table(anchors, batch.rows, metric)
    relations = (
        Classes.of(anchors, anchors.ids, batch.rows)
        if relation is None
        else Masks(anchors, batch.rows, anchors.ids, relation)
    )
    return Source(labelled, batch.rows, _dense_blocks(table, labelled, relations))


def bank_source(
    bank: EmbeddingBank | StoredBank,
    anchors: ArrayLike | None,
    candidates: ArrayLike | None,
    index: NeighborIndex,
    relation: LabelRelation | None,
    *,
    dense: bool,
    every_positive: bool,
    sharing: Sharing = BY_ITSELF,
) -> Source:
    """The anchors of a bank: behind an index, or as dense blocks where no index can answer.

    Args:
        bank: whose rows they are; of several processes this one's.
        anchors: ids; None: all with a label.
        candidates: ids of the rows among which positives and negatives are sought; None: all.
        index: unfitted.
        relation: of anchors and rows.
        dense: whether no index can answer the strategy.
        every_positive: whether each positive of an anchor is looked at, so that anchors go in blocks.
        sharing: the processes that share the call, and how.

    Raises:
        ValueError: labels that allow no triplet, unknown or unlabelled anchors, no groups where the relation needs
            them, an index of another metric, or rows of several processes that fit none of the ways to mine them.
    """
    world, dense = sharing.world, dense or not (relation is None or relation.by_label)
    with world.together("mining"):
        if index.metric != bank.metric:
            raise ValueError(
                f"the index has metric={index.metric!r}, the bank {bank.metric!r}: give both the same metric"
            )
        check_groups(bank.table, relation, "EmbeddingBank")
        sharing.check(bank.table, index, dense=dense)
        asked = anchor_rows(bank.table, anchors)
        kept = None if candidates is None else _named_rows(bank.table, candidates, "candidates")
    whole = sharing.joined(bank.table, bank.metric)
    rows, self_row = whole, asked
    if kept is not None:
        rows = some_of(whole, kept)
        place, there = lookup(whole.ids[asked], rows.ids)
        self_row = torch.where(there, place, NO_ID)
    spread = sharing.spread(rows, index, dense=dense)
    self_row = torch.where(self_row >= 0, self_row + spread.start, NO_ID)
    own, names = some_of(whole, asked), whole.ids[asked]
    assert own.labels is not None
    if relation is None or relation.compare is None:
        assert whole.labels is not None
        labels = world.gather(whole.labels)
        refuse_hopeless(labels, world.gather(own.labels), spread.rows, kept is not None)
    if spread.search is not None:
        other_group = relation is not None and relation.positive_group == "other"
        relations = Classes.of(own, self_row, spread.rows, other_group=other_group)
        most = own.at_once if isinstance(own, DiskRows) else len(own)
        pairs = (most if isinstance(own, DiskRows) else PAIRS) if every_positive else None
        blocks, found = index_blocks(own.__getitem__, spread.search, relations, most, pairs), spread.rows
    else:
        found, self_row = _by_id(spread.whole, self_row)
        relations = Classes.of(own, self_row, found) if relation is None else Masks(own, found, self_row, relation)
        blocks = _dense_blocks(Table(own, found, bank.metric), names, relations)
    before = sharing.before(len(own), relations if every_positive else None, len(found))
    joint = spread.search if isinstance(spread.search, JointSearch) else None
    return Source(names, found, blocks, before, spread.together, spread.placing, joint)


def _by_id(rows: Rows, self_row: Int64[Tensor, " q"]) -> tuple[Rows, Int64[Tensor, " q"]]:
    """Rows in the order of their ids, as in a dense block ties go to the smaller row; and where the anchors stand."""
    order = rows.ids.argsort()
    return rows[order], torch.where(self_row >= 0, inverse(order)[self_row], NO_ID)


def index_blocks(
    take: Callable[[Part], Rows], searched: Searching, classes: Classes, most: int, pairs: int | None
) -> Iterator[Block]:
    """Anchors behind an index: `take` gives some of them, a block has `most` at most.

    Where each positive is asked about it has at most so many `pairs` as well: each is a query, a row of its own.
    """
    q = len(classes.self_row)
    if pairs is not None and q:
        most = min(most, rows_for(min(pairs, PAIRS), int(classes.positives.max())))
    for part in chunks(q, max(1, most)):
        of = classes if most >= q else classes[part]
        kept, no_positive, no_negative = _usable(of)
        anchors = take(part if kept is None else kept + part.start)
        pool = IndexPool(searched, anchors, of if kept is None else of[kept])
        yield Block(anchors.ids, part.stop - part.start, kept, pool, no_positive, no_negative)


def _dense_blocks(table: Table, names: Int64[Tensor, " q"], relations: Relations) -> Iterator[Block]:
    anchors, rows = table.anchors, table.rows
    for part in chunks(len(anchors), block_rows(len(rows))):
        whole = part.stop - part.start == len(anchors)
        own = relations if whole else relations[part]
        kept, no_positive, no_negative = _usable(own)
        number = part
        if kept is not None:
            number, own, whole = kept + part.start, own[kept], False
        pool = DensePool(table, None if whole else number, own)
        yield Block(names[number], part.stop - part.start, kept, pool, no_positive, no_negative)


def _usable(relations: Relations) -> tuple[Int64[Tensor, " m"] | None, int, int]:
    """Numbers of the anchors that have a positive and a negative, or None for all; how many lack the one, the other."""
    if relations.fewest > 0:
        return None, 0, 0
    positive, negative = relations.positives > 0, relations.negatives > 0
    return (positive & negative).nonzero()[:, 0], int((~positive).sum()), int((positive & ~negative).sum())


def _named_rows(rows: AnyRows, ids: ArrayLike, name: str) -> Int64[Tensor, " m"]:
    """Ascending rows of ids."""
    given = as_integers(ids, None, name=name)
    return places_of(as_ids(given, len(given), of=name), rows.ids).sort().values


def anchor_rows(rows: AnyRows, anchors: ArrayLike | None) -> Int64[Tensor, " q"]:
    """Ascending rows of the anchors asked for."""
    assert rows.labels is not None
    if anchors is None:
        return (rows.labels != UNLABELLED).nonzero()[:, 0]
    asked = _named_rows(rows, anchors, "anchors")
    unlabelled = rows.ids[asked[rows.labels[asked] == UNLABELLED]]
    if len(unlabelled):
        raise ValueError(
            f"{len(unlabelled)} of {len(asked)} anchors are unlabelled (first: {unlabelled[:5].tolist()}): "
            "rows with label -1 are never anchors, leave them out"
        )
    return asked


def check_groups(rows: AnyRows, relation: LabelRelation | None, where: str) -> None:
    """Raise where a relation compares groups that there are none of; `where` says what to pass them to."""
    if relation is not None and relation.needs_groups and rows.groups is None and len(rows):
        raise ValueError(f"the relation compares groups, and there are none: pass groups to {where}")


def refuse_hopeless(
    labels: Int64[Tensor, " n"], asked: Int64[Tensor, " q"], rows: AnyRows | JointNames, chosen: bool
) -> None:
    """Raise where no triplet exists at all, by the labels of all rows and of the anchors that are asked for.

    `chosen`: among the candidates that were given.
    """
    classes, counts = class_sizes(labels)
    n, labelled = len(labels), int(counts.sum())
    if labelled == 0:
        raise ValueError(f"all {n} rows are unlabelled (-1): miners need labels")
    if labelled == n and len(classes) == 1:
        raise ValueError(f"no negatives: all {n} rows have the label {int(classes[0])}. Miners need two classes")
    if int(counts.max()) == 1:
        raise ValueError(f"no positives: each of {len(classes)} classes has one row. Miners need a class of two rows")
    assert rows.labels is not None
    if chosen and not bool(torch.isin(asked, rows.labels).any()):
        raise ValueError(
            f"no positives: none of {len(rows)} candidates has the label of any of {len(asked)} anchors: "
            "candidates must hold rows of the anchors' classes"
        )
