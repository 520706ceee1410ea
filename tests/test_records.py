import dataclasses

import numpy as np
import pytest
import torch

from legolas_metric import EmbeddingBank, HardMiner, MiningStats, Neighbors, Triplets
from legolas_metric.records import SearchStats


def triplets(a, p, n) -> Triplets:
    a, p, n = (torch.tensor(side, dtype=torch.int64) for side in (a, p, n))
    s = torch.zeros(len(a))
    return Triplets(a, p, n, s, s, MiningStats(anchors=len(a), search=SearchStats(engine="by hand"), seconds=0.0))


def test_locate_by_hand():
    mined = triplets([10, 30, 10], [20, 40, 50], [30, 10, 40])
    batch = torch.tensor([40, 10, 30, 20])  # 50 is not in it
    a, p, n = mined.locate(batch)
    assert (a.tolist(), p.tolist(), n.tolist()) == ([1, 2], [3, 0], [2, 1])
    assert torch.equal(batch[a], mined.anchor[:2])


def test_locate_equals_a_slow_search(generator):
    ids = torch.randperm(50, generator=generator)
    mined = triplets(*torch.randint(60, (3, 200), generator=generator).tolist())
    batch = ids[:30]
    where = {int(name): place for place, name in enumerate(batch)}
    expected = [
        (where[a], where[p], where[n])
        for a, p, n in zip(mined.anchor.tolist(), mined.positive.tolist(), mined.negative.tolist())
        if a in where and p in where and n in where
    ]
    assert len(expected) > 5
    assert list(zip(*(side.tolist() for side in mined.locate(batch)))) == expected


def test_locate_finds_nothing_without_failing():
    for mined, batch in ((triplets([1], [2], [3]), [4, 5]), (triplets([1], [2], [3]), []), (triplets([], [], []), [1])):
        located = mined.locate(torch.tensor(batch, dtype=torch.int64))
        assert [side.tolist() for side in located] == [[], [], []]
        assert all(side.dtype == torch.int64 for side in located)


def test_records_are_frozen_and_have_no_other_fields():
    mined = triplets([1], [2], [3])
    assert len(mined) == 1
    for record in (mined, mined.stats, SearchStats(engine="exact")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, dataclasses.fields(record)[0].name, None)
        assert not hasattr(record, "__dict__")


def test_stats_count_nothing_unless_told():
    stats = MiningStats(anchors=5, search=SearchStats(engine="exact"), seconds=0.1)
    assert (stats.no_positive, stats.no_negative, stats.outside_window, stats.fallback, stats.widened) == (0,) * 5
    assert (stats.filtered, stats.recall, stats.certified, stats.max_age) == ({}, None, None, 0)
    assert MiningStats(anchors=1, search=SearchStats(engine="x"), seconds=0.0).filtered is not stats.filtered


def test_neighbors_hold_what_was_found():
    found = Neighbors(torch.tensor([[3, -1]]), torch.tensor([[0.5, -torch.inf]]), SearchStats(engine="exact"))
    assert found.stats.precision == "float32"
    assert found.ids.shape == found.similarities.shape


def test_a_batch_of_ids_may_be_an_array_or_a_list():
    bank = EmbeddingBank(torch.eye(4), torch.tensor([0, 0, 1, 1]))
    triplets = HardMiner().mine(bank)
    expected = [part.tolist() for part in triplets.locate(torch.tensor([3, 0, 1, 2]))]
    for batch in ([3, 0, 1, 2], np.array([3, 0, 1, 2], dtype=np.int32)):
        assert [part.tolist() for part in triplets.locate(batch)] == expected
