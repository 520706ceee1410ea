import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from legolas_metric.datasets.labels import LabelIndex, class_sizes, largest_class


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-1, 6), max_size=30))
def test_rows_by_class(labels):
    index = LabelIndex.of(labels)
    expected = {c: [row for row, label in enumerate(labels) if label == c] for c in sorted(set(labels) - {-1})}
    assert index.classes.tolist() == list(expected)
    assert index.counts.tolist() == [len(rows) for rows in expected.values()]
    classes, sizes = class_sizes(torch.tensor(labels, dtype=torch.int64))
    assert dict(zip(classes.tolist(), sizes.tolist())) == {c: len(rows) for c, rows in expected.items()}
    assert largest_class(torch.tensor(labels, dtype=torch.int64)) == max(map(len, expected.values()), default=0)
    assert [index.rows_of(c).tolist() for c in range(len(index))] == list(expected.values())
    assert index.offsets.tolist() == np.cumsum([0, *map(len, expected.values())]).tolist()


def test_labels_beyond_float32_stay_apart():
    # float32 cannot tell 2^24 from 2^24 + 1.
    index = LabelIndex.of(np.array([2**24 + 1, 2**24, 2**24 + 1, 2**62]))
    assert index.classes.tolist() == [2**24, 2**24 + 1, 2**62]
    assert index.rows.tolist() == [1, 0, 2, 3]


def test_only_unlabelled_rows():
    index = LabelIndex.of(torch.tensor([-1, -1]))
    assert len(index) == 0
    assert index.offsets.tolist() == [0]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0.0, 1.0], TypeError, "labels must be integers, got torch.float64"),
        ([0, -3], ValueError, "labels must be >= 0, or -1 for unlabelled, got -3"),
        ([[0, 1]], ValueError, r"labels must be 1-D, got shape \(1, 2\)"),
        (["cat", 1], TypeError, "labels must be integers or names, got int, str"),
    ],
)
def test_bad_labels(labels, error, message):
    with pytest.raises(error, match=message):
        LabelIndex.of(labels)
