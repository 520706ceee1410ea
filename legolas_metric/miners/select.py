"""The one way in which every miner chooses triplets from a pool.

Letters: q anchors, p pairs of anchor and positive, c candidates and k negatives of a pair, t triplets.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.geometry import chunks, inwards, semi_hard_window
from legolas_metric.miners.by_label import draw_distinct
from legolas_metric.miners.false_negatives import FalseNegativeGuard
from legolas_metric.miners.pool import Pool
from legolas_metric.miners.strategy import Drawn, Draws, Strategy
from legolas_metric.rows import NO_ID

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Selection:
    """Chosen triplets, as names of anchors and numbers of rows in the pool; and the pairs that fell short.

    Attributes:
        anchor, positive, negative: [t].
        s_ap, s_an: [t], as reported; empty where nobody asked for them.
        pairs: pairs of anchor and positive.
        outside_window: those without a negative in the window, or at the ranks.
        fallback: those of them that were served by the hardest negative.
        exhausted: pairs all of whose candidates the guard rejected.
        short: pairs with some negatives, but fewer than `per_anchor`.
        contested: pairs whose first candidate it rejected.
        doubted: some of these, as names of anchors and numbers of candidates.
        filtered: candidates that it rejected before a choice was made, by reason.
    """

    anchor: Int64[Tensor, " t"]
    positive: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]
    s_ap: Float32[Tensor, " u"]
    s_an: Float32[Tensor, " u"]
    pairs: int
    outside_window: int
    fallback: int
    exhausted: int = 0
    short: int = 0
    contested: int = 0
    doubted: tuple[Pair, ...] = ()
    filtered: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Choice:
    """Negatives of each pair, -1 past the last; and the numbers of the pairs that have none, but for the guard's."""

    row: Int64[Tensor, "p k"]
    empty: Int64[Tensor, " e"]
    exhausted: int = 0
    contested: int = 0
    doubted: tuple[Pair, ...] = ()
    filtered: dict[str, int] = field(default_factory=dict)


def select(
    pool: Pool,
    names: Int64[Tensor, " q"],
    strategy: Strategy,
    draws: Draws | None,
    number: Int64[Tensor, " q"] | None,
    asked: int,
    *,
    reported: bool,
) -> Selection:
    """Triplets of a pool's anchors, each of which has a positive, a negative and a name.

    Args:
        pool: of the anchors.
        names: of the anchors.
        strategy: the rules.
        draws: random numbers; None where no rule uses any.
        number: which of the `asked` anchors, each of which draws, these are; None: all.
        asked: how many anchors that is.
        reported: whether similarities are wanted.
    """
    every = torch.arange(len(names), device=names.device)
    drawn = None if draws is None or strategy.positive == "all" else draws.take(asked)
    if drawn is not None and number is not None:
        drawn = drawn[number]
    anchor, positive = _pairs(pool, strategy, every, drawn)
    if draws is not None and strategy.positive == "all":
        drawn = draws.take(len(anchor))  # for each pair
    choices = [_negatives(pool, strategy, drawn, anchor, positive)]
    row = choices[0].row
    lone = choices[0].empty
    unserved = lone.shape[0]
    if unserved and strategy.on_empty == "hardest":
        ranked = pool.negatives(anchor[lone], _depth(pool, strategy), None)
        choices.append(_guarded(pool, strategy, anchor[lone], ranked, None))
        row = row.index_copy(0, lone, choices[1].row)
    if strategy.mix:
        assert drawn is not None
        other = _at_random(pool, anchor, drawn)
        mixed = (drawn.mixed < strategy.mix) & (row != NO_ID) & (other != NO_ID)
        row = torch.where(mixed, other, row)
    pairs, exhausted, short = anchor.shape[0], sum(choice.exhausted for choice in choices), 0
    if row.shape[1] == 1 and not unserved and not exhausted:
        negative = row.reshape(-1)
    else:
        there = row != NO_ID
        pair, place = there.nonzero(as_tuple=True)
        anchor, positive, negative = anchor[pair], positive[pair], row[pair, place]
        found = there.sum(1)
        short = int(((found > 0) & (found < strategy.per_anchor)).sum())
    s_ap = s_an = torch.empty(0, device=names.device)
    if reported:
        s_ap, s_an = (pool.similarities(anchor, of[:, None])[:, 0].float() for of in (positive, negative))
    doubted = tuple((int(names[a]), n) for a, n in choices[0].doubted)
    return Selection(
        names.index_select(0, anchor),
        positive,
        negative,
        s_ap,
        s_an,
        pairs=pairs,
        outside_window=unserved,
        fallback=sum(len(choice.row) - choice.exhausted for choice in choices[1:]),
        exhausted=exhausted,
        short=short,
        contested=choices[0].contested,
        doubted=doubted,
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
        doubted=sum((part.doubted for part in parts), ()),
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
    pool: Pool, strategy: Strategy, every: Int64[Tensor, " q"], drawn: Drawn | None
) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"]]:
    """Anchors and their positives; every anchor once, in order, unless all positives are asked."""
    rule = strategy.positive
    if rule in ("nearest", "farthest"):
        return every, pool.positives(farthest=rule == "farthest")
    if rule == "random":
        assert drawn is not None
        return every, pool.relations.draw_positive(drawn.positive)
    rows = pool.relations.list_positives()
    return (rows != NO_ID).nonzero(as_tuple=True)[0], rows[rows != NO_ID]


def _negatives(
    pool: Pool,
    strategy: Strategy,
    drawn: Drawn | None,
    anchor: Int64[Tensor, " p"],
    positive: Int64[Tensor, " p"],
) -> _Choice:
    """The negatives of each pair by the strategy's rule."""
    if strategy.negative == "random":
        assert drawn is not None
        row = _at_random(pool, anchor, drawn)
        return _Choice(row, _without_any(row))
    if strategy.negative == "distance_weighted":
        assert drawn is not None
        row = pool.weighted(anchor, drawn.negative, strategy.cutoffs)
        return _Choice(row, _without_any(row))
    depth = _depth(pool, strategy)
    if not strategy.semi_hard:
        every = torch.arange(len(pool.anchors), device=anchor.device)
        ranked = pool.negatives(every, depth, None)
        ranked = ranked if strategy.positive != "all" else ranked[anchor]
    else:
        reference = positive if strategy.reference == "chosen" else pool.positives(farthest=False)[anchor]
        s_ap = pool.similarities(anchor, reference[:, None])[:, 0]
        window = semi_hard_window(s_ap, strategy.margin, pool.metric)
        lengths = pool.anchors.longest * pool.longest if pool.metric == "dot" else 0.0
        inside = inwards(window, pool.metric, d=pool.anchors.embeddings.shape[1], lengths=lengths)
        ranked = pool.negatives(anchor, depth, inside)
    return _guarded(pool, strategy, anchor, ranked, None if strategy.ranks is None else drawn)


def _at_random(pool: Pool, anchor: Int64[Tensor, " p"], drawn: Drawn) -> Int64[Tensor, "p k"]:
    """Different negatives of each pair's anchor, by draws."""
    out = [anchor.new_empty(0, drawn.negative.shape[1])]
    for part in chunks(len(anchor), rows_for(BLOCK, 16 * len(pool.rows))):
        out.append(pool.relations[anchor[part]].draw_negatives(drawn.negative[part]))
    return torch.cat(out)


def _without_any(row: Int64[Tensor, "p k"]) -> Int64[Tensor, " e"]:
    """Numbers of the pairs that have no negative."""
    if row.numel() and int(row.min()) > NO_ID:
        return row.new_empty(0)
    return (row[:, 0] == NO_ID).nonzero()[:, 0]


def _depth(pool: Pool, strategy: Strategy) -> int:
    """How many candidates a search must give: not more than there are rows."""
    return min(strategy.depth, len(pool.rows))


def _guarded(
    pool: Pool,
    strategy: Strategy,
    anchor: Int64[Tensor, " p"],
    row: Int64[Tensor, "p c"],
    drawn: Drawn | None,
) -> _Choice:
    """The first candidates that pass the guard, or, by draws, some at random of the ranks among those that pass."""
    guard, k = strategy.guard, min(strategy.per_anchor, len(pool.rows))
    if guard is None and drawn is None:
        row = row if row.shape[1] == k else row[:, :k]
        return _Choice(row, _without_any(row))
    there = row != NO_ID
    rejected = {} if guard is None else guard.reject(pool, anchor, row)
    passed = there
    for mask in rejected.values():
        passed = passed & ~mask
    count = passed.sum(1)
    number = _numbers(count, k, strategy.ranks, None if drawn is None else drawn.rank)
    place = torch.searchsorted(passed.long().cumsum(1), number + 1).clamp_max(row.shape[1] - 1)
    chosen = torch.where(number == NO_ID, NO_ID, row.gather(1, place))
    exhausted = there[:, 0] & (count == 0)
    last = torch.where(number == NO_ID, -1, place).amax(1)
    last = torch.where(chosen[:, 0] == NO_ID, row.shape[1], last)
    seen = torch.arange(row.shape[1], device=row.device) < last[:, None]
    contested, doubted = _contested(guard, anchor, row, there & ~passed)
    return _Choice(
        chosen,
        ((chosen[:, 0] == NO_ID) & ~exhausted).nonzero()[:, 0],
        int(exhausted.sum()),
        contested,
        doubted,
        {reason: int((mask & seen).sum()) for reason, mask in rejected.items()},
    )


def _contested(
    guard: FalseNegativeGuard | None,
    anchor: Int64[Tensor, " p"],
    row: Int64[Tensor, "p c"],
    doubted: Bool[Tensor, "p c"],
) -> tuple[int, tuple[Pair, ...]]:
    """How many pairs lost the first candidate that is looked at, and the first few anchors and candidates of these."""
    first = 0 if guard is None else guard.skip
    if first >= row.shape[1]:
        return 0, ()
    lost = doubted[:, first].nonzero()[:, 0]
    some = lost[:8]
    return len(lost), tuple(zip(anchor[some].tolist(), row[some, first].tolist()))


def _numbers(
    count: Int64[Tensor, " p"], k: int, ranks: tuple[int, int] | None, uniform: Float64[Tensor, "p k"] | None
) -> Int64[Tensor, "p k"]:
    """Which of the `count` candidates of each pair to take, counted from 0; -1 past the last."""
    if ranks is None or uniform is None:
        number = torch.arange(k, device=count.device).expand(len(count), k)
        return torch.where(number < count[:, None], number, NO_ID)
    first, last = ranks
    number = draw_distinct(uniform, (count.clamp_max(last) - (first - 1)).clamp_min(0))
    return torch.where(number == NO_ID, NO_ID, number + first - 1)
