"""What all batch samplers promise: an exact length, epochs that are set, a place that is found again, loaders."""

import gc
import weakref

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import begin, start
from torch.utils.data import DataLoader, TensorDataset

from legolas_metric import MiningStats, PKSampler, Triplets, TripletSampler
from legolas_metric.records import SearchStats

LABELS = np.random.default_rng(0).permutation(np.arange(13).repeat(7))


def pk(**settings):
    return PKSampler(LABELS, 4, 3, **settings)


def triplet(shift=0, **settings):
    anchor = torch.arange(90)
    nothing = torch.zeros(90)
    stats = MiningStats(anchors=90, search=SearchStats(engine="none"), seconds=0.0)
    triplets = Triplets(anchor, (anchor + 1 + shift) % 90, (anchor * 7 + 3) % 90, nothing, nothing, stats)
    return TripletSampler(triplets, 12, **settings)


SAMPLERS = pytest.mark.parametrize("make", [pk, triplet], ids=["pk", "triplet"])


@SAMPLERS
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_hands_out_the_plan(make, num_workers):
    data = TensorDataset(torch.arange(91))
    sampler = make()
    loader = DataLoader(data, batch_sampler=sampler, num_workers=num_workers, persistent_workers=num_workers > 0)
    for epoch in (0, 3):
        sampler.set_epoch(epoch)
        assert len(loader) == len(sampler)
        assert [rows.tolist() for (rows,) in loader] == [batch.tolist() for batch in sampler.plan()]


@SAMPLERS
@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_run_goes_on_where_it_stopped(make, done):
    sampler = make(seed=2)
    sampler.set_epoch(4)
    running = iter(sampler)
    first = [next(running) for _ in range(done)]
    state = sampler.state_dict()
    whole = first + list(running)

    resumed = make(seed=2)
    resumed.load_state_dict(state)
    assert resumed.epoch == 4
    resumed.set_epoch(4)  # as a training loop does at the head of each epoch: not a new start
    assert list(resumed) == whole[done:]
    assert list(resumed) == whole
    for epoch in (5, 4):
        resumed.set_epoch(epoch)
        sampler.set_epoch(epoch)
        assert list(resumed) == list(sampler)


@SAMPLERS
def test_with_workers_the_loop_says_what_was_consumed(make):
    data = TensorDataset(torch.arange(91))
    sampler = make()
    sampler.set_epoch(0)
    whole = list(sampler)
    batches = iter(DataLoader(data, batch_sampler=sampler, num_workers=2))
    seen = [next(batches)[0].tolist() for _ in range(2)]
    assert sampler.state_dict()["batch"] > 2  # the workers are ahead
    state = sampler.state_dict(consumed=2)
    del batches
    resumed = make()
    resumed.load_state_dict(state)
    left = [rows.tolist() for (rows,) in DataLoader(data, batch_sampler=resumed, num_workers=2)]
    assert seen + left == whole


@SAMPLERS
def test_an_iterator_that_is_let_go_ends_its_workers_at_once(make):
    gc.disable()  # which finds it late, and then torch waits 5 s for each worker
    try:
        batches = iter(DataLoader(TensorDataset(torch.arange(91)), batch_sampler=make(), num_workers=1))
        next(batches)
        iterator = weakref.ref(batches)
        del batches
        assert iterator() is None
    finally:
        gc.enable()


@SAMPLERS
def test_a_state_may_itself_be_saved_again_before_anything_was_drawn(make):
    sampler, resumed = make(), make()
    state = sampler.state_dict(consumed=3)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state


@SAMPLERS
def test_after_a_whole_epoch_comes_the_next(make):
    sampler = make()
    assert len(list(sampler)) == sampler.state_dict()["batch"]
    resumed = make()
    resumed.load_state_dict(sampler.state_dict())
    sampler.set_epoch(1)
    assert resumed.epoch == 1
    assert list(resumed) == list(sampler)


@SAMPLERS
def test_setting_another_epoch_starts_it_from_its_first_batch(make):
    sampler = make()
    sampler.load_state_dict(sampler.state_dict(consumed=2))
    sampler.set_epoch(1)
    assert len(list(sampler)) == len(sampler)
    assert sampler.state_dict()["epoch"] == 1


@pytest.mark.parametrize("make", [pk, triplet])
def test_a_state_serves_every_rank(make):
    state = make(world_size=2).state_dict(consumed=1)
    for rank in range(2):
        sampler = make(rank=rank, world_size=2)
        whole = list(sampler)
        sampler.load_state_dict(state)
        assert list(sampler) == whole[1:]


@pytest.mark.parametrize(
    ("saved", "loaded", "message"),
    [
        (pk(), pk(seed=1), r"this state is of another sampler: seed \(saved 0, here 1\). Construct"),
        (pk(), pk(batches_per_epoch=5), r"batches \(saved 4, here 5\)"),
        (pk(), pk(world_size=2), r"world_size \(saved 1, here 2\)"),
        (pk(), PKSampler(LABELS[::-1], 4, 3), "data"),
        (
            PKSampler(LABELS, 4, 3, groups=np.arange(91) % 2, distinct_groups=True),
            PKSampler(LABELS, 4, 3, groups=np.arange(91) % 3, distinct_groups=True),
            "data",
        ),
        (pk(), PKSampler(LABELS, 4, 3, weights="proportional"), "data"),
        (pk(), PKSampler(LABELS, 4, 2), r"k \(saved 3, here 2\)"),
        (triplet(), triplet(shift=1), "data"),
        (triplet(), pk(), "p .saved None"),
    ],
)
def test_a_state_of_another_sampler_is_refused(saved, loaded, message):
    with pytest.raises(ValueError, match=message):
        loaded.load_state_dict(saved.state_dict())


@SAMPLERS
def test_bad_places(make):
    sampler = make()
    with pytest.raises(ValueError, match=r"consumed must lie in 0..\d+, the batches of an epoch, got 999"):
        sampler.state_dict(consumed=999)
    with pytest.raises(ValueError, match="consumed must lie in"):
        sampler.state_dict(consumed=-1)
    state = sampler.state_dict()
    del state["epoch"]
    with pytest.raises(ValueError, match="epoch or batch is missing"):
        sampler.load_state_dict(state)
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        sampler.set_epoch(-1)
    with pytest.raises(ValueError, match="the state's batch must be at least 0, got -3"):
        sampler.load_state_dict(sampler.state_dict() | {"batch": -3})


@SAMPLERS
def test_numbers_that_are_not_whole(make):
    sampler = make()
    with pytest.raises(TypeError, match="epoch must be an integer, got True"):
        sampler.set_epoch(True)
    with pytest.raises(TypeError, match="consumed must be an integer, got True"):
        sampler.state_dict(consumed=True)
    with pytest.raises(TypeError, match=r"the state's epoch must be an integer, got 1\.5"):
        sampler.load_state_dict(sampler.state_dict() | {"epoch": 1.5})


def test_numbers_of_numpy_are_as_good_as_pythons():
    numbers = {"p": 4, "k": 3, "batches_per_epoch": 5, "seed": -7, "rank": 1, "world_size": 2}
    build = PKSampler.__init__.__wrapped__
    ours, theirs = PKSampler.__new__(PKSampler), PKSampler.__new__(PKSampler)
    build(ours, LABELS, **numbers)
    build(theirs, LABELS, **{name: np.int64(number) for name, number in numbers.items()})
    PKSampler.set_epoch.__wrapped__(theirs, np.int64(2))
    ours.set_epoch(2)
    assert list(ours) == list(theirs)
    assert {type(value) for value in theirs.state_dict().values()} == {int}


def test_seeds_that_would_wrap_are_refused():
    with pytest.raises(ValueError, match=r"seed must be below 2\^63"):
        PKSampler(LABELS, 4, 3, seed=2**64 + 1)


@pytest.mark.parametrize("name", ["p", "k", "batches_per_epoch", "seed", "rank", "world_size"])
def test_settings_that_are_not_whole(name):
    with pytest.raises(TypeError, match=f"{name} must be an integer, got True"):
        PKSampler(LABELS, **({"p": 4, "k": 3} | {name: True}))


@SAMPLERS
def test_two_iterations_at_once_do_not_disturb_each_other(make):
    sampler = make()
    sampler.set_epoch(0)
    assert [first for first, second in zip(sampler, sampler, strict=True) if first == second] == list(sampler)


@SAMPLERS
@pytest.mark.parametrize("num_workers", [0, 1])
def test_in_a_plain_loop_each_iteration_is_the_next_epoch(make, num_workers):
    sampler, other = make(), make()
    loader = DataLoader(TensorDataset(torch.arange(91)), batch_sampler=sampler, num_workers=num_workers)
    for epoch in range(3):
        other.set_epoch(epoch)
        assert [rows.tolist() for (rows,) in loader] == list(other)
        assert sampler.epoch == epoch


@SAMPLERS
@pytest.mark.parametrize("done", [1, 2, None])
def test_a_plain_loop_goes_on_where_it_stopped(make, done):
    sampler, resumed = make(), make()
    list(sampler)
    running = iter(sampler)
    drawn = [next(running) for _ in range(len(sampler) if done is None else done)]
    resumed.load_state_dict(sampler.state_dict(consumed=done))
    assert drawn
    assert list(resumed) == (list(running) or list(sampler))
    assert list(resumed) == list(sampler)


@SAMPLERS
def test_an_iteration_that_was_left_is_not_handed_out_again(make):
    sampler = make()
    first = next(iter(sampler))
    assert next(iter(sampler)) != first
    assert sampler.epoch == 1


@SAMPLERS
def test_a_batch_sampler_is_not_taken_for_one_of_rows(make):
    with pytest.raises(TypeError, match=r"hands out whole batches: pass it as DataLoader\(..., batch_sampler=...\)"):
        next(iter(DataLoader(TensorDataset(torch.arange(91)), sampler=make(), batch_size=2)))
    rows = torch.arange(91)
    whole = DataLoader(rows, sampler=make(), batch_size=None)  # hands lists of rows to the data set: as good
    assert [batch.tolist() for batch in whole] == list(make())


@SAMPLERS
def test_a_rank_that_is_not_the_processs_is_told_once(make, monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda group=None: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 2)
    sampler = make()
    with pytest.warns(UserWarning, match=r"process 1 of 2, but .*Sampler plans for rank=0 of world_size=1.*pass rank="):
        next(iter(sampler))
    next(iter(sampler))  # pytest makes an error of a second warning
    next(iter(make(rank=1, world_size=2)))


@SAMPLERS
def test_lightning_sets_the_epoch(make):
    data = pytest.importorskip("lightning.fabric.utilities.data")
    sampler = make()
    data._set_sampler_epoch(DataLoader(TensorDataset(torch.arange(91)), batch_sampler=sampler), 7)
    assert sampler.epoch == 7


def _rank(rank, world_size, port, folder):
    begin(rank, world_size, port)
    torch.manual_seed(rank)  # ranks differ in every global random state
    try:
        for make in (pk, triplet):
            sampler = make(rank=rank, world_size=world_size)
            sampler.set_epoch(2)
            gathered = [None] * world_size
            dist.all_gather_object(gathered, list(sampler))
            if rank == 0:
                torch.save(gathered, folder / make.__name__)
    finally:
        dist.destroy_process_group()


def test_processes_agree(tmp_path):
    start(_rank, 2, tmp_path)
    found = [torch.load(tmp_path / make.__name__) for make in (pk, triplet)]
    for make, batches in zip((pk, triplet), found):
        for rank in range(2):
            sampler = make(rank=rank, world_size=2)
            sampler.set_epoch(2)
            assert batches[rank] == list(sampler)
    labels = torch.from_numpy(LABELS)
    for step in zip(*found[0], strict=True):
        assert len(set(labels[torch.tensor(step)].flatten().tolist())) == 8  # 2 ranks x 4 classes, all different
