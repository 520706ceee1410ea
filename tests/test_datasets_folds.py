"""Folds: each row validated once, nothing on two sides that must not be, and what is shared is named."""

import pytest
import torch

from legolas_metric import class_disjoint_folds
from legolas_metric.datasets.folds import KFold
from legolas_metric.datasets.leakage import find_leakage

C, EACH = 37, 6


@pytest.fixture
def people():
    """(labels, recordings, whether a person came on two days), in random order."""
    order = torch.randperm(C * EACH)
    labels = torch.arange(C).repeat_interleave(EACH)[order]
    recordings = (torch.arange(C * EACH) // 2)[order]
    return labels, recordings, labels % 4 == 0


def check_parts(folds: KFold, rows: torch.Tensor) -> None:
    """Each row is in the test set, or validated once and trained on in all other folds."""
    validated = torch.cat([validation for _, validation in folds])
    assert torch.cat([folds.test, validated]).sort().values.tolist() == rows.tolist()
    for train, validation in folds:
        assert torch.cat([folds.test, train, validation]).sort().values.tolist() == rows.tolist()
        assert train.tolist() == sorted(train.tolist())


@pytest.mark.parametrize("count", [2, 5, 10])
@pytest.mark.parametrize("test_share", [0, 0.2])
def test_folds_by_identity_share_no_class_and_keep_the_attributes_share(people, count, test_share):
    labels, recordings, two_days = people
    folds = KFold(labels, count, groups=recordings, stratify=two_days, test_share=test_share, seed=3)
    check_parts(folds, torch.arange(len(labels)))
    assert not folds.leakage().found
    assert len(labels[folds.test].unique()) == round(test_share * C)
    held = [labels[validation].unique() for _, validation in folds]
    assert max(map(len, held)) - min(map(len, held)) <= 2  # one for each stratum
    special = [int((classes % 4 == 0).sum()) for classes in held]
    assert max(special) - min(special) <= 1
    assert all(len(folds.unseen(k)) == len(held[k]) for k in range(count))


def test_a_seed_decides(people):
    labels, _, _ = people
    first, again, other = (KFold(labels, 5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.test, again.test)
    assert all(torch.equal(a.train, b.train) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.test, other.test)


def test_stratified_folds_hold_every_class_and_share_no_recording(people):
    labels, recordings, _ = people
    plain = KFold(labels, 5, how="stratified", test_share=1 / 6)
    check_parts(plain, torch.arange(len(labels)))
    assert all(len(labels[validation].unique()) == C for _, validation in plain)
    assert plain.leakage().found is False  # classes are shared by design
    apart = KFold(labels, 2, how="stratified", groups=recordings, test_share=1 / 3)
    check_parts(apart, torch.arange(len(labels)))
    assert not apart.leakage().found
    assert [len(apart.unseen(k)) for k in range(2)] == [0, 0]
    shared = find_leakage({"train": plain[0].train, "validation": plain[0].validation}, groups=recordings)
    assert shared.groups


def test_unlabelled_rows_belong_to_no_side():
    labels = torch.tensor([0, 0, 1, 1, 2, 2, -1, -1])
    folds = KFold(labels, 3, test_share=0)
    check_parts(folds, torch.arange(6))
    assert folds.left_out == 2


def test_names_serve_as_labels_and_attributes():
    names = [f"p{c:02d}" for c in range(20) for _ in range(2)]
    folds = KFold(names, 5, stratify=["old" if c < 10 else "young" for c in range(20) for _ in range(2)])
    for _, validation in folds:
        assert sorted("old" if row < 20 else "young" for row in validation.tolist()).count("old") in (2, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0, 0, 1, 1, 2, 2], "folds": 3}, "3 classes, 1 of them held out, are too few for 3 folds"),
        ({"labels": [0, 0, 1, 1], "folds": 2, "test_share": 0.01}, "of 2 classes is none"),
        ({"labels": [0, 1], "folds": 2, "test_share": 1.5}, "test_share must be below 1"),
        ({"labels": [0, 0, 1, 1], "folds": 2, "test_share": 0, "stratify": [0, 1, 1, 1]}, r"within a class \(first: 0"),
        ({"labels": [0, 0, 1, 1], "folds": 3, "how": "stratified", "test_share": 0}, "no class has 3 rows"),
        (
            {"labels": [0, 0, 1, 1], "folds": 2, "how": "stratified", "groups": [0, 0, 1, 1]},
            "2 groups are too few for 2 folds and a test set",
        ),
    ],
)
def test_folds_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        KFold(arguments.pop("labels"), **arguments)


def test_what_leaks_is_named(people):
    labels, recordings, _ = people
    x = torch.randn(len(labels), 3, 5)
    rows = torch.arange(len(labels))
    parts = {"train": rows[:100], "validation": rows[100:150], "test": rows[150:]}
    x[120] = 3 * x[7] + 1e-4
    x[160] = x[8]
    x -= x.mean(0)
    found = find_leakage(parts, labels=labels, groups=recordings, inputs=x)
    assert found.duplicates == {("train", "validation"): ((7, 120),), ("train", "test"): ((8, 160),)}
    for (a, b), names in found.identities.items():
        assert {int(n) for n in names} == set(labels[parts[a]].tolist()) & set(labels[parts[b]].tolist())
    for (a, b), names in found.groups.items():
        assert {int(n) for n in names} == set(recordings[parts[a]].tolist()) & set(recordings[parts[b]].tolist())
    assert "train and validation hold 1 pair of near-duplicates, by row: (7, 120)" in found.sentences()


def test_blocks_change_nothing(monkeypatch):
    x = torch.randn(40, 3).round()
    parts = {"a": torch.arange(25), "b": torch.arange(25, 40)}
    whole = find_leakage(parts, inputs=x, near=0.95)
    monkeypatch.setattr("legolas_metric.datasets.leakage.BLOCK", 1)
    assert find_leakage(parts, inputs=x, near=0.95) == whole
    unit = torch.nn.functional.normalize((x - x.mean(0)).double(), dim=1)
    expected = {(a, b) for a in range(25) for b in range(25, 40) if float(unit[a] @ unit[b]) >= 0.95}
    assert set(whole.duplicates["a", "b"]) == expected


def test_a_row_of_two_parts_is_refused():
    with pytest.raises(ValueError, match=r"train and test share 1 rows \(first: 1\)"):
        find_leakage({"train": [0, 1], "test": [1]}, labels=[0, 1])


def test_class_disjoint_folds_keep_an_attribute_of_the_classes_equal():
    persons = torch.arange(40).repeat_interleave(3)
    came_twice = persons < 10
    folds = class_disjoint_folds(persons, 5, stratify=came_twice)
    assert [len(persons[test][came_twice[test]].unique()) for _, test in folds] == [2] * 5
    assert sorted(row for _, test in folds for row in test.tolist()) == list(range(120))
    assert all(not torch.isin(persons[train], persons[test]).any() for train, test in folds)
    with pytest.raises(ValueError, match="stratify"):
        class_disjoint_folds([0, 0, 1, 1], 2, stratify=[0, 1, 0, 0])
