"""The one way in which every miner chooses triplets from a pool.

Letters: q anchors, p pairs of anchor and positive, c candidates and k negatives of a pair, t triplets.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.miners.by_label import draw_distinct
from legolas_metric.miners.false_negatives import FalseNegativeGuard
from legolas_metric.miners.pool import Pool, Ranked, pair_similarities
from legolas_metric.miners.strategy import Draws, Strategy
from legolas_metric.rows import NO_ID


@dataclass(frozen=True, slots=True)
class Selection:
    """Chosen triplets, as names of anchors and numbers of rows in the pool; and the pairs that fell short.

    Attributes:
        anchor, positive, negative, s_ap, s_an: [t].
        pairs: pairs of anchor and positive.
        outside_window: those without a negative in the window, or at the ranks.
        fallback: those of them that were served by the hardest negative.
        exhausted: pairs all of whose candidates the guard rejected.
        short: pairs with some negatives, but fewer than `per_anchor`.
        contested: pairs whose first candidate it rejected.
        filtered: candidates that it rejected before a choice was made, by reason.
    """

    anchor: Int64[Tensor, " t"]
    positive: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]
    s_ap: Float32[Tensor, " t"]
    s_an: Float32[Tensor, " t"]
    pairs: int
    outside_window: int
    fallback: int
    exhausted: int = 0
    short: int = 0
    contested: int = 0
    filtered: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Choice:
    """Negatives of each pair, -1 past the last; and the numbers of the pairs that have none, but for the guard's."""

    row: Int64[Tensor, "p k"]
    s_an: Float32[Tensor, "p k"]
    empty: Int64[Tensor, " e"]
    exhausted: int = 0
    contested: int = 0
    filtered: dict[str, int] = field(default_factory=dict)


def select(pool: Pool, names: Int64[Tensor, " q"], strategy: Strategy, draws: Draws) -> Selection:
    """Triplets of a pool's anchors, each of which has a positive, a negative and a name."""
    anchor, positive, s_ap = _pairs(pool, strategy, draws)
    choices = [_negatives(pool, strategy, draws, anchor, positive, s_ap)]
    row, s_an = choices[0].row, choices[0].s_an
    lone = choices[0].empty
    unserved = lone.shape[0]
    if unserved and strategy.on_empty == "hardest":
        ranked = pool.negatives(anchor[lone], _depth(strategy), None)
        choices.append(_guarded(pool, strategy.guard, anchor[lone], ranked, strategy.per_anchor, None))
        row = row.index_copy(0, lone, choices[1].row)
        s_an = s_an.index_copy(0, lone, choices[1].s_an)
    if strategy.mix:
        drawn = pool.relations.draw_negatives(draws.negative)[anchor]
        mixed = (draws.mixed[anchor] < strategy.mix) & (row != NO_ID) & (drawn != NO_ID)
        row = torch.where(mixed, drawn, row)
        s_an = torch.where(mixed, pair_similarities(pool, anchor, drawn), s_an)
    pairs, exhausted, short = anchor.shape[0], sum(choice.exhausted for choice in choices), 0
    if row.shape[1] == 1 and not unserved and not exhausted:
        negative, s_n = row.reshape(-1), s_an.reshape(-1)
    else:
        there = row != NO_ID
        pair, place = there.nonzero(as_tuple=True)
        anchor, positive, negative = anchor[pair], positive[pair], row[pair, place]
        s_ap, s_n = s_ap[pair], s_an[pair, place]
        found = there.sum(1)
        short = int(((found > 0) & (found < strategy.per_anchor)).sum())
    return Selection(
        names.index_select(0, anchor),
        positive,
        negative,
        s_ap,
        s_n,
        pairs=pairs,
        outside_window=unserved,
        fallback=sum(len(choice.row) - choice.exhausted for choice in choices[1:]),
        exhausted=exhausted,
        short=short,
        contested=choices[0].contested,
        filtered=counted([choice.filtered for choice in choices]),
    )


def together(parts: list[Selection], device: torch.device) -> Selection:
    """What was chosen in several pools, one after the other."""
    if len(parts) == 1:
        return parts[0]
    none, no_similarity = torch.empty(0, dtype=torch.int64, device=device), torch.empty(0, device=device)
    return Selection(
        torch.cat([none, *(part.anchor for part in parts)]),
        torch.cat([none, *(part.positive for part in parts)]),
        torch.cat([none, *(part.negative for part in parts)]),
        torch.cat([no_similarity, *(part.s_ap for part in parts)]),
        torch.cat([no_similarity, *(part.s_an for part in parts)]),
        pairs=sum(part.pairs for part in parts),
        outside_window=sum(part.outside_window for part in parts),
        fallback=sum(part.fallback for part in parts),
        exhausted=sum(part.exhausted for part in parts),
        short=sum(part.short for part in parts),
        contested=sum(part.contested for part in parts),
        filtered=counted([part.filtered for part in parts]),
    )


def counted(parts: list[dict[str, int]]) -> dict[str, int]:
    """The sums of counts by name, those of zero left out."""
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return {name: count for name, count in total.items() if count}


def _pairs(
    pool: Pool, strategy: Strategy, draws: Draws
) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"], Float32[Tensor, " p"]]:
    """Anchors, their positives, and the similarities; every anchor once, in order, unless all positives are asked."""
    rule = strategy.positive
    anchor = torch.arange(len(pool.anchors), device=pool.rows.ids.device)
    if rule in ("nearest", "farthest"):
        row, s_ap = pool.positives(1, farthest=rule == "farthest")
        return anchor, row.reshape(-1), s_ap.reshape(-1)  # which takes a third of the time of [:, 0]
    if rule == "random":
        row = pool.relations.draw_positive(draws.positive)
    else:
        rows = pool.relations.list_positives()
        anchor, row = (rows != NO_ID).nonzero(as_tuple=True)[0], rows[rows != NO_ID]
    return anchor, row, pair_similarities(pool, anchor, row[:, None])[:, 0]


def _negatives(
    pool: Pool,
    strategy: Strategy,
    draws: Draws,
    anchor: Int64[Tensor, " p"],
    positive: Int64[Tensor, " p"],
    s_ap: Float32[Tensor, " p"],
) -> _Choice:
    """The negatives of each pair by the strategy's rule."""
    if strategy.negative == "random":
        row = pool.relations.draw_negatives(draws.negative)[anchor]
        return _Choice(row, pair_similarities(pool, anchor, row), _without_any(row))
    if strategy.negative == "distance_weighted":
        row, s_an = (part[anchor] for part in pool.weighted(draws.negative, strategy.cutoffs))
        return _Choice(row, s_an, _without_any(row))
    depth, each_once = _depth(strategy), strategy.positive != "all"
    if not strategy.semi_hard:
        row, s_an = pool.negatives(None, depth, None)
        ranked = (row, s_an) if each_once else (row[anchor], s_an[anchor])
    else:
        s_ref = s_ap
        if strategy.reference == "nearest":
            nearest, s_nearest = pool.positives(1, farthest=False)
            positive, s_ref = nearest[anchor, 0], s_nearest[anchor, 0]
        if pool.screened:
            s_ref = pair_similarities(pool, anchor, positive[:, None])[:, 0]
        ranked = pool.negatives(None if each_once else anchor, depth, strategy.window(s_ref, pool.metric))
    numbers = None if strategy.ranks is None else (strategy.ranks, draws.rank[anchor])
    return _guarded(pool, strategy.guard, anchor, ranked, strategy.per_anchor, numbers)


def _without_any(row: Int64[Tensor, "p k"]) -> Int64[Tensor, " e"]:
    """Numbers of the pairs that have no negative."""
    if row.numel() and int(row.min()) > NO_ID:
        return row.new_empty(0)
    return (row[:, 0] == NO_ID).nonzero()[:, 0]


def _depth(strategy: Strategy) -> int:
    """How many candidates a search must give."""
    return max(strategy.last_rank, 0 if strategy.guard is None else strategy.guard.depth)


def _guarded(
    pool: Pool,
    guard: FalseNegativeGuard | None,
    anchor: Int64[Tensor, " p"],
    ranked: Ranked,
    k: int,
    ranks: tuple[tuple[int, int], Tensor] | None,
) -> _Choice:
    """The first k candidates that pass the guard, or k at random of the ranks among those that pass."""
    row, s_an = ranked
    if guard is None and ranks is None:
        row, s_an = (row, s_an) if row.shape[1] == k else (row[:, :k], s_an[:, :k])
        return _Choice(row, s_an, _without_any(row))
    there = row != NO_ID
    rejected = {} if guard is None else guard.reject(pool, anchor, row, s_an)
    passed = there
    for mask in rejected.values():
        passed = passed & ~mask
    count = passed.sum(1)
    number = _numbers(count, k, ranks)
    place = torch.searchsorted(passed.long().cumsum(1), number + 1).clamp_max(row.shape[1] - 1)
    chosen = torch.where(number == NO_ID, NO_ID, row.gather(1, place))
    exhausted = there[:, 0] & (count == 0)
    last = torch.where(number == NO_ID, -1, place).amax(1)
    last = torch.where(chosen[:, 0] == NO_ID, row.shape[1], last)
    seen = torch.arange(row.shape[1], device=row.device) < last[:, None]
    first = 0 if guard is None else guard.skip  # of those that are looked at
    contested = there[:, first] & ~passed[:, first]
    return _Choice(
        chosen,
        s_an.gather(1, place).masked_fill(chosen == NO_ID, -torch.inf),
        ((chosen[:, 0] == NO_ID) & ~exhausted).nonzero()[:, 0],
        int(exhausted.sum()),
        int(contested.sum()),
        {reason: int((mask & seen).sum()) for reason, mask in rejected.items()},
    )


def _numbers(count: Int64[Tensor, " p"], k: int, ranks: tuple[tuple[int, int], Tensor] | None) -> Int64[Tensor, "p k"]:
    """Which of the `count` candidates of each pair to take, counted from 0; -1 past the last."""
    if ranks is None:
        number = torch.arange(k, device=count.device).expand(len(count), k)
        return torch.where(number < count[:, None], number, NO_ID)
    (first, last), uniform = ranks
    number = draw_distinct(uniform, (count.clamp_max(last) - (first - 1)).clamp_min(0))
    return torch.where(number == NO_ID, NO_ID, number + first - 1)
