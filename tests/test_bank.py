import numpy as np
import pytest
import torch

from legolas_metric import EmbeddingBank, ExactIndex
from legolas_metric.files import write_tensors

X = [[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]]
Y = [0, 1, 1]


def test_cosine_rows_are_normalised_and_everything_has_a_default():
    bank = EmbeddingBank(X, Y)
    assert torch.allclose(bank.embeddings, torch.tensor([[0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]))
    assert (bank.ids.tolist(), bank.labels.tolist(), bank.groups) == ([0, 1, 2], Y, None)
    assert (len(bank), bank.step, bank.max_age) == (3, 0, 0)
    assert repr(bank) == "EmbeddingBank(3 rows, d=2, metric='cosine', step=0, max_age=0)"


def test_other_metrics_keep_the_rows():
    for metric in ("dot", "euclidean"):
        assert EmbeddingBank(X, Y, metric=metric).embeddings.tolist() == X


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_the_callers_tensors_are_never_written(metric):
    rows, labels, ids = torch.eye(3), torch.tensor(Y), torch.tensor([4, 5, 6])
    array = np.eye(3, dtype=np.float32)
    for given in (rows, array):
        bank = EmbeddingBank(given, labels, ids=ids, metric=metric)
        bank.update([5], [[0.0, 0.0, 1.0]], step=1)
        assert torch.equal(torch.as_tensor(given), torch.eye(3))
    assert ids.tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"embeddings": [[1.0, np.nan], [0.0, 1.0], [1.0, 1.0]]}, ValueError, r"NaN or inf .* \(first rows: 0\)"),
        (
            {"embeddings": [[1.0, 0.0], [0.0, np.inf], [1.0, 1.0]], "ids": [7, 8, 9]},
            ValueError,
            r"NaN or inf .* 1 of 3 rows \(first ids: 8\)",
        ),
        ({"embeddings": [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]}, ValueError, r"all zero, .* \(first rows: 1\)"),
        ({"embeddings": [[1, 0], [0, 1], [1, 1]]}, TypeError, "must be floating point"),
        ({"embeddings": [], "labels": []}, ValueError, "n >= 1"),
        ({"labels": [0, 1]}, ValueError, "labels has 2 entries for 3 rows of embeddings"),
        ({"labels": [0.0, 1.0, 1.0]}, TypeError, "labels must be integers"),
        ({"labels": [0, 1, -2]}, ValueError, "-1 for unlabelled, got -2"),
        ({"ids": [1, 1, 2]}, ValueError, "ids must be unique"),
        ({"ids": [1, 2]}, ValueError, "ids has 2 entries for 3 rows"),
        ({"groups": [1, 2]}, ValueError, "groups has 2 entries for 3 rows"),
    ],
)
def test_bad_input_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        EmbeddingBank(**{"embeddings": X, "labels": Y} | changes)


def test_rows_by_id():
    bank = EmbeddingBank(X, Y, ids=[30, 10, 20])
    assert bank.rows([20, 30, 20]).tolist() == [2, 0, 2]
    assert bank.rows([]).tolist() == []
    for unknown in ([11], [5], [99]):
        with pytest.raises(ValueError, match=rf"1 ids are not in the bank \(first: \[{unknown[0]}\]\)"):
            bank.rows([10, *unknown])
    with pytest.raises(TypeError, match="ids must be integers"):
        bank.rows([1.0])


def test_update_writes_rows_steps_and_tells_the_drift():
    bank = EmbeddingBank(X, Y, ids=[30, 10, 20], step=5)
    drift = bank.update([20, 30], [[1.0, 0.0], [6.0, 8.0]], step=9)
    assert drift == pytest.approx((-1 + 1) / 2)
    assert torch.allclose(bank.embeddings, torch.tensor([[0.6, 0.8], [0.0, 1.0], [1.0, 0.0]]))
    assert bank.steps.tolist() == [9, 5, 9]
    assert (bank.step, bank.max_age) == (9, 4)
    assert bank.update([10], [[0.0, 1.0]], step=9) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("ids", "rows", "step", "message"),
    [
        ([10, 99], [[1.0, 0.0]] * 2, 9, "1 ids are not in the bank"),
        ([10, 10], [[1.0, 0.0]] * 2, 9, "ids must be unique"),
        ([10], [[np.nan, 0.0]], 9, r"NaN or inf .* \(first ids: 10\)"),
        ([10], [[0.0, 0.0]], 9, "all zero"),
        ([10], [[1.0, 0.0, 0.0]], 9, "embeddings has 3 dimensions, the bank has 2"),
        ([10, 20], [[1.0, 0.0]], 9, "ids has 2 entries for 1 rows"),
        ([10], torch.tensor(1.0), 9, r"embeddings must be \[n, d\] with n >= 1 and d >= 1, got shape \(\)"),
        ([], torch.empty(0, 2), 9, r"embeddings must be \[n, d\] with n >= 1 and d >= 1, got shape \(0, 2\)"),
        ([10], [[1.0, 0.0]], 4, "step 4 is before the step at which these rows were written"),
    ],
)
def test_a_refused_update_changes_nothing(ids, rows, step, message):
    bank = EmbeddingBank(X, Y, ids=[30, 10, 20], step=5)
    before = bank.embeddings.clone()
    with pytest.raises(ValueError, match=message):
        bank.update(ids, rows, step=step)
    assert torch.equal(bank.embeddings, before)
    assert bank.steps.tolist() == [5, 5, 5]


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("groups", [None, [3, -4, 5]])
def test_save_and_load_bit_for_bit(tmp_path, metric, groups, generator):
    x = torch.randn(3, 17, generator=generator)
    bank = EmbeddingBank(x, [1, -1, 2], ids=[5, 3, 9], groups=groups, metric=metric, step=2)
    bank.update([3], x[:1], step=7)
    bank.save(tmp_path / "deep" / "bank.safetensors")
    loaded = EmbeddingBank.load(tmp_path / "deep" / "bank.safetensors")
    for name in ("embeddings", "labels", "ids", "steps"):
        assert torch.equal(getattr(loaded, name), getattr(bank, name))
    assert loaded.metric == metric
    assert groups is None or loaded.groups.tolist() == groups
    assert (loaded.groups is None) == (groups is None)
    loaded.update([9], x[:1], step=8)  # and it goes on
    assert loaded.max_age == 6


def test_a_loaded_bank_is_free_of_its_file(tmp_path):
    EmbeddingBank(X, Y).save(tmp_path / "bank.safetensors")
    loaded = EmbeddingBank.load(tmp_path / "bank.safetensors")
    loaded.update([0], [[0.0, 1.0]], step=1)
    assert torch.allclose(EmbeddingBank.load(tmp_path / "bank.safetensors").embeddings[0], torch.tensor([0.6, 0.8]))


def test_load_refuses_what_is_not_a_bank(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"embeddings": torch.eye(2)})
    with pytest.raises(ValueError, match=r"x.safetensors is not a saved EmbeddingBank: expected format"):
        EmbeddingBank.load(path)
    path.write_bytes(b"half")
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        EmbeddingBank.load(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        EmbeddingBank.load(tmp_path / "nowhere")


def test_the_callers_arrays_stay_their_own():
    x, y = np.eye(4, dtype=np.float32), np.arange(4) // 2
    ids, groups = np.arange(4) + 10, np.arange(4)
    bank = EmbeddingBank(x, y, ids=ids, groups=groups, metric="dot")
    index = ExactIndex(metric="dot").fit(x, y, ids=ids, groups=groups)
    for array in (x, y, ids, groups):
        array[:] = 0
    for rows in (bank, index.rows):
        assert torch.equal(rows.embeddings, torch.eye(4))
        assert rows.labels.tolist() == [0, 0, 1, 1]
        assert rows.ids.tolist() == [10, 11, 12, 13]
        assert rows.groups.tolist() == [0, 1, 2, 3]


def test_a_bank_whose_arrays_are_one_and_the_same_is_saved(tmp_path):
    y = torch.arange(8) // 2
    bank = EmbeddingBank(torch.randn(8, 4), y, groups=y)
    bank.groups = bank.labels
    bank.save(tmp_path / "bank.safetensors")
    assert EmbeddingBank.load(tmp_path / "bank.safetensors").groups.equal(y)
