"""From a table and a protocol to trials: queries that ask one gallery."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, Metric
from legolas_metric.datasets.labels import LabelIndex
from legolas_metric.evaluation.protocol import Episodes, RetrievalProtocol
from legolas_metric.evaluation.single_shot import single_shots
from legolas_metric.geometry import prepare
from legolas_metric.lookup import lookup
from legolas_metric.relations import LabelRelation
from legolas_metric.rows import Rows


@dataclass(frozen=True, slots=True)
class Trial:
    """Queries and the gallery that they ask, both in order of class size: a class is one stretch of the gallery.

    Attributes:
        queries, gallery: the rows; queries are labelled.
        asker: row number in the table, of each query.
        found: row number in the table, of each gallery row; -1 for prototypes.
        first: where the query's class begins in the gallery.
        count: rows of the query's class in the gallery, itself included where it is there.
        relation: what is a positive, where that is not the query's class.
    """

    queries: Rows
    gallery: Rows
    asker: Int64[Tensor, " q"]
    found: Int64[Tensor, " g"]
    first: Int64[Tensor, " q"]
    count: Int64[Tensor, " q"]
    relation: LabelRelation | None = None

    def __len__(self) -> int:
        return len(self.asker)


def trials(
    rows: Rows, protocol: RetrievalProtocol, metric: Metric, relation: LabelRelation | None = None
) -> Iterator[Trial]:
    """One trial, which does not hold on to the table; or one for each few-shot episode, or several for each repeat of
    single-gallery-shot."""
    assert rows.labels is not None
    if protocol.episodes is not None:
        return _episode_trials(rows, protocol.episodes, protocol.seed, metric)
    asker, found = side(rows, protocol.queries, "queries"), side(rows, protocol.gallery, "gallery")
    asker = asker[rows.labels[asker] != UNLABELLED]
    if not protocol.distractors:
        found = found[rows.labels[found] != UNLABELLED]
    if protocol.repeats is not None:
        drawn = single_shots(rows, asker, found, protocol)
        return (_trial(rows, rows[gallery], some, gallery) for some, gallery in drawn)
    return iter([replace(_trial(rows, rows[found], asker, found), relation=relation)])


def _episode_trials(rows: Rows, plan: Episodes, seed: int, metric: Metric) -> Iterator[Trial]:
    for asker, shots in _episodes(rows, plan, seed):
        if plan.prototypes:
            gallery = _prototypes(rows, shots, plan.shots, metric)
            yield _trial(rows, gallery, asker, torch.full_like(gallery.ids, -1))
        else:
            yield _trial(rows, rows[shots], asker, shots)


def side(rows: Rows, ids: object, name: str) -> Int64[Tensor, " m"]:
    """Row numbers of a protocol's list of ids; all rows where there is none."""
    if ids is None:
        return torch.arange(len(rows), device=rows.ids.device)
    wanted = torch.tensor(ids, dtype=torch.int64, device=rows.ids.device)
    place, found = lookup(wanted, rows.ids)
    unknown = wanted[~found]
    if len(unknown):
        raise ValueError(f"the protocol's {name} names {len(unknown)} ids that the table lacks: {unknown[:5].tolist()}")
    return place


def _trial(rows: Rows, gallery: Rows, asker: Int64[Tensor, " q"], found: Int64[Tensor, " g"]) -> Trial:
    assert rows.labels is not None
    assert gallery.labels is not None
    classes, place, counts = gallery.labels.unique(return_inverse=True, return_counts=True)
    by_size = counts.argsort(stable=True)
    rank = torch.empty_like(by_size)
    rank[by_size] = torch.arange(len(by_size), device=by_size.device)
    order = rank[place].argsort(stable=True)
    starts = torch.empty_like(counts)
    starts[by_size] = counts[by_size].cumsum(0) - counts[by_size]
    c, known = lookup(rows.labels[asker], classes)
    position = torch.where(known, rank[c], -1)
    turn = position.argsort(stable=True)
    asker, c, known = asker[turn], c[turn], known[turn]
    searched = gallery[order]
    return Trial(
        # Under leave-one-out both sides are the same rows: one copy will do.
        searched if asker.equal(found[order]) else rows[asker],
        searched,
        asker,
        found[order],
        torch.where(known, starts[c], 0),
        torch.where(known, counts[c], 0),
    )


def _episodes(rows: Rows, plan: Episodes, seed: int) -> Iterator[tuple[Int64[Tensor, " q"], Int64[Tensor, " g"]]]:
    """(queries, shots) of each episode; shots of one class stand together."""
    assert rows.labels is not None
    members = LabelIndex.of(rows.labels.cpu())
    need = plan.shots + plan.queries
    pools = [c[members.counts[c] >= need] for c in _pools(rows, members, plan)]
    pools = [pool for pool in pools if len(pool) >= plan.ways]
    if not pools:
        where = "any group" if plan.within_group else "the table"
        raise ValueError(
            f"no {plan.ways} classes with {need} rows each in {where}: ask for fewer ways, shots or queries"
        )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(plan.count):
        pool = pools[int(torch.randint(len(pools), (1,), generator=generator))]
        chosen = pool[torch.randperm(len(pool), generator=generator)[: plan.ways]]
        drawn = torch.stack(
            [
                members.rows_of(int(c))[torch.randperm(int(members.counts[c]), generator=generator)[:need]]
                for c in chosen
            ]
        ).to(rows.ids.device)
        yield drawn[:, plan.shots :].flatten(), drawn[:, : plan.shots].flatten()


def _pools(rows: Rows, members: LabelIndex, plan: Episodes) -> list[Int64[Tensor, " c"]]:
    """Classes among which an episode draws: all, or those of each group."""
    if not plan.within_group:
        return [torch.arange(len(members))]
    if rows.groups is None:
        raise ValueError("episodes within a group need groups: pass groups")
    groups = rows.groups.cpu()
    own = groups[members.rows[members.offsets[:-1]]]
    c = torch.repeat_interleave(torch.arange(len(members)), members.counts)
    mixed = c[own[c] != groups[members.rows]].unique()
    if len(mixed):
        raise ValueError(f"episodes within a group need each class in one group; {len(mixed)} classes lie in several")
    return [(own == group).nonzero().flatten() for group in own.unique()]


def _prototypes(rows: Rows, shots: Int64[Tensor, " g"], k: int, metric: Metric) -> Rows:
    """The mean of each class's shots, as a gallery of its own; prototypes have ids that no row has."""
    assert rows.labels is not None
    means = rows.embeddings[shots].double().unflatten(0, (-1, k)).mean(1).float()
    nobody = -1 - torch.arange(len(means), device=shots.device)
    # Shots that cancel out have no direction: similarity 0 to everything.
    return Rows(prepare(means, metric).nan_to_num(0.0), rows.labels[shots[::k]], nobody, None)
