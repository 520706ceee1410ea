"""What processes that hold a part of the rows each must mine: what one process mines of all of them."""

import warnings

import pytest
import torch

from legolas_metric import (
    DistanceWeightedMiner,
    EasyPositiveMiner,
    EmbeddingBank,
    FaissIndex,
    FalseNegativeGuard,
    FullHardMiner,
    HardMiner,
    LabelRelation,
    MultiSimilarityMiner,
    RandomMiner,
    SemiHardMiner,
    ShardedIndex,
)
from legolas_metric.checks import Metric
from legolas_metric.distributed import ProcessFailed, World

GUARD = FalseNegativeGuard(relative=0.9, reference="quantile", skip=1, vote=0.4, neighbours=5, depth=9)
MINERS = {
    "full-hard": lambda **more: FullHardMiner(per_anchor=2, **more),
    "drawn ranks": lambda **more: HardMiner(ranks=(2, 6), per_anchor=2, mix=0.4, seed=3, **more),
    "all positives": lambda **more: HardMiner(positive="all", ranks=(1, 3), seed=1, **more),
    "semi-hard": lambda **more: SemiHardMiner(0.3, on_empty="hardest", seed=2, **more),
    "all semi-hard": lambda **more: SemiHardMiner(0.3, positive="all", per_anchor=3, **more),
    "easy": lambda **more: EasyPositiveMiner(**more),
    "guarded": lambda **more: SemiHardMiner(2.0, positive="nearest", guard=GUARD, **more),
    "voted": lambda **more: HardMiner(positive="farthest", guard=FalseNegativeGuard(vote=0.3, depth=9), **more),
    "other group": lambda **more: FullHardMiner(relation=LabelRelation(positive_group="other"), **more),
    "random": lambda **more: RandomMiner(per_anchor=3, seed=5, **more),
    "pairs": lambda **more: MultiSimilarityMiner(0.05, max_negatives=3, **more),
}
COUNTS = ("anchors", "no_positive", "no_negative", "outside_window", "fallback", "exhausted", "short", "contested")


def bank_of(x, labels, groups, ids, metric, own=slice(None)):
    if len(x[own]):
        return EmbeddingBank(x[own], labels[own], groups=groups[own], ids=ids[own], metric=metric)
    none = torch.zeros(0, dtype=torch.int64)
    return EmbeddingBank.of_own(x[own], none, groups=none, ids=none, metric=metric)


def mines_as_one(own: slice, metric: Metric, x, labels, groups, ids) -> None:
    """All miners with rows that stay on their processes, and some with rows that are gathered."""
    world = World.current(averages_gradients=False)
    warnings.filterwarnings("ignore", message="the guard rejected")
    whole, part = bank_of(x, labels, groups, ids, metric), bank_of(x, labels, groups, ids, metric, own)
    chosen = {"anchors": ids[labels >= 0][::2], "candidates": ids[torch.arange(len(ids)) % 3 > 0]}
    some = {key: value[torch.isin(value, part.ids)] for key, value in chosen.items()}
    for name in MINERS if metric == "cosine" else ("semi-hard", "guarded", "pairs"):
        one, sharded = MINERS[name](), MINERS[name](index=ShardedIndex(metric=metric))
        check_mined(sharded.mine(part), one.mine(whole), part.ids, world, name)
        if name in ("all positives", "guarded", "drawn ranks"):
            expected, gathered = one.mine(whole, **chosen), MINERS[name]()
            check_mined(sharded.mine(part, **some), expected, part.ids, world, name)
            gathered.calls = 1
            check_mined(gathered.mine(part, **some, world=world, memory_mb=1e6), expected, part.ids, world, name)
    if metric == "cosine":
        miner, one = DistanceWeightedMiner(seed=4), DistanceWeightedMiner(seed=4)
        check_mined(miner.mine(part, world=world), one.mine(whole), part.ids, world, "distances")


def check_mined(found, expected, own_ids, world, name) -> None:
    columns = [column for column in ("anchor", "anchor_p", "anchor_n") if hasattr(expected, column)]
    for anchor in columns:
        mine = torch.isin(getattr(expected, anchor), own_ids)
        assert torch.equal(getattr(found, anchor), getattr(expected, anchor)[mine]), name
    for values in ("positive", "negative", "s_ap", "s_an"):
        anchor = "anchor" if columns == ["anchor"] else "anchor_p" if values in ("positive", "s_ap") else "anchor_n"
        mine = torch.isin(getattr(expected, anchor), own_ids)
        assert torch.equal(getattr(found, values), getattr(expected, values)[mine]), (name, values)
    told = world.gather_objects([getattr(found.stats, count) for count in COUNTS])
    assert [sum(counts) for counts in zip(*told)] == [getattr(expected.stats, count) for count in COUNTS], name
    filtered = world.gather_objects(dict(found.stats.filtered))
    for reason, count in expected.stats.filtered.items():
        assert sum(one.get(reason, 0) for one in filtered) == count, (name, reason)


def refuses_alike(rank: int, size: int, own: slice, x, labels, groups, ids) -> None:
    """What one process refuses, all do, with figures where memory is short; and it can be mined afterwards."""
    world, part = World.current(averages_gradients=False), bank_of(x, labels, groups, ids, "cosine", own)
    every = {"world": world, "memory_mb": 1e6}
    with pytest.raises(ValueError if rank == 0 else ProcessFailed, match="not in the bank"):
        HardMiner().mine(part, anchors=[] if rank else [10**6], **every)
    other = bank_of(x, labels, groups, ids, "dot" if rank else "cosine", own)
    with pytest.raises(ValueError, match="same metric, got"):
        HardMiner().mine(other, **every)
    short = HardMiner(on_empty="raise", ranks=(59, 61))
    with pytest.raises((ValueError, ProcessFailed), match="without a negative inside the window"):
        short.mine(part, **every)
    sharded = HardMiner(on_empty="raise", ranks=(59, 61), index=ShardedIndex())
    with pytest.raises((ValueError, ProcessFailed), match="without a negative inside the window"):
        sharded.mine(part)
    with pytest.raises(ValueError, match=r"DistanceWeightedMiner looks at all rows at once.*index='auto'"):
        DistanceWeightedMiner(index=ShardedIndex()).mine(part)
    needs = (
        1100 * len(x) / 2**20
    )  # each holding its own is no smaller at so few rows, but for the smallest memory of all
    figures = r"61 rows of 3 dimensions.*GiB.*poorest of \d processes"
    for miner, why in (
        (HardMiner(), "of which each holds its own"),
        (DistanceWeightedMiner(), "looks at all of them at once"),
        (HardMiner(index=FaissIndex()), "FaissIndex searches those of one process"),
    ):
        with pytest.raises(ValueError, match=figures) as told:
            miner.mine(part, world=world, memory_mb=1e6 if rank else needs / 2)
        assert why in str(told.value)
    assert len(HardMiner().mine(part, **every)) == int(torch.isin(ids[labels >= 0], part.ids).sum())
