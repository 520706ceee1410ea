"""One process's rows as a part of all: the same names and dimensions everywhere, and no id twice."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import Metric
from legolas_metric.distributed import World
from legolas_metric.geometry import chunks
from legolas_metric.index.joint_directions import merged_over_all
from legolas_metric.lookup import lookup
from legolas_metric.names import Names
from legolas_metric.rows import NO_ID, Rows


def joined(rows: Rows, world: World, metric: Metric, *, has_ids: bool) -> Rows:
    """This process's rows as a part of all: names of labels and groups numbered together, ids that no other has.

    Under "cosine" rows of one direction are merged over all processes, as one process with all rows, in order of rank,
    does. Where that changes a row, the table is a copy.

    Args:
        rows: checked and prepared; a process without any need not tell what the others give.
        world: the processes, all of which call this.
        metric: that the rows are prepared for, and are to be compared by.
        has_ids: whether ids were given; else they are counted on from process to process.

    Raises:
        ValueError: see `ShardedIndex.fit`.
    """
    parts = world.tell(_Shard.of(rows, metric, has_ids), "joining the rows of all processes")
    given = _given_by_all(parts, world)
    if "ids" not in given:
        rows = replace(rows, ids=rows.ids + sum(part.rows for part in parts[: world.rank]))
    rows = _numbered_alike(rows, parts)
    if "ids" in given:
        _check_unique(rows.ids, parts, world)
    if metric == "cosine" and world.size > 1:
        rows = replace(rows, embeddings=merged_over_all(rows.embeddings, [part.rows for part in parts], world))
    return replace(
        rows,
        labels=rows.labels if "labels" in given else None,
        groups=rows.groups if "groups" in given else None,
    )


@dataclass(frozen=True, slots=True)
class _Shard:
    """What the others must know of a process's rows."""

    rows: int
    dimension: int
    metric: Metric
    given: tuple[str, ...]
    label_kind: str
    group_kind: str
    label_names: Names | None
    group_names: Names | None

    @classmethod
    def of(cls, rows: Rows, metric: Metric, has_ids: bool) -> "_Shard":
        there = {"labels": rows.labels is not None, "groups": rows.groups is not None, "ids": has_ids}
        given = tuple(name for name, is_given in there.items() if is_given)
        kinds = _kind(rows.labels, rows.label_names), _kind(rows.groups, rows.group_names)
        return cls(len(rows), rows.embeddings.shape[1], metric, given, *kinds, rows.label_names, rows.group_names)


def _kind(codes: Int64[Tensor, " n"] | None, names: Names | None) -> str:
    """How labels or groups came; where all are missing they go with both."""
    if codes is None or not bool((codes != NO_ID).any()):
        return "none"
    return "integers" if names is None else "names"


def _given_by_all(parts: list[_Shard], world: World) -> tuple[str, ...]:
    """What names the rows. Refuse shards of which no index can be made; all see the same and say the same."""
    if not any(part.rows for part in parts):
        raise ValueError("a sharded index needs a row on one process at least, got none on any")
    for what, values in (
        ("embeddings' dimensions", [str(part.dimension) for part in parts]),
        ("metric", [part.metric for part in parts]),
        ("arguments", [" and ".join(part.given) or "embeddings alone" if part.rows else "no rows" for part in parts]),
    ):
        if len({*values} - {"no rows"}) > 1:
            raise ValueError(f"every process must give the same {what}, got {world.by_process(values)}")
    for name in ("label", "group"):
        kinds = [getattr(part, f"{name}_kind") for part in parts]
        if {"names", "integers"} <= set(kinds):
            raise ValueError(f"every process must give {name}s of one kind, got {world.by_process(kinds)}")
    return next(part.given for part in parts if part.rows)


def _numbered_alike(rows: Rows, parts: list[_Shard]) -> Rows:
    """Names numbered in ascending order over all processes."""
    label_names, group_names = (
        _union([getattr(part, name) for part in parts]) for name in ("label_names", "group_names")
    )
    return replace(
        rows,
        labels=_renumbered(rows.labels, rows.label_names, label_names),
        groups=_renumbered(rows.groups, rows.group_names, group_names),
        label_names=label_names,
        group_names=group_names,
    )


def _union(names: list[Names | None]) -> Names | None:
    known = [some for some in names if some is not None]
    return tuple(sorted(set().union(*known))) if known else None


def _renumbered(codes: Tensor | None, names: Names | None, among: Names | None) -> Tensor | None:
    if codes is None or names is None or among is None:
        return codes
    number = {name: code for code, name in enumerate(among)}
    new = torch.tensor([*(number[name] for name in names), NO_ID], device=codes.device)  # -1 stays: the last
    return new[codes]


def _check_unique(ids: Int64[Tensor, " n"], parts: list[_Shard], world: World) -> None:
    """Refuse an id of two processes; each process's ids pass by the others in blocks."""
    size = rows_for(BLOCK, 32 * world.size)
    repeated = ids.new_zeros(0)
    for part in chunks(max(shard.rows for shard in parts), size):
        passing = world.gather(ids[part])
        counts = [len(range(*part.indices(shard.rows))) for shard in parts]
        theirs = torch.ones_like(passing, dtype=torch.bool)
        theirs[sum(counts[: world.rank]) :][: counts[world.rank]] = False
        found = lookup(passing, ids)[1] & theirs
        repeated = torch.cat([repeated, passing[found]])
    shared = sorted({name for some in world.gather_objects(repeated.tolist()[:5]) for name in some})
    if shared:
        raise ValueError(f"ids must be unique over all processes, got some on several (first: {shared[:5]})")
