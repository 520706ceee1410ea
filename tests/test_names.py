"""Labels and groups as people have them: names of every kind, with what is missing among them."""

import datetime

import numpy as np
import pandas as pd
import pytest
import torch

from legolas_metric import EmbeddingBank, ExactIndex, LabelRelation, PKSampler, evaluate_ranking
from legolas_metric.names import as_named
from legolas_metric.rows import as_embeddings, as_groups, as_ids, as_labels

TEXTS = ["bob", "ann", "bob", "cy"]
CODES = [1, 0, 1, 2]
DAYS = [datetime.date(2026, 1, 2), datetime.date(2026, 1, 1), datetime.date(2026, 1, 2), datetime.date(2026, 3, 1)]


@pytest.mark.parametrize(
    "given",
    [
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, object),
        np.array(TEXTS, "S"),
        [text.encode() for text in TEXTS],
        pd.Series(TEXTS),
        pd.Series(TEXTS, dtype="string"),
        pd.Series(TEXTS, dtype="category"),
        pd.Series(TEXTS, index=[9, 4, 7, 0]),
        pd.Index(TEXTS),
        pd.Categorical(TEXTS, categories=["cy", "zoe", "bob", "ann"]),
        DAYS,
        np.array(DAYS, "M8[D]"),
        np.array(DAYS, "M8[ns]"),
        pd.Series(pd.to_datetime(DAYS)),
    ],
)
def test_names_are_numbered_in_ascending_order(given):
    found = as_named(given, 4, name="labels")
    assert found.codes.tolist() == CODES
    assert found.names is not None
    assert list(found.names) == sorted(found.names)
    assert as_labels(given, 4).tolist() == CODES
    assert as_groups(given, 4).tolist() == CODES


def test_a_day_is_named_as_it_is_written():
    assert as_named(np.array(DAYS, "M8[D]"), 4, name="groups").names == ("2026-01-01", "2026-01-02", "2026-03-01")


@pytest.mark.parametrize(
    ("given", "codes"),
    [
        (["b", None, "a", float("nan")], [1, -1, 0, -1]),
        (pd.Series(["b", pd.NA, "a", None], dtype="string"), [1, -1, 0, -1]),
        (pd.Series(["b", None, "a", None], dtype="category"), [1, -1, 0, -1]),
        (pd.Series([5, pd.NA, 3, pd.NA], dtype="Int64"), [5, -1, 3, -1]),
        ([5, None, 3, pd.NA], [5, -1, 3, -1]),
        (pd.to_datetime(pd.Series(["2026-02-01", None, "2026-01-01", None])), [1, -1, 0, -1]),
        (np.ma.masked_array([5, 9, 3, 9], mask=[0, 1, 0, 1]), [5, -1, 3, -1]),
        (np.ma.masked_array(["b", "x", "a", "x"], mask=[0, 1, 0, 1]), [1, -1, 0, -1]),
    ],
)
def test_a_missing_name_is_unlabelled(given, codes):
    assert as_labels(given, 4).tolist() == codes


@pytest.mark.parametrize(
    "given", [pd.Series([3, 1, 2]), pd.Series([3, 1, 2], dtype="Int64"), [torch.tensor(i) for i in (3, 1, 2)],
              np.array([3, 1, 2], "u8"), pd.Categorical([3, 1, 2])]
)  # fmt: skip
def test_integers_stay_as_they_are(given):
    named = as_named(given, 3, name="labels")
    assert named.codes.tolist() == [3, 1, 2]
    assert named.names is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0.0, 1.0], r"labels must be integers, got torch.float64: convert whole numbers with numpy.asarray"),
        (torch.tensor([0.0, 1.0]), r"with \.long\(\)"),
        ([0, "a"], r"labels must be integers or names, got int, str"),
        ([0.5, None], r"labels must be integers or names, got float"),
        ([True, False], "got a mask of booleans: numpy.flatnonzero"),
        (np.array([2**64 - 1, 1], "u8"), r"labels must be below 2\^63, got 18446744073709551615"),
        (torch.tensor([2**64 - 1, 1], dtype=torch.uint64), r"labels must be below 2\^63"),
        ([2**64 - 1, 1], r"labels must be below 2\^63"),
        (np.eye(2, dtype=int), r"labels must be 1-D, got shape \(2, 2\).*LabelRelation.multi_label"),
        ([["a"], ["b"]], "labels"),
        (["a"], "labels has 1 entries for 2 rows"),
        (np.array([["a", "b"]]), r"labels must be 1-D, got shape \(1, 2\)"),
    ],
)
def test_what_is_no_label_is_refused_by_name(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        as_labels(given, 2)


def test_the_remedies_work():
    assert as_labels(np.asarray([0.0, 1.0]).astype("int64"), 2).tolist() == [0, 1]
    assert as_labels(np.asarray([True, False], dtype=int), 2).tolist() == [1, 0]
    assert as_ids(np.flatnonzero([False, True, True]), 2).tolist() == [1, 2]
    assert as_labels([str(v) for v in [0, "a"]], 2).tolist() == [0, 1]
    assert as_embeddings(np.asarray([[1, 2]], dtype="float32")).tolist() == [[1.0, 2.0]]
    LabelRelation.multi_label(np.eye(2, dtype=int))


@pytest.mark.parametrize(
    "given",
    [
        [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 4.0])],
        pd.Series([np.array([1.0, 2.0]), np.array([3.0, 4.0])]),
        pd.DataFrame({"x": [1.0, 3.0], "y": [2.0, 4.0]}),
        np.ma.masked_array([[1.0, 2.0], [3.0, 4.0]]),
        np.array([[1.0, 2.0], [3.0, 4.0]], object).astype("f8"),
    ],
)
def test_tables_as_people_have_them(given):
    assert as_embeddings(given).tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1.0, 2.0], [3.0]], "embeddings must be a table of numbers, with rows of one length"),
        ([torch.zeros(2), torch.zeros(3)], r"embeddings has rows of several shapes, \(2,\) and \(3,\)"),
        (np.ma.masked_array([[1.0, 2.0]], mask=[[0, 1]]), r"embeddings has masked entries: fill them with \.filled"),
        ([["a", "b"]], "embeddings must be numbers, got strings"),
    ],
)
def test_what_is_no_table_is_refused_by_name(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        as_embeddings(given)


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
def test_rows_too_long_for_float32_are_refused_at_the_door(metric):
    with pytest.raises(ValueError, match=r"a norm of up to 1e\+20.* in 1 of 2 rows .*: 1\): scale"):
        ExactIndex(metric=metric).fit([[1.0, 0.0], [1e20, 0.0]], [0, 1])
    EmbeddingBank([[1.0, 0.0], [1e20, 0.0]], [0, 1])


def test_a_bank_keeps_its_names(tmp_path):
    bank = EmbeddingBank(np.eye(4), TEXTS, groups=["mon", "tue", "mon", None])
    assert bank.labels.tolist() == CODES
    assert bank.label_names == ("ann", "bob", "cy")
    assert bank.group_names == ("mon", "tue")
    bank.save(tmp_path / "bank.safetensors")
    again = EmbeddingBank.load(tmp_path / "bank.safetensors")
    assert (again.label_names, again.group_names) == (bank.label_names, bank.group_names)
    assert again.groups.tolist() == [0, 1, 0, -1]


def test_queries_are_numbered_as_the_rows_that_they_ask():
    index = ExactIndex().fit(torch.eye(3), ["bob", "ann", "cy"])
    found = index.search(torch.eye(3)[:2], 3, labels=["cy", "zoe"], want="negative")
    assert [sorted(row) for row in found.ids.tolist()] == [[-1, 0, 1], [0, 1, 2]]
    with pytest.raises(TypeError, match="labels are integers, where those that they are compared with are names"):
        index.search(torch.eye(3)[:1], 1, labels=[1], want="negative")


@pytest.mark.parametrize("missing", [[None, None], np.array([np.nan, None], object), [-1, -1], torch.tensor([-1, -1])])
def test_queries_of_which_no_name_is_known_are_unlabelled(missing):
    index = ExactIndex().fit(torch.eye(3), ["bob", "ann", "cy"], groups=["x", "y", "x"])
    found = index.search(torch.eye(3)[:2], 3, labels=missing, groups=missing, want="negative")
    assert (found.ids == -1).all()  # they are no anchors
    assert (index.search(torch.eye(3)[:2], 3, labels=missing, groups=missing).ids >= 0).all()


def test_names_serve_wherever_labels_are_taken():
    x = np.random.default_rng(0).normal(size=(6, 3))
    names, codes = ["b", "b", "c", "c", "a", "a"], [1, 1, 2, 2, 0, 0]
    assert evaluate_ranking(x, names).rank == evaluate_ranking(x, codes).rank
    assert list(PKSampler(names, 2, 2)) == list(PKSampler(codes, 2, 2))


@pytest.mark.parametrize("broken", ["metric", "steps", "labels", "float steps", "short steps"])
def test_a_bank_from_elsewhere_is_refused_by_name(tmp_path, broken):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "bank.safetensors"
    EmbeddingBank(torch.eye(3), [0, 0, 1]).save(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata())
    if broken == "metric":
        del metadata["metric"]
    elif broken in tensors:
        del tensors[broken]
    else:
        tensors["steps"] = torch.full((3,), torch.nan) if broken == "float steps" else torch.zeros(2, dtype=torch.int64)
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match=rf"bank.safetensors is no whole EmbeddingBank.*{broken.split()[-1]}"):
        EmbeddingBank.load(path)
