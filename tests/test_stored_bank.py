"""A bank on disk: what comes back of it, what the rounding costs, and that damage is found."""

import math
import os
import re

import numpy as np
import pytest
import torch
from processes import python
from stored_cases import METRICS, STORAGES, small_bank, stored

from legolas_metric import EmbeddingBank, StoredBank

BITS = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("metric", METRICS)
def test_what_is_stored_comes_back_within_the_error_that_is_told(tmp_path, metric, storage):
    bank = small_bank(metric)
    found = stored(tmp_path, bank, storage)
    loaded = found.load()
    for name in ("labels", "ids", "groups", "steps"):
        assert torch.equal(getattr(loaded, name), getattr(bank, name))
    assert torch.equal(loaded.embeddings, found.embeddings[:])
    away = (bank.embeddings.double() - loaded.embeddings.double()).norm(dim=1)
    assert bool((away <= found.errors).all())
    assert torch.allclose(away.float(), found.errors, atol=2e-6 * float(bank.embeddings.norm(dim=1).max()))
    assert found.error == float(found.errors.max())
    assert (found.error == 0) == (storage == "float32")
    if storage in BITS:
        assert bool((away <= 2 * BITS[storage] * bank.embeddings.double().norm(dim=1)).all())
    if metric == "cosine":
        s, kept = (rows.double() @ rows.double().T for rows in (bank.embeddings, loaded.embeddings))
        assert float((s - kept).abs().max()) <= 2 * found.error + found.error**2 + 1e-6


def test_eight_bits_are_rounded_as_by_hand(tmp_path):
    rows = np.float32([[3.0, -1.0, 0.25], [0.0, 0.0, 0.0], [1e-3, 2e-3, -1e-3]])
    found = StoredBank.write(tmp_path / "bank", [rows], labels=[0, 0, 1], metric="dot", storage="int8")
    scale = np.abs(rows).max(1, keepdims=True) / np.float32(127)
    expected = np.rint(rows / np.where(scale > 0, scale, 1)).astype(np.float32) * scale
    np.testing.assert_array_equal(found.embeddings[:].numpy(), expected)


@pytest.mark.parametrize("storage", STORAGES)
def test_rows_come_by_number(tmp_path, storage):
    found = stored(tmp_path, small_bank(), storage)
    every = found.embeddings[:]
    for part in (slice(3, 9), slice(140, 400), slice(5, 5), torch.tensor([7, 2, 7]), torch.tensor([[1, 4], [0, 9]])):
        assert torch.equal(found.embeddings[part], every[part])
    some = torch.tensor([11, 3, 60])
    view = found.table.view(some).view(torch.tensor([2, 0]))
    assert torch.equal(view.embeddings[:], every[[60, 11]])
    assert torch.equal(view[:].ids, found.ids[[60, 11]])
    assert torch.equal(found.rows(found.ids[some]), some)


def test_rows_that_rounding_brings_to_one_direction_are_ties_on_disk_too(tmp_path):
    """Loading merges rows of one direction; what is stored is merged already, or searches would differ."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.cat([torch.ones(200, 1), 2e-6 * torch.randn(200, 2, generator=generator)], 1)
    bank = EmbeddingBank(rows, [0] * 200)
    found = stored(tmp_path, bank, "float16")
    assert len(found.embeddings[:].unique(dim=0)) < 200
    assert torch.equal(found.load().embeddings, found.embeddings[:])
    away = (bank.embeddings.double() - found.embeddings[:].double()).norm(dim=1)
    assert bool((away <= found.errors).all())


def test_names_steps_and_blocks(tmp_path):
    rows = torch.randn(7, 3)
    whole = EmbeddingBank(rows, list("abcabca"), groups=list("xxyyxxy"), step=5)
    whole.update([2], torch.randn(1, 3), step=9)
    kept = StoredBank.write(tmp_path / "a", whole)
    assert (kept.step, kept.max_age, kept.load().label_names) == (9, 4, ("a", "b", "c"))
    assert kept.load().steps.tolist() == whole.steps.tolist()
    parts = StoredBank.write(tmp_path / "b", (rows[i : i + 2] for i in range(0, 7, 2)), list("abcabca"), step=5)
    assert torch.equal(parts.embeddings[:], EmbeddingBank(rows, list("abcabca")).embeddings)
    assert parts.load().label_names == ("a", "b", "c")
    assert "float32" in repr(kept)


class Doubled(torch.nn.Module):
    def __init__(self, by=2.0):
        super().__init__()
        self.by = torch.nn.Parameter(torch.tensor(by))

    def forward(self, x):
        return x * self.by + torch.tensor([0.5, 0.0, 0.0])


@pytest.mark.parametrize("metric", METRICS)
def test_an_encoder_writes_straight_to_disk_and_refreshes(tmp_path, metric):
    data, labels = torch.randn(50, 3), torch.arange(50) // 5
    options = {"labels": labels, "metric": metric, "batch_size": 8, "progress": False}
    first = StoredBank.encode(tmp_path / "bank", Doubled(), data, storage="float16", step=1, **options)
    expected = stored(tmp_path, EmbeddingBank.encode(Doubled(), data, **options), "float16")
    assert torch.equal(first.embeddings[:], expected.embeddings[:])
    second = first.refresh(Doubled(-1.0), data, step=4, batch_size=8, progress=False)
    assert (second.step, second.storage, second.metric) == (4, "float16", metric)
    new = EmbeddingBank.encode(Doubled(-1.0), data, **options)
    drift = torch.cosine_similarity(first.embeddings[:].double(), new.embeddings.double()).mean()
    assert second.drift == pytest.approx(float(drift))
    assert torch.equal(first.embeddings[:], expected.embeddings[:])  # whoever reads the old file goes on with it
    assert torch.equal(StoredBank(tmp_path / "bank").embeddings[:], second.embeddings[:])
    assert sorted(os.listdir(tmp_path)) == sorted(["bank", f"{metric}-float16"])
    with pytest.raises(ValueError, match="steps only grow"):
        second.refresh(Doubled(), data, step=3)
    with pytest.raises(ValueError, match="49 examples, the bank 50 rows"):
        second.refresh(Doubled(), data[1:], step=5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda rows: [rows, rows], "there are 6 ids, and more rows than that"),
        (lambda rows: [rows[:4]], "there are 6 ids, and 4 rows came"),
        (lambda rows: [rows[:3], rows[3:, :2]], "a block of rows has 2 dimensions, the first block has 3"),
        (lambda rows: [rows[:3], rows[3:] * math.nan], r"NaN or inf .* \(first ids: 103, 104, 105\)"),
        (lambda rows: [rows * 1e6], r"storage='float16' holds numbers up to 65504.*use storage='bfloat16'"),
        (lambda rows: [rows[:3], rows[3:].int()], "must be floating point"),
    ],
)
def test_what_is_refused_leaves_the_old_file(tmp_path, bad, message):
    rows = torch.randn(6, 3)
    options = {"labels": [0, 0, 1, 1, 2, 2], "ids": torch.arange(100, 106), "metric": "dot", "storage": "float16"}
    StoredBank.write(tmp_path / "bank", [rows], **options)
    before = (tmp_path / "bank").read_bytes()
    with pytest.raises((ValueError, TypeError), match=message):
        StoredBank.write(tmp_path / "bank", bad(rows), **options)
    assert (tmp_path / "bank").read_bytes() == before
    assert os.listdir(tmp_path) == ["bank"]


def test_what_is_no_bank_is_told_by_name(tmp_path):
    with pytest.raises(FileNotFoundError):
        StoredBank(tmp_path / "none")
    path = tmp_path / "bank"
    path.write_bytes(b"something else entirely, and long enough to be read as a preamble")
    with pytest.raises(ValueError, match=r"bank is no stored bank: write one with StoredBank\.write"):
        StoredBank(path)
    with pytest.raises(TypeError, match="labels must be given"):
        StoredBank.write(path, [torch.ones(2, 2)])


def read(bank: StoredBank) -> None:
    _ = bank.embeddings[torch.arange(len(bank))], bank.errors, bank.load()


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_every_flipped_byte_and_every_cut_is_found(tmp_path, storage):
    """Bytes of each part of the file, paddings too: told with the file's name, by `verify` and before it is used."""
    path = stored(tmp_path, small_bank("dot"), storage).path
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    damaged = re.escape(str(path)) + " (is damaged|is no stored bank|has .* bytes of)"
    places = {0, 21, 22, 30, 38, 42, 60, 127, 128, len(whole) - 1, *generator.integers(128, len(whole), 60).tolist()}
    for place in places:
        broken = bytearray(whole)
        broken[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=damaged):
            StoredBank(path).verify()
        with pytest.raises(ValueError, match=damaged):
            read(StoredBank(path))
    for length in (0, 10, 128, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=damaged):
            StoredBank(path)
    path.write_bytes(whole)
    StoredBank(path).verify()


KILLED = """
import os, signal, sys, time
import numpy as np, torch
from legolas_metric import StoredBank
path, rounds = sys.argv[1], int(sys.argv[2])
rows, labels = torch.randn(8_000, 64, generator=torch.Generator().manual_seed(0)), torch.arange(8_000) // 4
found = []
sign = lambda step: 1 if step % 2 else -1
def write(step):
    StoredBank.write(path, (sign(step) * block for block in rows.split(1000)), labels, step=step, storage="float16")
write(1)
start = time.perf_counter()
write(2)
took = time.perf_counter() - start  # on this machine, now
for wait in np.random.default_rng(0).uniform(0, 3 * took, rounds):
    first = StoredBank(path).step
    child = os.fork()
    if not child:
        for step in range(first + 1, 10**6):
            write(step)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    bank = StoredBank(path)
    bank.verify()
    assert torch.equal(bank.embeddings[:].sign(), (sign(bank.step) * rows).half().sign())
    found.append(bank.step)
left = len(os.listdir(os.path.dirname(path)))
write(found[-1] + 1)
print(len(found), len(set(found)), left, len(os.listdir(os.path.dirname(path))))
"""


def test_a_writer_killed_at_any_moment_leaves_the_old_bank_or_the_new(tmp_path):
    (tmp_path / "banks").mkdir()
    done = python("-c", KILLED, tmp_path / "banks" / "bank", 12, check=True)
    rounds, banks, _, after = map(int, done.stdout.split())
    assert rounds == 12
    assert banks > 2  # some kills came before a new bank was whole, and some after
    assert after == 1  # what the kills left went with the next write
