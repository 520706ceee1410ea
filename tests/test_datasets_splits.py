"""Splits: nothing on both sides, nothing lost, sizes as asked."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from legolas_metric import class_disjoint_folds, class_disjoint_split, group_disjoint_folds, group_disjoint_split

VALUES = st.lists(st.integers(0, 9), min_size=2, max_size=40).filter(lambda values: len(set(values)) > 1)


def check_split(values, train, test):
    assert train.tolist() == sorted(train.tolist())
    assert test.tolist() == sorted(test.tolist())
    assert sorted(train.tolist() + test.tolist()) == [row for row, value in enumerate(values) if value != -1]
    assert not {values[row] for row in train} & {values[row] for row in test}
    assert len(train)
    assert len(test)


@pytest.mark.parametrize("split", [class_disjoint_split, group_disjoint_split])
@settings(deadline=None, max_examples=25)
@given(values=VALUES, data=st.data())
def test_a_split_has_nothing_on_both_sides(split, values, data):
    count = len(set(values))
    test_size = data.draw(st.integers(1, count - 1))
    train, test = split(values, test_size=test_size, seed=data.draw(st.integers(0, 9)))
    check_split(values, train, test)
    assert len({values[row] for row in test}) == test_size


@pytest.mark.parametrize("fold", [class_disjoint_folds, group_disjoint_folds])
@settings(deadline=None, max_examples=25)
@given(values=VALUES, data=st.data())
def test_folds_test_everything_once(fold, values, data):
    folds = fold(values, data.draw(st.integers(2, len(set(values)))), seed=data.draw(st.integers(0, 9)))
    for train, test in folds:
        check_split(values, train, test)
    assert sorted(torch.cat([test for _, test in folds]).tolist()) == list(range(len(values)))
    counts = [len({values[row] for row in test}) for _, test in folds]
    assert max(counts) - min(counts) <= 1


def test_unlabelled_rows_go_to_neither_side():
    labels = [0, -1, 0, 4, -1, 4, 7]
    check_split(labels, *class_disjoint_split(labels, test_size=1))
    for train, test in class_disjoint_folds(labels, 3):
        check_split(labels, train, test)


def test_a_negative_group_is_a_group():
    groups = [-1, -1, 3, 3]
    train, test = group_disjoint_split(groups, test_size=1)
    assert sorted([train.tolist(), test.tolist()]) == [[0, 1], [2, 3]]


def test_shares_are_rounded():
    labels = np.arange(30).repeat(2)
    assert len(class_disjoint_split(labels, test_size=0.2)[1]) == 12
    assert len(class_disjoint_split(labels, test_size=0.21)[1]) == 12
    assert len(class_disjoint_split(labels)[1]) == 12


def test_classes_of_like_size_are_dealt_to_different_folds():
    sizes = [100, 90, 80, 5, 5, 5, 4, 4, 4]
    labels = torch.repeat_interleave(torch.arange(9), torch.tensor(sizes))
    for seed in range(5):
        rows = [len(test) for _, test in class_disjoint_folds(labels, 3, seed=seed)]
        assert sorted(rows) == [89, 99, 109]


def test_an_attribute_of_classes_is_spread_over_the_folds():
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(23), torch.randint(1, 9, (23,), generator=generator))
    came_twice = labels % 3 == 1  # 8 of the 23
    for seed in range(5):
        held = [labels[test].unique() for _, test in class_disjoint_folds(labels, 5, stratify=came_twice, seed=seed)]
        assert sorted(torch.cat(held).tolist()) == list(range(23))
        for counts in ([int((classes % 3 == 1).sum()) for classes in held], [len(classes) for classes in held]):
            assert max(counts) - min(counts) <= 1
    with pytest.raises(ValueError, match=r"stratify varies within a class \(first: 0\)"):
        class_disjoint_folds([0, 0, 1, 1], 2, stratify=["old", "young", "old", "old"])
    names = ["old" if label < 0 else "young" for label in (-1, 3, 4)]  # of rows without a label nothing is asked
    assert len(class_disjoint_folds([-1, 3, 4], 2, stratify=names)) == 2


def test_the_seed_decides_and_global_random_state_does_not():
    labels = np.arange(40)
    state = torch.get_rng_state()
    first = class_disjoint_split(labels, seed=1)[1]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(class_disjoint_split(labels, seed=1)[1], first)
    assert not torch.equal(class_disjoint_split(labels, seed=2)[1], first)
    folds = [[test.tolist() for _, test in class_disjoint_folds(labels, 4, seed=seed)] for seed in (1, 1, 2)]
    assert folds[0] == folds[1] != folds[2]


def test_every_class_is_tested_under_some_seed():
    tested = torch.cat([class_disjoint_split(range(6), test_size=1, seed=seed)[1] for seed in range(40)])
    assert set(tested.tolist()) == set(range(6))


def test_alphabets_as_groups_split_characters_too():
    # 30 alphabets of some characters each, 20 drawings of each: split by alphabet, 24 to 6.
    characters = torch.arange(300).repeat_interleave(20)
    alphabets = characters % 30
    train, test = group_disjoint_split(alphabets, test_size=6, seed=0)
    assert len(alphabets[train].unique()) == 24
    assert len(alphabets[test].unique()) == 6
    assert not set(characters[train].tolist()) & set(characters[test].tolist())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: class_disjoint_split([0, 1, 2], test_size=0), ValueError, "test_size=0 puts 0 of 3 classes on the"),
        (lambda: class_disjoint_split([0, 1, 2], test_size=3), ValueError, "puts 3 of 3 classes .* at least one on"),
        (lambda: class_disjoint_split([0, 1, 2], test_size=0.1), ValueError, "test_size=0.1 puts 0 of 3 classes"),
        (lambda: group_disjoint_split([5, 5]), ValueError, "test_size=0.2 puts 0 of 1 groups"),
        (lambda: group_disjoint_split([], test_size=1), ValueError, "puts 1 of 0 groups"),
        (lambda: class_disjoint_folds([0, 1, 2], 4), ValueError, r"folds must lie in 2..3, the number of classes, got"),
        (lambda: group_disjoint_folds([0, 1, 2], 1), ValueError, r"folds must lie in 2..3, the number of groups, got"),
        (lambda: class_disjoint_split([0.5, 1.0]), TypeError, "labels must be integers"),
        (lambda: group_disjoint_folds([0.5, 1.0]), TypeError, "groups must be integers"),
        (lambda: class_disjoint_folds([0, -2]), ValueError, "labels must be >= 0, or -1 for unlabelled"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
