import numpy as np
import pytest
import torch

from legolas_metric import EmbeddingBank
from legolas_metric.checks import (
    as_integers,
    as_tensor,
    check_at_least,
    check_choice,
    check_device,
    check_dimension,
    check_metric,
)
from legolas_metric.rows import as_embeddings, as_groups, as_ids, as_labels

ROWS = [[1.0, 2.0], [3.0, 5.0], [-4.0, 0.5]]


@pytest.mark.parametrize(
    "given",
    [
        ROWS,
        np.array(ROWS),
        np.array(ROWS, np.float16),
        np.array(ROWS, ">f8"),
        np.asfortranarray(np.array(ROWS)),
        np.array(ROWS[::-1])[::-1],
        np.array([row[::-1] for row in ROWS])[:, ::-1],
        np.broadcast_to(np.array(ROWS), (3, 2)),
        torch.tensor(ROWS, dtype=torch.bfloat16),
        torch.tensor(ROWS, dtype=torch.float64, requires_grad=True),
        torch.tensor(ROWS).T.contiguous().T,
        torch.nn.Parameter(torch.tensor(ROWS)),
    ],
)
def test_embeddings_of_any_float_kind_become_float32_rows(given):
    rows = as_embeddings(given)
    assert torch.equal(rows, torch.tensor(ROWS))
    assert rows.is_contiguous()
    assert not rows.requires_grad


def test_arrays_are_not_written_through_when_they_are_read_only():
    array = np.array(ROWS, np.float32)
    array.setflags(write=False)
    as_embeddings(array)[0, 0] = 9.0
    assert array[0, 0] == 1.0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([[1, 2]], TypeError, r"embeddings must be floating point, got torch.int64: convert with numpy.asarray"),
        (np.zeros((2, 2), bool), TypeError, "must be floating point, got torch.bool"),
        (np.zeros((2, 2), complex), TypeError, "must be floating point, got torch.complex128"),
        ([["a", "b"]], TypeError, "embeddings must be numbers, got strings"),
        (np.array([[None, 1.0]]), TypeError, "embeddings must be numbers, got an array of object"),
        (np.zeros((2, 2), "M8[s]"), TypeError, "must be numbers, got an array of datetime64"),
        ([], ValueError, r"must be \[n, d\] with n >= 1 and d >= 1, got shape \(0,\)"),
        (np.zeros((0, 3)), ValueError, r"got shape \(0, 3\)"),
        (np.zeros((3, 0)), ValueError, r"got shape \(3, 0\)"),
        ([1.0, 2.0], ValueError, r"got shape \(2,\)"),
        (np.zeros((1, 2, 3)), ValueError, r"got shape \(1, 2, 3\)"),
        (
            [[1.0], [np.nan], [2.0], [-np.inf]],
            ValueError,
            r"embeddings: NaN or inf \(in float32\) in 2 of 4 rows \(first rows: 1, 3\): find where the encoder",
        ),
        ([[1e39, 0.0]], ValueError, r"NaN or inf \(in float32\) in 1 of 1 rows"),
        (np.full((9, 1), np.nan), ValueError, r"in 9 of 9 rows \(first rows: 0, 1, 2, 3, 4, ...\)"),
    ],
)
def test_embeddings_that_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        as_embeddings(given)


def test_zero_rows_are_refused_under_cosine_only():
    rows = [[0.0, 0.0], [1.0, 0.0], [0.0, -0.0]]
    with pytest.raises(ValueError, match=r"in 2 of 3 rows \(first rows: 0, 2\): drop these rows, or use metric"):
        as_embeddings(rows, metric="cosine")
    for metric in ("dot", "euclidean", None):
        assert len(as_embeddings(rows, metric=metric)) == 3


def test_bad_rows_are_named_by_their_ids_and_the_callers_word():
    with pytest.raises(ValueError, match=r"queries: NaN or inf .* \(first ids: 70\)"):
        as_embeddings([[1.0], [np.nan]], name="queries", ids=torch.tensor([60, 70]))


@pytest.mark.parametrize(
    "given", [[3, -1, 0], np.array([3, -1, 0], np.int8), torch.tensor([3, -1, 0], dtype=torch.int32)]
)
def test_labels_become_int64(given):
    labels = as_labels(given, 3)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [3, -1, 0]


def test_large_labels_do_not_collide():
    assert as_labels([2**24, 2**24 + 1, 2**62], 3).tolist() == [2**24, 2**24 + 1, 2**62]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([0.0, 1.0], TypeError, r"labels must be integers, got torch.float64: convert whole numbers with"),
        (torch.zeros(2), TypeError, "labels must be integers, got torch.float32"),
        ([True, False], TypeError, "labels must be integers, got a mask of booleans"),
        ([0], ValueError, "labels has 1 entries for 2 rows of embeddings: give one for each row"),
        ([0, 1, 2], ValueError, "labels has 3 entries for 2 rows"),
        ([[0], [1]], ValueError, r"labels must be 1-D, got shape \(2, 1\)"),
        ([0, -2], ValueError, "labels must be >= 0, or -1 for unlabelled, got -2"),
    ],
)
def test_labels_that_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        as_labels(given, 2)


def test_an_empty_list_is_a_list_of_no_integers():
    assert as_integers([], None, name="ids").dtype == torch.int64
    with pytest.raises(TypeError, match=r"ids must be integers, got torch\.float64"):
        as_integers(np.zeros(0), None, name="ids")


def test_ids_default_to_row_numbers():
    assert as_ids(None, 3).tolist() == [0, 1, 2]
    assert as_ids([7, 3, 5], 3).tolist() == [7, 3, 5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1, 2, 1, 2], r"ids must be unique, got 2 that occur more than once \(first: 1, 2\)"),
        ([0, -1, 2, 3], "ids must be >= 0, got -1: -1 stands for 'no neighbour'"),
        ([0, 1], "ids has 2 entries for 4 rows of the data set"),
    ],
)
def test_ids_that_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        as_ids(given, 4, of="the data set")


def test_groups_are_optional_and_may_be_negative():
    assert as_groups(None, 2) is None
    assert as_groups([-3, 2], 2).tolist() == [-3, 2]
    with pytest.raises(ValueError, match="groups has 1 entries for 2 rows of queries"):
        as_groups([1], 2, of="queries")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_metric("cos"), "metric must be one of 'cosine', 'dot', 'euclidean', got 'cos'"),
        (lambda: check_choice("on_empty", "x", ("skip", "raise")), "on_empty must be one of 'skip', 'raise', got 'x'"),
        (lambda: check_at_least("k", 0, 1), "k must be at least 1, got 0"),
        (lambda: check_at_least("margin", float("nan"), 0), "margin must be at least 0, got nan"),
        (
            lambda: check_dimension(torch.ones(1, 2), torch.ones(1, 3), names=("queries", "the bank")),
            "queries has 2 dimensions, the bank has 3: they must be equal",
        ),
        (
            lambda: check_device(torch.ones(1), torch.ones(1, device="meta"), names=("a", "b")),
            r"a is on cpu, b on meta: move one with .to\(device\)",
        ),
    ],
)
def test_checks_say_what_came(check, message):
    with pytest.raises(ValueError, match=message):
        check()


def test_checks_pass_what_is_right():
    check_metric("dot")
    check_choice("a", "x", ("x",))
    check_at_least("k", 1, 1)
    check_dimension(torch.ones(1, 2), torch.ones(3, 2), names=("a", "b"))
    check_device(torch.ones(1), torch.ones(2), names=("a", "b"))


def test_as_tensor_keeps_the_dtype():
    assert as_tensor(np.zeros(2, np.uint8), name="images").dtype == torch.uint8
    assert as_tensor(np.array([1, 2], ">i2"), name="x").tolist() == [1, 2]


@pytest.mark.parametrize("device", ["abc", "cuda:x"])
def test_a_device_that_there_is_not_is_named(device):
    with pytest.raises(ValueError, match=f"device must be one of torch's, such as 'cpu' or 'cuda:0', got '{device}'"):
        EmbeddingBank.encode(torch.nn.Identity(), torch.eye(2), labels=[0, 1], device=device)
