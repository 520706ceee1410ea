import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from legolas_metric import EmbeddingBank
from legolas_metric.files import (
    ARRAYS,
    read_embeddings,
    write_tensors,
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


@pytest.mark.parametrize("suffix", ARRAYS)
@pytest.mark.parametrize("labels_suffix", ARRAYS)
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


@pytest.mark.parametrize("suffix", ARRAYS)
@pytest.mark.parametrize("kept", [0, 1, 40, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, suffix, kept):
    path = save(tmp_path / f"x{suffix}", embeddings=np.random.default_rng(0).random((64, 32)))
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"x\.\w+ is not a whole (NumPy|\.pt|safetensors) file .*: write it again"):
        read_embeddings(path)


@pytest.mark.parametrize("suffix", ARRAYS)
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
    with pytest.raises(IsADirectoryError, match=r"folder\.npz is a folder, not a file"):
        read_embeddings(tmp_path / "folder.npz")
    (tmp_path / "x.xls").write_text("1,2\n")
    with pytest.raises(ValueError, match=r"unknown extension '.xls': expected one of .npz, .npy, .safetensors, .pt"):
        read_embeddings(tmp_path / "x.xls")
    torch.save([1, 2], tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x.pt holds a list, not a tensor or a dict of tensors: save tensors only"):
        read_embeddings(tmp_path / "x.pt")
    labels = save(tmp_path / "y.npz", classes=Y)
    with pytest.raises(ValueError, match=r"y.npz has no array named 'labels'; it holds classes"):
        read_embeddings(save(tmp_path / "x.npy", embeddings=X), labels=labels)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt"])
def test_what_cannot_be_read_is_not_called_broken(tmp_path, monkeypatch, suffix):
    path = save(tmp_path / f"x{suffix}", embeddings=X)

    def unreadable(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", unreadable)
    monkeypatch.setattr(torch, "load", unreadable)
    with pytest.raises(OSError, match=r"cannot read .*: Permission denied"):
        read_embeddings(path)


def claims(path: Path, shape: tuple[int, ...], *, packed: bool = False, zeros: int = 0) -> Path:
    """An array whose header tells of more than there is, alone or in an archive."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    if path.suffix == ".npy":
        path.write_bytes(header.getvalue() + bytes(100))
        return path
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive, archive.open("embeddings.npy", "w", force_zip64=True) as member:
        member.write(header.getvalue())
        for _ in range(zeros):
            member.write(bytes(1 << 24))
    return path


def test_an_array_that_is_larger_than_its_file_is_cut_short(tmp_path):
    for name in ("x.npy", "x.npz"):
        with pytest.raises(ValueError, match="is not a whole NumPy file"):
            read_embeddings(claims(tmp_path / name, (1 << 40, 1 << 20)))


def test_an_archive_that_unpacks_to_gigabytes_is_refused_by_its_header(tmp_path, monkeypatch):
    path = claims(tmp_path / "x.npz", (1 << 20, 9), packed=True, zeros=3)
    monkeypatch.setattr("legolas_metric.files.UNPACKED", 1 << 25)
    monkeypatch.setattr(np, "load", pytest.fail)
    with pytest.raises(ValueError, match=r"x.npz would unpack .* bytes to 50,331,776, which embeddings never do"):
        read_embeddings(path)


def test_more_than_the_memory_is_refused_by_its_header(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 10}[name])
    for suffix in (".npz", ".npy"):
        save(tmp_path / f"x{suffix}", embeddings=np.zeros((5, 5), np.float32))
        assert read_embeddings(tmp_path / f"x{suffix}").embeddings.shape == (5, 5)
        save(tmp_path / f"x{suffix}", embeddings=np.zeros((5, 6), np.float32))
        with pytest.raises(ValueError, match=r"more than this machine's memory"):
            read_embeddings(tmp_path / f"x{suffix}")


def test_a_file_is_not_read_whole_to_look_at_how_it_begins(tmp_path, monkeypatch):
    for suffix in (".npy", ".pt"):
        (tmp_path / f"x{suffix}").write_bytes(b"hello")
        monkeypatch.setattr(Path, "read_bytes", pytest.fail)
        with pytest.raises(ValueError, match="is not a whole"):
            read_embeddings(tmp_path / f"x{suffix}")
        monkeypatch.undo()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_arrays_of_other_names_are_read_by_their_keys(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", feats=X, pids=Y, ids=np.arange(4) + 9)
    read = read_embeddings(path, embeddings_key="feats", labels_key="pids")
    assert np.array_equal(read.embeddings, X)
    assert read.labels.tolist() == Y.tolist()
    assert read.ids.tolist() == [9, 10, 11, 12]
    told = r"no array named 'embeddings'; it holds .*: name the one that is meant with --embeddings-key"
    with pytest.raises(ValueError, match=told):
        read_embeddings(path)
    with pytest.raises(ValueError, match=r"no array named 'y', which labels_key \(--labels-key\) asks for"):
        read_embeddings(path, embeddings_key="feats", labels_key="y")


def test_names_of_classes_and_sessions_are_numbered(tmp_path):
    names, days = np.array(["bob", "ann", "bob", "cy"]), np.array(["2020-01-02", "2020-01-01"] * 2, "datetime64[D]")
    read = read_embeddings(save(tmp_path / "x.npz", embeddings=X, labels=names, groups=days))
    assert read.labels.tolist() == [1, 0, 1, 2]
    assert read.groups.tolist() == [1, 0, 1, 0]
    labels = save(tmp_path / "y.npy", labels=names)
    assert read_embeddings(save(tmp_path / "x.npy", embeddings=X), labels=labels).labels.tolist() == [1, 0, 1, 2]
