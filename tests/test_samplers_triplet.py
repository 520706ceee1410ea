"""TripletSampler against counting: every triplet whole, every row once a batch, the budget kept."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from legolas_metric import MiningStats, Triplets, TripletSampler
from legolas_metric.records import SearchStats


def triplets_of(rows):
    anchor, positive, negative = torch.as_tensor(rows).reshape(-1, 3).unbind(1)
    nothing = torch.zeros(len(anchor))
    return Triplets(
        anchor,
        positive,
        negative,
        nothing,
        nothing,
        MiningStats(anchors=0, search=SearchStats(engine="none"), seconds=0.0),
    )


def mined(classes, size, seed=0):
    """A triplet for each row of a set of classes in a row of like ones: negatives come from the next class."""
    rng = np.random.default_rng(seed)
    anchor = np.arange(classes * size)
    own = anchor // size
    positive = own * size + (anchor + rng.integers(1, size, len(anchor))) % size
    negative = (own + 1) % classes * size + rng.integers(0, size, len(anchor))
    return np.stack([anchor, positive, negative], 1)


def check_epoch(batches, rows, batch_size):
    """Returns how many batches hold each triplet."""
    held = np.zeros(len(rows), int)
    for batch in batches:
        assert all(isinstance(row, int) for row in batch)
        assert 0 < len(batch) <= batch_size
        assert len(set(batch)) == len(batch)
        held += [set(triplet) <= set(batch) for triplet in rows.tolist()]
    assert held.min() >= 1
    assert set().union(*batches) == set(rows.ravel().tolist())
    return held


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(st.tuples(*[st.integers(0, 15)] * 3), min_size=1, max_size=40),  # also rows that repeat in a triplet
    batch_size=st.integers(3, 20),
    seed=st.integers(0, 99),
)
def test_every_triplet_lies_whole_in_a_batch(rows, batch_size, seed):
    rows = np.array(rows)
    sampler = TripletSampler(triplets_of(rows), batch_size, seed=seed)
    assert sampler.dropped == 0
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        check_epoch(batches, rows, batch_size)
        # Full but for what the next triplet would add, so never more batches than with no row shared.
        assert len(batches) <= -(-len(rows) // (batch_size // 3))


def test_locate_finds_them_and_what_came_along():
    rows = mined(30, 8)
    triplets = triplets_of(rows)
    found = 0
    for batch in TripletSampler(triplets, 24):
        ids = torch.tensor(batch)
        a, p, n = triplets.locate(ids)
        expected = [triplet for triplet in rows.tolist() if set(triplet) <= set(batch)]
        assert torch.stack([ids[a], ids[p], ids[n]], 1).tolist() == expected
        found += len(expected)
    assert found >= len(rows)


def test_triplets_that_share_rows_share_batches():
    rows = mined(40, 10)
    sampler = TripletSampler(triplets_of(rows), 60)
    alone = -(-len(rows) // 20)
    lengths = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        lengths.append(len(sampler))
    assert max(lengths) < 0.75 * alone


def test_triplets_without_a_common_row_fill_batches_evenly():
    rows = np.arange(300).reshape(-1, 3)
    sampler = TripletSampler(triplets_of(rows), 31)
    assert [len(batch) for batch in sampler] == [30] * 10


def test_many_triplets_of_few_rows_are_one_batch():
    rows = np.random.default_rng(0).integers(0, 6, (500, 3))
    assert len(TripletSampler(triplets_of(rows), 6)) == 1


def test_ids_name_the_rows_of_the_data_set():
    rows = mined(6, 5)
    ids = np.random.default_rng(3).permutation(1000)[:30]
    plain = TripletSampler(triplets_of(rows), 12)
    named = TripletSampler(triplets_of(ids[rows]), 12, ids=ids)
    assert named.dropped == 0
    for epoch in range(2):
        plain.set_epoch(epoch)
        named.set_epoch(epoch)
        check_epoch(list(named), rows, 12)
    triplets = triplets_of(ids[rows])
    assert sum(len(triplets.locate(torch.from_numpy(ids)[batch])[0]) for batch in named) >= len(rows)


def test_triplets_outside_the_data_set_are_dropped_and_counted():
    rows = mined(6, 5)
    kept = np.array([triplet for triplet in rows.tolist() if 29 not in triplet and 3 not in triplet])
    ids = np.array([row for row in range(29) if row != 3])
    sampler = TripletSampler(triplets_of(rows), 12, ids=ids)
    assert sampler.dropped == len(rows) - len(kept) > 0
    assert f"{sampler.dropped} dropped" in repr(sampler)
    check_epoch([ids[batch].tolist() for batch in sampler], kept, 12)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_one_epoch(world_size):
    rows = mined(12, 7)
    one = TripletSampler(triplets_of(rows), 12, seed=4)
    ranks = [TripletSampler(triplets_of(rows), 12, seed=4, rank=r, world_size=world_size) for r in range(world_size)]
    for epoch in range(3):
        for sampler in (one, *ranks):
            sampler.set_epoch(epoch)
        batches = list(one)
        steps = list(zip(*ranks, strict=True))
        assert {len(rank) for rank in ranks} == {len(steps)} == {-(-len(batches) // world_size)}
        joined = [batch for step in steps for batch in step]
        assert joined == batches + batches[: len(joined) - len(batches)]


def test_epochs_differ_and_come_again():
    sampler = TripletSampler(triplets_of(mined(12, 7)), 12, seed=1)
    zero = list(sampler)
    sampler.set_epoch(1)
    one = list(sampler)
    assert one != zero
    torch.manual_seed(5)
    sampler.set_epoch(0)
    assert list(sampler) == zero
    assert list(TripletSampler(triplets_of(mined(12, 7)), 12, seed=2)) != zero


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 2}, "batch_size must be at least 3, got 2"),
        ({"triplets": triplets_of(np.empty((0, 3), int))}, "no triplets: the miner found none, see triplets.stats"),
        ({"ids": [7, 8, 9]}, "none of the triplets lies in the data set: pass the ids under which"),
        ({"triplets": triplets_of([[0, 1, 2**40]])}, "ids up to 1099511627776 were taken for row numbers: pass ids"),
        ({"ids": []}, "none of the triplets lies in the data set"),
        ({"ids": [0, 1, 1]}, "ids must be unique"),
        ({"rank": 2, "world_size": 2}, r"rank must lie in 0..1 for world_size=2, got 2"),
    ],
)
def test_bad_input(arguments, message):
    given_ = {"triplets": triplets_of([[0, 1, 2]]), "batch_size": 3} | arguments
    with pytest.raises(ValueError, match=message):
        TripletSampler(given_.pop("triplets"), given_.pop("batch_size"), **given_)


def test_only_triplets_are_taken():
    with pytest.raises(TypeError, match="triplets must be Triplets, as a miner's mine"):
        TripletSampler.__init__.__wrapped__(TripletSampler.__new__(TripletSampler), [[0, 1, 2]], 3)


def test_memory_follows_the_triplets_and_not_their_names():
    rows = mined(12, 7)
    far = rows + 2**31 - 1 - rows.max()
    tracemalloc.start()
    batches = list(TripletSampler(triplets_of(far), 12))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    check_epoch([[row - int(far.min()) for row in batch] for batch in batches], rows - rows.min(), 12)


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(st.tuples(*[st.integers(0, 15)] * 3), min_size=1, max_size=40),
    batch_size=st.integers(3, 20),
    seed=st.integers(0, 99),
)
def test_filled_batches_begin_as_they_were_and_are_of_one_size(rows, batch_size, seed):
    rows = np.array(rows)
    plain = list(TripletSampler(triplets_of(rows), batch_size, seed=seed))
    full = list(TripletSampler(triplets_of(rows), batch_size, seed=seed, fill=True))
    check_epoch(full, rows, batch_size)
    distinct = len(set(rows.ravel().tolist()))
    for before, after in zip(plain, full, strict=True):
        assert after[: len(before)] == before
        assert len(after) == min(batch_size, distinct)
