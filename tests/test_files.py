import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from legolas_metric import EmbeddingBank
from legolas_metric.files import (
    SUFFIXES,
    check_writable,
    read_embeddings,
    read_tensors,
    whole_file,
    write_json,
    write_tensors,
    write_text,
)

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 0, 1, 1])


def save(path: Path, **arrays: np.ndarray) -> Path:
    """Save named arrays, or the first alone, in the format of the extension."""
    match path.suffix:
        case ".npz":
            np.savez(path, **arrays)
        case ".npy":
            np.save(path, next(iter(arrays.values())))
        case ".pt":
            torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
        case ".safetensors":
            write_tensors(path, {name: torch.from_numpy(array) for name, array in arrays.items()})
    return path


class Bomb:
    """A pickle that leaves a trace when it is executed."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
def test_named_arrays_come_back(tmp_path, suffix):
    images = np.zeros((4, 2, 2), np.uint8)
    path = save(tmp_path / f"run{suffix}", embeddings=X, labels=Y, ids=np.arange(4) + 5, groups=-Y, images=images, x=-Y)
    read = read_embeddings(path)
    assert np.array_equal(read.embeddings, X)
    assert np.array_equal(read.labels, Y)
    assert read.ids.tolist() == [5, 6, 7, 8]
    assert read.groups.tolist() == [0, 0, -1, -1]
    assert read.images.shape == (4, 2, 2)
    assert read.images.dtype == torch.uint8


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("labels_suffix", SUFFIXES)
def test_labels_come_from_a_second_file_of_any_kind(tmp_path, suffix, labels_suffix):
    path = save(tmp_path / f"x{suffix}", embeddings=X)
    assert read_embeddings(path).labels is None
    labels = save(tmp_path / f"y{labels_suffix}", labels=Y)
    read = read_embeddings(path, labels=labels)
    assert np.array_equal(read.embeddings, X)
    assert np.array_equal(read.labels, Y)
    assert (read.ids, read.groups, read.images) == (None, None, None)


def test_the_second_file_wins(tmp_path):
    path = save(tmp_path / "x.npz", embeddings=X, labels=Y)
    assert read_embeddings(path, labels=save(tmp_path / "y.npy", labels=Y + 7)).labels.tolist() == [7, 7, 8, 8]


def test_a_tensor_alone_in_either_pt_format(tmp_path):
    for new in (True, False):
        torch.save(torch.from_numpy(X), tmp_path / "x.pt", _use_new_zipfile_serialization=new)
        assert np.array_equal(read_embeddings(tmp_path / "x.pt").embeddings, X)


def test_foreign_byte_order_and_memory_order_are_read(tmp_path):
    path = save(tmp_path / "x.npz", embeddings=np.asfortranarray(X.astype(">f8")), labels=Y.astype(">i2"))
    assert np.array_equal(read_embeddings(path).embeddings, X)
    assert np.array_equal(read_embeddings(path).labels, Y)


def test_a_saved_bank_is_a_file_of_embeddings(tmp_path):
    EmbeddingBank(X + 1, Y, ids=[3, 1, 4, 5], groups=[0, 1, 0, 1], metric="dot").save(tmp_path / "bank.safetensors")
    read = read_embeddings(tmp_path / "bank.safetensors")
    assert np.array_equal(read.embeddings, X + 1)
    assert read.ids.tolist() == [3, 1, 4, 5]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0, 1, 40, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, suffix, kept):
    path = save(tmp_path / f"x{suffix}", embeddings=np.random.default_rng(0).random((64, 32)))
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"x\.\w+ is not a whole (NumPy|\.pt|safetensors) file .*: write it again"):
        read_embeddings(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"hello, world\n" * 9, b"<html>" * 99, bytes(range(256))])
def test_a_file_of_something_else_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not a whole .* file"):
        read_embeddings(path)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt"])
def test_a_damaged_file_is_refused_or_read_as_it_was(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", embeddings=np.random.default_rng(0).random((64, 32)))
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_embeddings(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017  (either outcome is right)


@pytest.mark.parametrize(
    "kind", ["npz member", "npy", "npy that is a pickle", "pt", "pt that is a pickle", "legacy pt"]
)
def test_no_pickle_is_ever_executed(tmp_path, kind):
    trace = tmp_path / "executed"
    bomb = Bomb(trace)
    objects = np.array([bomb], dtype=object)
    path = tmp_path / ("x.npz" if "npz" in kind else "x.npy" if "npy" in kind else "x.pt")
    match kind:
        case "npz member":
            np.savez(path, embeddings=X, labels=objects)
        case "npy":
            np.save(path, objects, allow_pickle=True)
        case "pt":
            torch.save({"embeddings": bomb}, path)
        case "legacy pt":
            torch.save({"embeddings": bomb}, path, _use_new_zipfile_serialization=False)
        case _:
            path.write_bytes(pickle.dumps(bomb))
    with pytest.raises(ValueError, match=r"holds pickled Python objects, which are never executed: save"):
        read_embeddings(path)
    with pytest.raises(ValueError, match="never executed"):
        read_embeddings(save(tmp_path / "good.npz", embeddings=X), labels=path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(bomb))
    assert trace.exists()  # the bomb was live


@pytest.mark.parametrize(
    ("name", "arrays", "error", "message"),
    [
        ("x.npz", {"x": X, "y": Y}, ValueError, "x.npz has no array named 'embeddings'; it holds x, y"),
        ("x.safetensors", {"x": X}, ValueError, "has no array named 'embeddings'; it holds x"),
        ("x.pt", {"x": X}, ValueError, "has no array named 'embeddings'; it holds x"),
        ("x.npz", {}, ValueError, "it holds nothing"),
        ("x.npz", {"embeddings": X, "labels": np.array(["a", "b"])}, TypeError, "npz: labels must be numbers, got str"),
        ("x.npy", {"embeddings": np.array(["a"])}, TypeError, "npy: embeddings must be numbers, got strings"),
    ],
)
def test_files_without_usable_arrays_are_refused(tmp_path, name, arrays, error, message):
    with pytest.raises(error, match=message):
        read_embeddings(save(tmp_path / name, **arrays))


def test_other_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz: no such file"):
        read_embeddings(tmp_path / "nowhere.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder\.npz: no such file"):
        read_embeddings(tmp_path / "folder.npz")
    (tmp_path / "x.csv").write_text("1,2\n")
    with pytest.raises(ValueError, match=r"unknown extension '.csv': expected one of .npz, .npy, .safetensors, .pt"):
        read_embeddings(tmp_path / "x.csv")
    torch.save([1, 2], tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x.pt holds a list, not a tensor or a dict of tensors: save tensors only"):
        read_embeddings(tmp_path / "x.pt")
    labels = save(tmp_path / "y.npz", classes=Y)
    with pytest.raises(ValueError, match=r"y.npz has no array named 'labels'; it holds classes"):
        read_embeddings(save(tmp_path / "x.npy", embeddings=X), labels=labels)


def test_writing_makes_folders_and_leaves_one_file(tmp_path):
    path = tmp_path / "a" / "b" / "values.json"
    write_json(path, {"x": 1, "name": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"x": 1, "name": "é"}
    write_text(path, "second")
    assert path.read_text() == "second"
    assert os.listdir(path.parent) == ["values.json"]


def test_written_files_have_the_usual_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "x.txt", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o640


def test_tensors_come_back_with_their_metadata(tmp_path):
    x = torch.arange(6.0).view(2, 3).T.requires_grad_()
    write_tensors(tmp_path / "x.safetensors", {"x": x}, {"kind": "test"})
    tensors, metadata = read_tensors(tmp_path / "x.safetensors")
    assert torch.equal(tensors["x"], x)
    assert metadata == {"kind": "test"}


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_what_was_there(tmp_path, before, error):
    path = tmp_path / "x.txt"
    if before is not None:
        path.write_text(before)

    def interrupted():
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert os.listdir(tmp_path) == ([] if before is None else ["x.txt"])
    assert before is None or path.read_text() == before


def test_a_killed_write_leaves_no_file_under_the_final_name(tmp_path):
    script = (
        "import os, sys; from legolas_metric.files import whole_file\n"
        "with whole_file(sys.argv[1]) as t: t.write_text('half'); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path / "x.txt"], check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "x.txt").exists()


def test_what_cannot_be_written_is_left_as_it_was(tmp_path):
    write_json(tmp_path / "x.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"x": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"x": 1}


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")  # not by permissions, which do not bind root
    message = r"cannot write to .*file.*: .*\. Choose another output folder\."
    ran = []
    with pytest.raises(OSError, match=message), whole_file(tmp_path / "file" / "x.txt"):
        ran.append(True)
    assert not ran
    with pytest.raises(OSError, match=message):
        check_writable(tmp_path / "file" / "deeper")
    check_writable(tmp_path / "new")
    assert os.listdir(tmp_path / "new") == []
