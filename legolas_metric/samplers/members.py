"""The rows of each class, and which of them a visit draws."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

from legolas_metric.checks import ArrayLike
from legolas_metric.datasets.labels import LabelIndex, count_of
from legolas_metric.rows import as_groups
from legolas_metric.samplers.draws import GROUPS, ROWS, fingerprint, shuffled_members

Short = Literal["skip", "repeat"]
"""What becomes of a class of fewer than k examples: left out, or visited with its examples repeated."""


@dataclass(frozen=True, slots=True)
class Members:
    """The rows of the classes that take part, sorted by class and, within one, by group.

    Attributes:
        classes: [c] labels, ascending.
        offsets: [c + 1], where each class's rows begin in `rows`.
        rows: row numbers of the data set.
        blocks: [c + 1], where each class's groups begin in `block_offsets`; None where groups play no part.
        block_offsets: where each group's rows begin in `rows`.
        left_out: labels of the classes that are too small to take part.
    """

    classes: Int64[np.ndarray, " c"]
    offsets: Int64[np.ndarray, " c1"]
    rows: Int64[np.ndarray, " m"]
    blocks: Int64[np.ndarray, " c1"] | None
    block_offsets: Int64[np.ndarray, " g1"] | None
    left_out: Int64[np.ndarray, " s"]

    @property
    def sizes(self) -> Int64[np.ndarray, " c"]:
        """Rows of each class."""
        return np.diff(self.offsets)

    @property
    def fingerprint(self) -> int:
        """Changes with the rows, their classes and, where they play a part, their groups."""
        parts = (self.rows, self.offsets, *(() if self.block_offsets is None else (self.block_offsets,)))
        return fingerprint(*parts)

    def few_groups(self, k: int) -> Int64[np.ndarray, " f"]:
        """Labels of the classes that have fewer than k groups; none where groups play no part."""
        return self.classes[:0] if self.blocks is None else self.classes[np.diff(self.blocks) < k]

    @classmethod
    def of(cls, labels: ArrayLike, groups: ArrayLike | None = None, *, least: int = 1) -> "Members":
        """The classes of at least `least` rows; rows labelled -1 belong to none."""
        index = LabelIndex.of(labels)
        own_groups = as_groups(groups, count_of(labels), of="labels")
        counts, rows = index.counts.cpu().numpy(), index.rows.cpu().numpy()
        enough = counts >= least
        taken = np.repeat(enough, counts)
        offsets = np.concatenate([[0], np.cumsum(counts[enough])])
        rows, number = rows[taken], np.repeat(np.arange(enough.sum()), counts[enough])
        blocks = block_offsets = None
        if own_groups is not None:
            group = own_groups.cpu().numpy()[rows]
            order = np.lexsort((group, number))
            rows, group = rows[order], group[order]
            new = np.ones(len(rows), bool)
            new[1:] = (group[1:] != group[:-1]) | (number[1:] != number[:-1])
            block_offsets = np.append(np.flatnonzero(new), len(rows))
            blocks = np.searchsorted(block_offsets, offsets)
        classes = index.classes.cpu().numpy()
        return cls(classes[enough], offsets, rows, blocks, block_offsets, classes[~enough])


def check_enough_classes(members: Members, p: int, k: int, world_size: int) -> None:
    """Raise unless one step of all ranks can be filled with different classes."""
    found, needed = len(members.classes), p * world_size
    if found < needed:
        what = f"p={p}" if world_size == 1 else f"p={p} on each of {world_size} ranks"
        left = len(members.left_out)
        remedy = f"; {left} classes have fewer: lower p or k, or pass short='repeat'" if left else ": lower p"
        raise ValueError(f"{what} needs {needed} classes of at least k={k} examples, got {found}{remedy}")


def draw_rows(
    members: Members, classes: Int64[np.ndarray, " v"], numbers: Int64[np.ndarray, " v"], k: int, *, seed: int
) -> Int64[np.ndarray, "v k"]:
    """Row numbers that each visit draws.

    A class's rows are shuffled and handed out k by k; the last visit of a shuffle takes some of its first rows again.

    Args:
        members: the classes.
        classes: [v], the class visited, as its place in `members.classes`.
        numbers: [v], which visit of that class this is, counted from the start of the run.
        k: rows of a visit.
        seed: of the shuffles.
    """
    if members.blocks is not None:
        return _draw_across_groups(members, classes, numbers, k, seed)
    sizes = members.sizes[classes]
    visits = -(-sizes // k)
    position = ((numbers % visits * k)[:, None] + np.arange(k)) % sizes[:, None]
    visit = np.repeat(np.arange(len(classes)), k)
    return members.rows[
        shuffled_members(members.offsets, classes, numbers // visits, visit, position.ravel(), seed=seed, kind=ROWS)
    ].reshape(-1, k)


def _draw_across_groups(
    members: Members, classes: Int64[np.ndarray, " v"], numbers: Int64[np.ndarray, " v"], k: int, seed: int
) -> Int64[np.ndarray, "v k"]:
    assert members.blocks is not None
    assert members.block_offsets is not None
    # 1. The groups of each visit: all of a class's groups in turn, k by k.
    groups = np.diff(members.blocks)[classes]
    visits = -(-groups // k)
    turn = numbers // visits
    visit, slot = _ragged(np.minimum(groups, k))
    position = (numbers % visits * k)[visit] + slot
    block = shuffled_members(members.blocks, classes, turn, visit, position % groups[visit], seed=seed, kind=GROUPS)
    # 2. Of each group one row; of a class with fewer than k groups up to k, so that together they are enough. The
    # group's rows take turns as well: it is sure to give `share` of them each time.
    sizes = np.diff(members.block_offsets)[block]
    share = np.maximum(k // groups, 1)[visit]
    turns = -(-sizes // share)
    chosen, depth = _ragged(np.where(groups[visit] >= k, 1, np.minimum(sizes, k)))
    place = (turn[visit] % turns * share)[chosen] + depth
    rows = shuffled_members(
        members.block_offsets, block, turn[visit] // turns, chosen, place % sizes[chosen], seed=seed, kind=ROWS
    )
    # 3. The first k of each visit: every group's first row, then every group's second, and so on.
    ordered = rows[np.lexsort((slot[chosen], depth, visit[chosen]))]
    counts = np.bincount(visit[chosen], minlength=len(classes))
    starts = np.cumsum(counts) - counts
    return members.rows[ordered[starts[:, None] + np.arange(k) % counts[:, None]]]


def _ragged(lengths: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """For entries of these lengths laid end to end: the entry of each element, and its place in it."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.arange(len(owner)) - (np.cumsum(lengths) - lengths)[owner]
