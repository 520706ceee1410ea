"""A bank on disk: what comes back of it, what the rounding costs, and that damage is found."""

import copy
import itertools
import math
import os
import pickle
import re

import numpy as np
import pytest
import torch
from stored_cases import METRICS, STORAGES, small_bank, stored
from torch.utils.data import DataLoader

from legolas_metric import EmbeddingBank, StoredBank, StoredIndex, outputs

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
    mask = found.labels == found.labels[7]
    taken = (
        5,
        -1,
        slice(1, 90, 7),
        slice(None, None, 2),
        [3, -2],
        np.array([9, 4]),
        mask,
        mask.numpy(),
        torch.tensor([-1]),
        torch.tensor(4),
        torch.tensor(-4),
        np.int64(6),
        torch.zeros(3, 0, dtype=torch.int64),
    )
    for part in taken:
        assert torch.equal(found.embeddings[part], every[part])
        assert torch.equal(found.embeddings.view(torch.arange(150).flip(0))[part], every.flip(0)[part])
    assert torch.equal(torch.stack(list(found.embeddings)), every)
    for number in (150, -151, torch.tensor(150), [150]):
        with pytest.raises(IndexError, match=r"out of (bounds|range)"):
            _ = found.embeddings[number]
    some = torch.tensor([11, 3, 60])
    view = found.table.view(some).view(torch.tensor([2, 0]))
    assert torch.equal(view.embeddings[:], every[[60, 11]])
    assert torch.equal(view[:].ids, found.ids[[60, 11]])
    assert torch.equal(found.rows(found.ids[some]), some)


@pytest.mark.parametrize("storage", STORAGES)
def test_errors_are_bounds_for_the_smallest_numbers_too(tmp_path, storage):
    """Denormal rows: a float32 has no room there to be rounded up by a factor."""
    rows = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) * 10.0 ** -torch.arange(30, 45, 0.25)[:, None]
    for metric in ("dot", "euclidean"):
        found = StoredBank.write(tmp_path / "bank", rows, [0] * 60, metric=metric, storage=storage)
        away = (rows.double() - found.embeddings[:].double()).norm(dim=1)
        assert bool((away <= found.errors).all())
        assert found.error == float(found.errors.max())


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
    assert parts.load().label_names == parts.label_names == ("a", "b", "c")
    assert (kept.group_names, kept.steps.tolist()) == (("x", "y"), whole.steps.tolist())
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
    reader = StoredBank(tmp_path / "bank")
    second = first.refresh(Doubled(-1.0), data, step=4, batch_size=8, progress=False)
    assert (second.step, second.storage, second.metric) == (4, "float16", metric)
    new = EmbeddingBank.encode(Doubled(-1.0), data, **options)
    drift = torch.cosine_similarity(first.embeddings[:].double(), new.embeddings.double()).mean()
    assert second.drift == pytest.approx(float(drift))
    for old in (first, reader):  # whoever reads the old file goes on with it
        assert torch.equal(old.embeddings[:], expected.embeddings[:])
    assert torch.equal(StoredBank(tmp_path / "bank").embeddings[:], second.embeddings[:])
    assert sorted(os.listdir(tmp_path)) == sorted(["bank", f"{metric}-float16"])
    with pytest.raises(ValueError, match="steps only grow"):
        second.refresh(Doubled(), data, step=3)
    with pytest.raises(ValueError, match="49 examples, the bank 50 rows"):
        second.refresh(Doubled(), data[1:], step=5)


def failing_at(batch, wrong):
    """An encoder that gives something else from some batch on."""
    turn = itertools.count(1)
    return lambda x: wrong(x) if next(turn) >= batch else x


def raised(x):
    raise RuntimeError("no memory on the device")


@pytest.mark.parametrize(
    ("batch", "wrong", "message"),
    [
        (1, lambda x: x[:, :1], "what the encoder gives has 1 dimensions, the bank has 3"),
        (1, lambda x: torch.cat([x, x], 1), "what the encoder gives has 6 dimensions, the bank has 3"),
        (4, lambda x: x[:, :2], "has 2 dimensions, the first block has 3"),
        (4, raised, "no memory on the device"),
        (4, lambda x: x * math.nan, "NaN or inf"),
        (4, lambda x: x * 1e6, "holds numbers up to 65504"),
        (4, lambda x: x.int(), "must give floating-point rows, got torch.int32"),
        (4, lambda x: x.to(torch.complex64), "must give floating-point rows, got torch.complex64"),
    ],
)
def test_a_refresh_that_fails_leaves_the_old_file(tmp_path, batch, wrong, message):
    bank = EmbeddingBank(torch.randn(50, 3), torch.arange(50) // 5, metric="dot")
    found = stored(tmp_path, bank, "float16")
    before = found.path.read_bytes()
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        found.refresh(failing_at(batch, wrong), torch.randn(50, 3), step=1, batch_size=8, progress=False)
    assert found.path.read_bytes() == before
    assert os.listdir(tmp_path) == [found.path.name]


def test_a_bank_on_disk_is_written_in_another_storage(tmp_path):
    bank = EmbeddingBank(torch.randn(40, 5), list("abcd") * 10, groups=torch.arange(40) % 3, step=2)
    bank.update([7], torch.randn(1, 5), step=6)
    first = stored(tmp_path, bank, "float32")
    second = StoredBank.write(tmp_path / "second", first, storage="int8")
    third = stored(tmp_path, bank, "int8")
    assert second.path.read_bytes() == third.path.read_bytes()
    with pytest.raises(ValueError, match="labels, metric cannot be given beside a bank, which has its own: leave"):
        StoredBank.write(tmp_path / "third", bank, torch.arange(40), metric="dot")
    with pytest.raises(TypeError, match=r"rows must be a bank, an array .* got 5"):
        StoredBank.write(tmp_path / "third", 5, [0])
    with pytest.raises(ValueError, match=r"rows come in blocks \[b, d\], got one of 2 numbers"):
        StoredBank.write(tmp_path / "third", [[1.0, 2.0], [3.0, 4.0]], [0, 1])
    with pytest.raises(ValueError, match="there are no rows"):
        StoredBank.write(tmp_path / "third", [], [])
    with pytest.raises(ValueError, match="labels must be 1-D"):
        StoredBank.write(tmp_path / "third", [torch.randn(1, 2)], torch.tensor(1))


def test_a_bank_goes_to_other_processes_by_its_path(tmp_path, monkeypatch):
    """As workers that are spawned get it; relative paths mean the folder in which they were named."""
    monkeypatch.chdir(tmp_path)
    found = StoredBank.write("bank", small_bank(), storage="int8")
    every = found.embeddings[:]
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    sent = pickle.dumps([found, StoredIndex(found), found.embeddings.view(torch.tensor([4, 2]))])
    assert len(sent) < 10_000  # the rows are not in it
    bank, index, some = pickle.loads(sent)
    assert torch.equal(bank.embeddings[:], every)
    assert torch.equal(index.self_join(2).ids, StoredIndex(found).self_join(2).ids)
    assert torch.equal(some[:], every[[4, 2]])
    loader = DataLoader(found.embeddings, batch_size=50, num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(torch.cat(list(loader)), every)
    again = found.refresh(torch.nn.Identity(), torch.randn(150, 12), step=4, progress=False)
    assert os.listdir(tmp_path / "other") == []
    for one in (copy.copy(found), copy.deepcopy(found)):
        assert torch.equal(one.embeddings[:], every)
    with pytest.raises(ValueError, match="has been replaced since it was opened: open it anew"):
        pickle.loads(sent)
    assert not torch.equal(again.embeddings[:], every)


def test_what_was_written_is_returned_whoever_writes_next(tmp_path, monkeypatch):
    first, second = small_bank(seed=1), small_bank(seed=2)
    synced, turn = outputs._sync, itertools.count()

    def meanwhile(folder):
        synced(folder)
        if not next(turn):
            StoredBank.write(tmp_path / "bank", second)

    monkeypatch.setattr(outputs, "_sync", meanwhile)
    written = StoredBank.write(tmp_path / "bank", first)
    assert torch.equal(written.embeddings[:], first.embeddings)
    assert torch.equal(StoredBank(tmp_path / "bank").embeddings[:], second.embeddings)


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
    begins = [int(begin) for begin in re.findall(rb'"begin": (\d+)', whole)]
    paddings = {begin - 1 for begin in [*begins, whole.index(b'{"tables"')]}
    assert sum(whole[place] == 0 for place in paddings) > 3
    for place in places | paddings:
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
