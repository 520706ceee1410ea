"""PKSampler against counting: what is in a batch, in an epoch, and over epochs."""

import inspect
from collections import Counter, defaultdict
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from legolas_metric import PKSampler
from legolas_metric.datasets import LabelIndex


def labels_of(sizes, start=0):
    """Class c has sizes[c] rows, in an order that is not sorted."""
    labels = np.repeat(np.arange(len(sizes)) * 3 + start, sizes)
    return torch.from_numpy(np.random.default_rng(0).permutation(labels))


def batches(sampler, epoch=0):
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def joined(lists):
    return list(chain.from_iterable(lists))


def check_batch(batch, labels, p, k):
    assert len(batch) == p * k
    assert all(isinstance(row, int) for row in batch)
    assert len(set(batch)) == p * k
    blocks = labels[torch.tensor(batch)].view(p, k)
    assert (blocks == blocks[:, :1]).all()
    assert len(set(blocks[:, 0].tolist())) == p


@pytest.mark.parametrize(("c", "p", "k"), [(7, 3, 2), (6, 3, 4), (5, 5, 3), (9, 2, 3), (4, 3, 4)])
def test_an_epoch_visits_every_class_in_full_batches(c, p, k):
    labels = labels_of([k + i % 4 for i in range(c)])
    sampler = PKSampler(labels, p, k, seed=3)
    assert len(sampler) == -(-c // p)
    for epoch in range(4):
        found = batches(sampler, epoch)
        for batch in found:
            check_batch(batch, labels, p, k)
        visits = Counter(labels[torch.tensor(found).flatten()].tolist())
        assert set(visits) == set(labels.tolist())
        topped_up = sum(visits.values()) // k - c
        assert sorted(visits.values()) == [k] * (c - topped_up) + [2 * k] * topped_up


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=12),
    p=st.integers(2, 6),
    k=st.integers(2, 4),
    world_size=st.integers(1, 3),
    weights=st.sampled_from(["balanced", "sqrt", "proportional"]),
    short=st.sampled_from(["skip", "repeat"]),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_class_and_over_time_every_row(sizes, p, k, world_size, weights, short, seed):
    labels = labels_of(sizes)
    eligible = {3 * c: size for c, size in enumerate(sizes) if size >= k or short == "repeat"}
    settings = {"weights": weights, "short": short, "seed": seed, "world_size": world_size}
    if len(eligible) < p * world_size:
        with pytest.raises(ValueError, match="classes of at least"):
            PKSampler(labels, p, k, **settings)
        return
    ranks = [PKSampler(labels, p, k, **settings, rank=rank) for rank in range(world_size)]
    assert ranks[0].left_out.tolist() == sorted(set(labels.tolist()) - set(eligible))
    epochs = max(-(-size // k) for size in eligible.values())
    seen = set()
    for epoch in range(epochs):
        steps = list(zip(*(batches(rank, epoch) for rank in ranks), strict=True))
        rows = [row for step in steps for batch in step for row in batch]
        assert {int(labels[row]) for row in rows} == set(eligible)
        seen |= set(rows)
        for step in steps:
            drawn = labels[torch.tensor(step)].view(-1, k)
            assert (drawn == drawn[:, :1]).all()
            assert len(set(drawn[:, 0].tolist())) == p * world_size  # no class on two ranks, or twice on one
            if short == "skip":
                assert len({row for batch in step for row in batch}) == p * k * world_size
        if weights == "proportional":
            assert len(set(rows)) == sum(eligible.values())
    assert seen == {row for row, label in enumerate(labels.tolist()) if label in eligible}


def test_a_class_shows_all_its_rows_once_before_any_comes_again():
    labels = labels_of([12, 12, 12])
    sampler = PKSampler(labels, p=3, k=4)
    shown = [
        Counter(row for epoch in range(3 * turn, 3 * turn + 3) for row in joined(batches(sampler, epoch)))
        for turn in range(2)
    ]
    assert all(set(counts.values()) == {1} and len(counts) == 36 for counts in shown)
    assert batches(sampler, 0) != batches(sampler, 3)  # shuffled anew


def test_visits_follow_the_weights():
    labels = labels_of([4, 16, 36])

    def visits(weights):
        return PKSampler(labels, 2, 4, weights=weights)._visits.tolist()

    assert visits("balanced") == [1, 1, 1]
    assert visits("sqrt") == [1, 2, 3]
    assert visits("proportional") == [1, 4, 9]
    assert visits({0: 0.5, 3: 1.0, 6: 2.6}) == [1, 2, 5]


def test_a_dominating_class_lengthens_the_round_and_is_never_twice_in_a_batch():
    labels = labels_of([40, 4, 4, 4])
    sampler = PKSampler(labels, p=2, k=4, weights="proportional")
    found = batches(sampler)
    assert len(found) == 10
    for batch in found:
        check_batch(batch, labels, 2, 4)
    visits = Counter(labels[torch.tensor(found)].flatten().tolist())
    assert visits[0] == 40
    assert max(visits[label] for label in (3, 6, 9)) - min(visits[label] for label in (3, 6, 9)) <= 4


def test_weighted_batches_mix_classes():
    # 12 classes with 2 to 7 visits each, 4 to a batch: no two classes always meet.
    labels = labels_of([12, 20, 8, 28] * 3)
    sampler = PKSampler(labels, p=4, k=4, weights="proportional")
    partners = defaultdict(set)
    for epoch in range(6):
        for batch in batches(sampler, epoch):
            check_batch(batch, labels, 4, 4)
            drawn = set(labels[torch.tensor(batch)].tolist())
            for label in drawn:
                partners[label] |= drawn - {label}
    assert min(len(others) for others in partners.values()) >= 10


def test_unlabelled_rows_are_never_drawn():
    labels = labels_of([5, 5, 5])
    labels[::4] = -1
    rows = joined(batches(PKSampler(labels, 3, 2)))
    assert -1 not in labels[rows].tolist()


def test_classes_that_are_too_small_are_named_or_repeated():
    labels = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3])
    sampler = PKSampler(labels, 2, 3)
    assert sampler.left_out.tolist() == [1, 2]
    assert "2 classes left out" in repr(sampler)
    repeated = PKSampler(labels, 4, 3, short="repeat")
    assert repeated.left_out.tolist() == []
    (batch,) = batches(repeated)
    assert Counter(batch)[3] == 3
    assert sorted(Counter(row for row in batch if labels[row] == 2).values()) == [1, 2]


@pytest.mark.parametrize("kind", ["list", "numpy", "int32", "strided"])
def test_labels_of_any_integer_kind(kind):
    labels = labels_of([4] * 6)
    given_ = {
        "list": labels.tolist(),
        "numpy": labels.numpy().astype(np.uint16),
        "int32": labels.int(),
        "strided": labels.repeat_interleave(2)[::2],
    }[kind]
    assert list(PKSampler(given_, 3, 2)) == list(PKSampler(labels, 3, 2))


# Random state, epochs, resuming


def test_no_global_random_state_is_read_or_changed():
    labels = labels_of([4] * 9)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  (the global state is what is tested)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = list(PKSampler(labels, 3, 2, seed=5))
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert list(PKSampler(labels, 3, 2, seed=5)) == first
    assert list(PKSampler(labels, 3, 2, seed=6)) != first


def test_the_epoch_is_what_was_set():
    sampler = PKSampler(labels_of([9] * 9), 3, 2)
    zero = batches(sampler, 0)
    assert list(sampler) == zero
    assert batches(sampler, 5) != zero
    assert batches(sampler, 0) == zero


@pytest.mark.parametrize("count", [1, 2, 7])
def test_epochs_of_another_length_go_on_where_the_last_one_stopped(count):
    labels = labels_of([6] * 10)
    whole = PKSampler(labels, 3, 2)
    other = PKSampler(labels, 3, 2, batches_per_epoch=count)
    assert len(other) == count
    expected = joined(batches(whole, epoch) for epoch in range(7))
    found = joined(batches(other, epoch) for epoch in range(28 // count))
    assert found == expected[: len(found)]


def test_ranks_together_are_one_process_with_a_larger_p():
    labels = labels_of([5, 6, 7, 8, 4] * 5)
    for weights in ("balanced", "proportional"):
        one = PKSampler(labels, 6, 4, weights=weights, seed=2)
        three = [PKSampler(labels, 2, 4, weights=weights, seed=2, rank=r, world_size=3) for r in range(3)]
        for epoch in range(3):
            together = [joined(step) for step in zip(*(batches(rank, epoch) for rank in three), strict=True)]
            assert together == batches(one, epoch)


def test_ranks_take_turns_with_one_process_of_the_same_p():
    labels = labels_of([5] * 24)
    one = batches(PKSampler(labels, 2, 4, seed=2))
    ranks = [batches(PKSampler(labels, 2, 4, seed=2, rank=r, world_size=3)) for r in range(3)]
    assert [batch for step in zip(*ranks, strict=True) for batch in step] == one


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"p": 0}, ValueError, "p must be at least 1, got 0"),
        ({"p": 1}, ValueError, "p must be at least 2, got 1: a batch of one class has no negatives"),
        ({"k": 1}, ValueError, "k must be at least 2, got 1: one example of a class has no positive in its batch"),
        ({"p": 4}, ValueError, r"p=4 needs 4 classes of at least k=2 examples, got 3; 1 classes have fewer: lower p"),
        ({"p": 2, "world_size": 2}, ValueError, "p=2 on each of 2 ranks needs 4 classes"),
        ({"rank": 1}, ValueError, r"rank must lie in 0..0 for world_size=1, got 1"),
        ({"world_size": 0}, ValueError, "world_size must be at least 1"),
        ({"batches_per_epoch": 0}, ValueError, "batches_per_epoch must be at least 1"),
        ({"distinct_groups": True}, ValueError, "distinct_groups=True compares groups: pass groups"),
        ({"groups": [0]}, ValueError, "groups has 1 entries for 7 rows of labels"),
        ({"weights": {0: 1.0}}, ValueError, r"weights lack 2 of the classes that take part \(first: \[1, 2\]\)"),
        ({"weights": {0: 1.0, 1: 0.0, 2: 1.0}}, ValueError, "weights must be positive and finite"),
        ({"weights": {0: 1.0, 1: 1e-09, 2: 1.0}}, ValueError, "weights must lie within a factor of 10000"),
        ({"labels": [0.5, 1.0]}, TypeError, "labels must be integers"),
        ({"labels": []}, ValueError, "p=2 needs 2 classes of at least k=2 examples, got 0"),
        ({"labels": [0, -2]}, ValueError, "labels must be >= 0, or -1 for unlabelled"),
    ],
)
def test_bad_input(arguments, error, message):
    given_ = {"labels": [0, 0, 1, 1, 2, 2, 3], "p": 2, "k": 2} | arguments
    with pytest.raises(error, match=message):
        PKSampler(given_.pop("labels"), given_.pop("p"), given_.pop("k"), **given_)


def test_settings_of_another_type():
    build = inspect.unwrap(PKSampler.__init__)
    with pytest.raises(TypeError, match="p must be an integer, got '4'"):
        build(PKSampler.__new__(PKSampler), [0, 0, 1, 1], "4", 2)
    with pytest.raises(TypeError, match="labels must be a row of labels, one for each example, got tensor"):
        LabelIndex.of(torch.tensor(7))


def test_negative_epoch():
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        PKSampler([0, 0, 1, 1], 2, 2).set_epoch(-1)


# What users of other samplers reported


def test_pml_684_no_class_is_missed_in_an_epoch():
    # pytorch-metric-learning draws each batch's classes afresh: in as many batches, about a third never come.
    from pytorch_metric_learning.samplers import MPerClassSampler

    labels = labels_of([6] * 200)
    ours = joined(batches(PKSampler(labels, 8, 4)))
    theirs = list(MPerClassSampler(labels, m=4, batch_size=32, length_before_new_iter=len(ours)))
    assert len(theirs) == len(ours)
    assert len(set(labels[ours].tolist())) == 200
    assert len(set(labels[theirs].tolist())) < 170


@pytest.mark.parametrize("n", [31, 32, 33])
def test_pml_28_725_the_length_of_an_epoch_is_its_own_and_follows_from_the_classes(n):
    # Not from a number of rows that the user has to guess, and not from the length of the data set.
    sampler = PKSampler(labels_of([5 + i % 9 for i in range(n)]), 8, 4)
    for epoch in range(3):
        assert len(batches(sampler, epoch)) == -(-n // 8)


def test_torchreid_the_length_is_not_overstated():
    # Its identity sampler counts the examples of all classes, but stops when fewer than p classes have any left.
    labels = labels_of([40, 4, 4, 5])
    for weights in ("balanced", "sqrt", "proportional"):
        sampler = PKSampler(labels, 2, 4, weights=weights)
        assert len(sampler) == len(list(sampler)) > 0
        assert {len(batch) for batch in sampler} == {8}


def test_labels_above_two_to_the_24_are_classes_of_their_own():
    # pytorch-metric-learning's memory queue keeps labels in float32, where these are one.
    labels = torch.tensor([2**24, 2**24 + 1, 2**24, 2**24 + 1])
    (batch,) = PKSampler(labels, 2, 2)
    assert sorted(labels[batch].view(2, 2).tolist()) == [[2**24] * 2, [2**24 + 1] * 2]
