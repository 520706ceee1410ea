"""What the system does to a run: a full disk, a write that comes short, a clock that jumps."""

import errno
import itertools
import os
import subprocess
from types import SimpleNamespace

import pytest
import torch
from stored_cases import small_bank

from legolas_metric import EmbeddingBank, RunHistory, StoredBank
from legolas_metric.files import write_named, write_text

FULL = r"cannot write .*{name}.*: .*What was there is as it was: make room, or write elsewhere"


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


WRITERS = {
    "bank.save": lambda path, bank: bank.save(path),
    "StoredBank.write": lambda path, bank: StoredBank.write(path, bank),
    "write_named": lambda path, bank: write_named(path.with_suffix(".npz"), {"embeddings": bank.embeddings}),
    "write_text": lambda path, bank: write_text(path, "x" * bank.embeddings.numel()),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_and_what_was_there_stays(small_disk, name):
    write, path = WRITERS[name], small_disk / "bank"
    write(path, small_bank(n=150))
    (before,) = small_disk.iterdir()
    content = before.read_bytes()
    with pytest.raises(OSError, match=FULL.format(name="bank")) as told:
        write(path, small_bank(n=20_000, d=24))
    assert told.value.errno == errno.ENOSPC
    assert [file.read_bytes() for file in small_disk.iterdir()] == [content]


def test_a_disk_that_fills_while_a_bank_is_written(small_disk, monkeypatch):
    """Not seen beforehand: the write itself is refused."""
    StoredBank.write(small_disk / "bank", small_bank())
    monkeypatch.setattr("shutil.disk_usage", lambda file: SimpleNamespace(free=1 << 40))
    rows = (torch.randn(500, 64) for _ in range(40))
    with pytest.raises(OSError, match=FULL.format(name="bank")):
        StoredBank.write(small_disk / "bank", rows, torch.arange(20_000) // 4)
    assert os.listdir(small_disk) == ["bank"]
    StoredBank(small_disk / "bank").verify()


def test_a_line_of_the_history_is_whole_where_the_system_takes_it_in_parts(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:7]))
    history = RunHistory(tmp_path)
    history.event(epoch=1, step=2, what="stop", why="x" * 100)
    assert history.broken == 0
    assert [entry["why"] for entry in history.events] == ["x" * 100]


def test_a_history_that_a_full_disk_cut_short_tells_so_and_goes_on(small_disk):
    history = RunHistory(small_disk)

    def fill() -> None:
        for epoch in itertools.count():
            history.epoch(epoch=epoch, step=epoch, values={"loss": 0.5, "words": "x" * 5000})

    with pytest.raises(OSError, match=r"cannot write to .*history\.jsonl: No space left"):
        fill()
    kept = len(history.epochs)
    os.truncate(history.path, os.path.getsize(history.path) - 10_000)  # room, and a line that is cut
    history.epoch(epoch=999, step=999, values={"loss": 0.25})
    assert history.series("loss")[999] == 0.25
    assert history.broken == 1
    assert kept - 3 <= len(history.epochs) <= kept


def test_a_clock_that_jumps_changes_no_order(tmp_path, monkeypatch):
    """Lines count by their order and their epochs, not by when they say they were written."""
    jumps = itertools.cycle([1e9, 5e8, 2e9, 0.0])
    monkeypatch.setattr("time.time", lambda: next(jumps))
    history = RunHistory(tmp_path)
    history.start(seed=0)
    for epoch, loss in ((0, 4.0), (1, 3.0), (2, 9.0), (2, 2.0)):
        history.epoch(epoch=epoch, step=epoch, values={"loss": loss})
    assert history.series("loss") == {0: 4.0, 1: 3.0, 2: 2.0}
    bank = small_bank()
    assert isinstance(bank, EmbeddingBank)
    bank.save(tmp_path / "bank")
    os.utime(tmp_path / "bank", (0, 2**33))  # of a file that claims to come from the year 2242
    assert torch.equal(EmbeddingBank.load(tmp_path / "bank").embeddings, bank.embeddings)
