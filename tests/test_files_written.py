"""Files are written whole or not at all, wherever the writing ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import python
from test_files import X, save

from legolas_metric.files import (
    check_writable,
    read_tensors,
    whole_file,
    write_json,
    write_tensors,
    write_text,
)
from legolas_metric.outputs import check_not_read


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
        "import os, sys; from legolas_metric.outputs import whole_file\n"
        "with whole_file(sys.argv[1]) as t: t.write_text('half'); os.kill(os.getpid(), 9)"
    )
    assert python("-c", script, tmp_path / "x.txt").returncode == -9
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


def killed_while_writing(path: Path) -> None:
    script = (
        "import os, sys; from legolas_metric.outputs import whole_file\n"
        "with whole_file(sys.argv[1]) as t: t.write_text('half'); os.kill(os.getpid(), 9)"
    )
    assert python("-c", script, path).returncode == -9


@pytest.mark.parametrize("name", ["x.txt", "a[b]*?.npz", "é" * 60 + ".txt"])
def test_the_next_write_removes_what_a_kill_left(tmp_path, name):
    other = tmp_path / f".{name}.notes.txt"
    other.write_text("mine")
    killed_while_writing(tmp_path / name)
    assert len(os.listdir(tmp_path)) == 2
    with whole_file(tmp_path / name) as held:  # one that is being written is left alone
        held.write_text("one")
        write_text(tmp_path / name, "two")
        assert held.exists()
    assert sorted(os.listdir(tmp_path)) == sorted([other.name, name])
    assert (tmp_path / name).read_text() == "one"


def test_a_name_as_long_as_may_be_is_written(tmp_path):
    write_text(tmp_path / ("x" * 251 + ".txt"), "x")
    assert len(os.listdir(tmp_path)) == 1


def test_a_link_is_written_through_and_permissions_are_kept(tmp_path):
    (tmp_path / "deep").mkdir()
    target, link = tmp_path / "deep" / "x.txt", tmp_path / "link.txt"
    link.symlink_to("deep/x.txt")
    write_text(link, "new")  # also where it leads to nothing yet
    target.chmod(0o604)
    write_text(link, "newer")
    assert link.is_symlink()
    assert target.read_text() == "newer"
    assert target.stat().st_mode & 0o777 == 0o604
    write_tensors(tmp_path / "x.safetensors", {"x": torch.ones(2)})
    (tmp_path / "x.safetensors").chmod(0o640)
    write_tensors(tmp_path / "x.safetensors", {"x": torch.zeros(2)})
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path / "deep") == ["x.txt"]


def test_pipes_and_devices_are_written_to_and_stay(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["timeout", "300", "cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    write_text(tmp_path / "pipe", "through")
    assert reader.communicate()[0] == b"through"
    assert (tmp_path / "pipe").is_fifo()
    write_text("/dev/null", "nothing")
    assert Path("/dev/null").is_char_device()
    script = "from legolas_metric.outputs import whole_file\nwith whole_file('/dev/stdout') as t: t.write_text('b\\n')"
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)
    assert "b\n" in (tmp_path / "out").read_text()
    assert sorted(os.listdir(tmp_path)) == ["out", "pipe"]


def test_a_renaming_is_synced_with_its_folder(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(handle):
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "x.txt", "x")
    assert synced[0].startswith(".x.txt.")
    assert synced[1] == tmp_path.name


def test_an_output_that_is_read_is_refused_by_any_name(tmp_path):
    path = save(tmp_path / "x.npz", embeddings=X)
    (tmp_path / "link.npz").symlink_to("x.npz")
    for output in (path, tmp_path / "link.npz", tmp_path / "." / "x.npz"):
        with pytest.raises(ValueError, match=r"would be overwritten, but .*x.npz is read from there"):
            check_not_read(output, [None, tmp_path / "nowhere.npz", path])
    check_not_read(tmp_path / "new.npz", [path])
