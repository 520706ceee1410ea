"""Rows that live in an index, a database's for example, as what is mined: anchors are read block by block.

Letters: q anchors, n rows, m anchors of a block, k negatives, d dimensions.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import WORKSPACE, rows_for
from legolas_metric.checks import ArrayLike, Metric
from legolas_metric.index.interface import StoredRows, Want
from legolas_metric.lookup import lookup
from legolas_metric.miners.by_label import Classes, Part
from legolas_metric.miners.pool import Window, merged, similarities_between
from legolas_metric.miners.sources import Source, anchor_rows, check_groups, index_blocks, refuse_hopeless
from legolas_metric.miners.strategy import Strategy
from legolas_metric.records import SearchStats
from legolas_metric.relations import LabelRelation
from legolas_metric.rows import NO_ID, Rows


def stored_source(
    stored: StoredRows,
    anchors: ArrayLike | None,
    strategy: Strategy,
    relation: LabelRelation | None,
    *,
    given: dict[str, bool],
) -> Source:
    """The anchors of rows that live in an index, which searches them itself.

    Args:
        stored: the index.
        anchors: ids; None: all with a label.
        strategy: the miner's.
        relation: of anchors and rows.
        given: arguments of the miner and of the call that such rows don't serve, and whether they were given.

    Raises:
        ValueError: what such rows don't serve; labels that allow no triplet, unknown or unlabelled anchors.
    """
    given = {
        **given,
        "max_staleness": strategy.max_staleness is not None,
        "distance-weighted negatives": strategy.negative == "distance_weighted",
        "a relation that isn't equality of labels": relation is not None and not relation.by_label,
    }
    unserved = [name for name, is_given in given.items() if is_given]
    if unserved:
        raise ValueError(
            f"rows that live in a {type(stored).__name__} are mined without {', '.join(unserved)}: leave that out, or "
            "load them as an EmbeddingBank"
        )
    rows = stored.table
    if rows.labels is None:
        raise ValueError(f"miners need labels: fit the {type(stored).__name__} with labels, or open it with label=...")
    check_groups(rows, relation, type(stored).__name__)
    asked = anchor_rows(rows, anchors)
    refuse_hopeless(rows.labels, asked, rows, chosen=False)
    about = replace(
        rows,
        embeddings=rows.embeddings[:1].expand(len(asked), -1),  # labels and groups are all that is looked at
        labels=rows.labels[asked],
        ids=rows.ids[asked],
        groups=None if rows.groups is None else rows.groups[asked],
    )
    other_group = relation is not None and relation.positive_group == "other"
    classes = Classes.of(about, asked, rows, other_group=other_group)
    most = rows_for(WORKSPACE, 16 * rows.embeddings.shape[1])

    def take(part: Part) -> Rows:
        return stored.read(asked[part])

    pairs = most if strategy.positive == "all" else None
    return Source(about.ids, rows, index_blocks(take, StoredSearch(stored), classes, most, pairs))


class StoredSearch:
    """Rows that live in an index, for all blocks of anchors: see `Searching`."""

    def __init__(self, stored: StoredRows) -> None:
        self.rows = stored.table
        self.metric: Metric = stored.metric
        self.stats: SearchStats | None = None
        self._stored = stored
        self._near: tuple[int, Int64[Tensor, "n k"]] | None = None

    @property
    def longest(self) -> float:
        """The largest norm of a row."""
        return self._stored.longest

    def read(self, row: Int64[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        """The embeddings of some rows."""
        return self._stored.read(row.flatten()).embeddings.view(*row.shape, -1)

    def search(
        self,
        own: Rows,
        place: Int64[Tensor, " m"],
        k: int,
        want: Want,
        *,
        farthest: bool = False,
        window: Window | None = None,
    ) -> Int64[Tensor, "m k"]:
        """Search for some queries, each of which is the row `place`."""
        found = self._stored.answer(own, min(k, len(self.rows)), want, farthest, window)
        self.stats = merged(self.stats, found.stats)
        return self._numbers(found.ids)

    def neighbours(self, k: int, rows: Int64[Tensor, " m"]) -> Int64[Tensor, "m k"]:
        """The k nearest rows of some rows."""
        if self._near is None or self._near[0] != k:
            found = self._stored.self_join(min(k, len(self.rows)), want="any")
            self.stats = merged(self.stats, found.stats)
            self._near = k, self._numbers(found.ids)
        return self._near[1][rows]

    def similarities(
        self, anchors: Rows, anchor: Int64[Tensor, " m"], row: Int64[Tensor, "m k"]
    ) -> Float64[Tensor, "m k"]:
        """The similarity that decides, of anchors and rows; -inf where the row is -1."""
        return similarities_between(anchors, self.read, self.metric, anchor, row)

    def _numbers(self, ids: Int64[Tensor, "m k"]) -> Int64[Tensor, "m k"]:
        row, there = lookup(ids, self.rows.ids)
        return torch.where(there, row, NO_ID)
