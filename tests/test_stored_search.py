"""Searching and mining a bank on disk gives, bit for bit, what the same rows in memory give, within its ceiling."""

import sys
import threading

import numpy as np
import pytest
import torch
from oracles import neighbors
from processes import python
from stored_cases import METRICS, STORAGES, small_bank, stored

from legolas_metric import (
    DistanceWeightedMiner,
    EmbeddingBank,
    ExactIndex,
    FaissIndex,
    FalseNegativeGuard,
    FullHardMiner,
    HardMiner,
    LabelRelation,
    MultiSimilarityMiner,
    RandomMiner,
    SemiHardMiner,
    StoredBank,
    StoredIndex,
)
from legolas_metric.distributed import World
from legolas_metric.index.stored_index import Plan
from legolas_metric.miners.sharing import Sharing

WANTS = ("negative", "positive", "cross_group_positive", "any")


@pytest.fixture
def blocks(monkeypatch):
    """Few queries against few rows at a time, whatever the memory."""
    monkeypatch.setattr(Plan, "of", lambda rows, q, k: Plan(37, 33, 1))


def window_of(rows, kind, generator):
    """Bounds at similarities that occur, where ties and the edge itself matter; NaN for none."""
    low, high = (torch.randn(len(rows), generator=generator).double() * 0.3 - shift for shift in (0.5, 0.0))
    if kind == "euclidean":
        low, high = low - 4, high - 3
    low[::5], high[::7] = torch.nan, torch.nan
    return torch.fmin(low, high), torch.fmax(low, high)


@pytest.mark.parametrize(("metric", "storage"), list(zip(METRICS, STORAGES[::-1])))
def test_searches_equal_those_in_memory(tmp_path, blocks, metric, storage):
    found = stored(tmp_path, small_bank(metric, n=90), storage)
    loaded = found.load()
    index = ExactIndex(metric=metric).fit(loaded.embeddings, loaded.labels, ids=loaded.ids, groups=loaded.groups)
    on_disk, window = StoredIndex(found), window_of(loaded.embeddings, metric, torch.Generator().manual_seed(5))
    for want, k in zip(WANTS, (1, 4, 2, 200)):
        for farthest, bounds in ((False, None), (True, None), (False, window), (True, window)):
            asked = {"want": want, "farthest": farthest, "window": bounds}
            mine, theirs = on_disk.self_join(k, **asked), index.self_join(k, **asked)
            assert torch.equal(mine.ids, theirs.ids), (want, farthest, bounds is not None)
            assert torch.equal(mine.similarities, theirs.similarities)
    others = torch.randn(30, 12)
    for known in ({}, {"labels": loaded.labels[:30], "ids": loaded.ids[:30], "groups": loaded.groups[:30]}):
        want = "cross_group_positive" if known else "any"
        mine, theirs = (one.search(others, 3, want=want, **known) for one in (on_disk, index))
        assert torch.equal(mine.ids, theirs.ids)
        assert torch.equal(mine.similarities, theirs.similarities)


@pytest.mark.parametrize("want", WANTS)
def test_searches_equal_the_oracle(tmp_path, monkeypatch, want):
    monkeypatch.setattr(Plan, "of", lambda rows, q, k: Plan(25, 17, 1))
    found = stored(tmp_path, small_bank(n=48, d=5), "int8")
    loaded = found.load()
    assert loaded.groups is not None
    rows = [
        (x.numpy(), int(label), int(name), int(group))
        for x, label, name, group in zip(loaded.embeddings, loaded.labels, loaded.ids, loaded.groups)
    ]
    window = window_of(loaded.embeddings, "cosine", torch.Generator().manual_seed(0))
    for bounds in (None, window):
        ids, similarities = neighbors(rows, rows, 4, want=want, metric="cosine", window=bounds)
        mine = StoredIndex(found).self_join(4, want=want, window=bounds)
        np.testing.assert_array_equal(mine.ids.numpy(), ids)
        np.testing.assert_array_equal(mine.similarities.numpy(), similarities)


@pytest.mark.parametrize("precision", ["int16", "bfloat16", "float32"])
def test_compiled_searches_equal_those_in_memory(tmp_path, monkeypatch, precision):
    """Rows enough for the engine's tiles, clustered, so that blocks hold ties and floors that are known beforehand."""
    generator = torch.Generator().manual_seed(2)
    centres = torch.randn(30, 16, generator=generator).repeat_interleave(20, 0)
    rows = centres + 0.3 * torch.randn(600, 16, generator=generator)
    rows[300:320] = rows[:20]
    bank = EmbeddingBank(rows, torch.arange(600) // 20, groups=torch.arange(600) % 3)
    found = stored(tmp_path, bank, "int8")
    loaded = found.load()
    index = ExactIndex(precision=precision).fit(loaded.embeddings, loaded.labels, groups=loaded.groups)
    monkeypatch.setattr(Plan, "of", lambda rows, q, k: Plan(300, 200, 16))
    for farthest, want, k in ((False, "negative", 1), (False, "negative", 33), (True, "any", 3)):
        mine = StoredIndex(found, precision=precision).self_join(k, want=want, farthest=farthest)
        theirs = index.self_join(k, want=want, farthest=farthest)
        assert torch.equal(mine.ids, theirs.ids)
        assert torch.equal(mine.similarities, theirs.similarities)


MINERS = {
    "full hard": lambda: FullHardMiner(),
    "semi-hard, all positives": lambda: SemiHardMiner(positive="all", margin=0.3),
    "semi-hard, random": lambda: SemiHardMiner(margin=0.3, per_anchor=2, on_empty="hardest"),
    "hard, guarded": lambda: HardMiner(guard=FalseNegativeGuard(relative=None, near_duplicate=0.05), ranks=(1, 5)),
    "mixed": lambda: HardMiner(mix=0.5, seed=3),
    "across groups": lambda: FullHardMiner(relation=LabelRelation(positive_group="other")),
    "random": lambda: RandomMiner(seed=2),
}


@pytest.mark.filterwarnings("ignore:the guard rejected")
@pytest.mark.parametrize("name", MINERS)
def test_miners_find_what_they_find_in_memory(tmp_path, blocks, monkeypatch, name):
    metric, storage = ("dot", "float16") if "random" in name else ("cosine", "int8")
    found = stored(tmp_path, small_bank(metric, n=90), storage)
    loaded = found.load()
    some = loaded.ids[loaded.labels != -1]
    monkeypatch.setattr(type(found.table), "at_once", 23)
    for asked in ({}, {"anchors": some[20:50], "candidates": loaded.ids[10:80]}):
        mine, theirs = MINERS[name]().mine(found, **asked), MINERS[name]().mine(loaded, **asked)
        for part in ("anchor", "positive", "negative", "s_ap", "s_an"):
            assert torch.equal(getattr(mine, part), getattr(theirs, part)), part
        told = ("anchors", "no_positive", "no_negative", "outside_window", "fallback", "filtered", "max_age")
        assert [getattr(mine.stats, one) for one in told] == [getattr(theirs.stats, one) for one in told]


def test_in_float32_it_is_the_bank_itself(tmp_path):
    bank = small_bank()
    mine, theirs = FullHardMiner().mine(stored(tmp_path, bank, "float32")), FullHardMiner().mine(bank)
    assert torch.equal(mine.negative, theirs.negative)
    assert (mine.stats.engine, mine.stats.recall) == ("stored", None)
    pairs = [MultiSimilarityMiner().mine(one) for one in (stored(tmp_path, bank, "float32"), bank)]
    assert torch.equal(pairs[0].negative, pairs[1].negative)


def test_what_a_bank_on_disk_does_not_answer_is_told(tmp_path):
    found = stored(tmp_path, small_bank(), "int8")
    with pytest.raises(ValueError, match=r"mine bank\.load\(\)"):
        DistanceWeightedMiner().mine(found)
    with pytest.raises(ValueError, match="has a ceiling of its own"):
        FullHardMiner().mine(found, memory_mb=64)
    with pytest.raises(ValueError, match="one process, not by several"):
        Sharing(World(rank=0, size=2)).check(found.table, ExactIndex(), dense=False)
    with pytest.raises(ValueError, match="the index has metric='dot', the bank 'cosine'"):
        FullHardMiner(index=ExactIndex(metric="dot")).mine(found)
    with pytest.raises(ValueError, match="not by FaissIndex: leave index='auto'"):
        FullHardMiner(index=FaissIndex()).mine(found)
    with pytest.raises(ValueError, match="k must be at least 1"):
        StoredIndex(found).self_join(0)
    with pytest.raises(ValueError, match="queries has 5 dimensions"):
        StoredIndex(found).search(torch.ones(2, 5), 1)


def test_too_little_memory_is_told_with_what_is_enough(tmp_path):
    bank = EmbeddingBank(torch.randn(3000, 64), torch.arange(3000) // 4)
    path = stored(tmp_path, bank, "float16").path
    with pytest.raises(ValueError, match=r"memory_mb=1 is too little .* memory_mb=") as told:
        StoredIndex(StoredBank(path, memory_mb=1)).self_join(1)
    enough = int(str(told.value).split("memory_mb=")[-1].split()[0])
    found = StoredIndex(StoredBank(path, memory_mb=enough)).self_join(1)
    assert found.stats.details["blocks"] > 2
    assert torch.equal(found.ids, StoredIndex(StoredBank(path)).self_join(1).ids)


@pytest.mark.parametrize(("n", "d", "k"), [(20_000, 32, 5000), (6000, 2048, 1), (500, 3, 7), (90_000, 8, 300)])
def test_what_is_told_to_be_enough_is_enough_and_no_more(tmp_path, n, d, k):
    """The workspace grows with the ceiling, so that what lacks under one is not what lacks under another."""
    blocks = (torch.ones(500, d) for _ in range(n // 500))
    path = StoredBank.write(tmp_path / "bank", blocks, [0] * n, metric="dot", storage="int8").path
    with pytest.raises(ValueError, match="is too little") as told:
        Plan.of(StoredBank(path, memory_mb=1).table, 300, k)
    enough = int(str(told.value).split("memory_mb=")[-1].split()[0])
    Plan.of(StoredBank(path, memory_mb=enough).table, 300, k)
    with pytest.raises(ValueError, match=f"memory_mb={enough} or more"):
        Plan.of(StoredBank(path, memory_mb=enough - 1).table, 300, k)


@pytest.mark.parametrize("positive", ["all", "nearest"])
def test_pairs_that_are_searched_together_fit_the_ceiling(tmp_path, monkeypatch, positive):
    """Each pair of anchor and positive is a query: a row in float32, also where an anchor has hundreds of them."""
    path = stored(tmp_path, EmbeddingBank(torch.randn(1200, 301), torch.arange(1200) % 4), "int8").path
    bank, asked = StoredBank(path, memory_mb=18), []
    answer = StoredIndex.answer

    def counting(index, own, *rest):
        asked.append(len(own))
        return answer(index, own, *rest)

    monkeypatch.setattr(StoredIndex, "answer", counting)
    miner = SemiHardMiner(positive=positive)
    mined = miner.mine(bank, anchors=range(6))
    assert max(asked) <= bank.table.at_once < 800
    assert sum(asked) >= (6 * 299 if positive == "all" else 12)
    whole = miner.mine(bank.load(), anchors=range(6))
    assert all(torch.equal(getattr(mined, of), getattr(whole, of)) for of in ("anchor", "positive", "negative"))


def test_anchors_and_blocks_share_the_ceiling(tmp_path):
    """3,000 rows of 3,001 numbers, in int8 and without a length of 1, once took 132 MiB of 128."""
    n, d, ceiling = 3000, 1001, 64
    bank = EmbeddingBank(torch.ones(n, d), [0, 1] * (n // 2), metric="dot")
    rows = StoredBank(stored(tmp_path, bank, "int8").path, memory_mb=ceiling).table
    plan = Plan.of(rows, 300, 1)
    assert plan.rows < n
    tables = 24 * d * plan.rows + 20 * d * plan.queries + (2 * plan.workspace_mb << 20)
    assert 8 * d * rows.at_once + tables + 128 * n < ceiling << 20


MEASURE = """
import sys, torch
from benchmarks.memory import peak_mb
from legolas_metric import *
def answer():
    mined.append(FullHardMiner().mine(bank, anchors=asked))
def search():
    StoredIndex(StoredBank(path, memory_mb=96)).search(queries, 2000)
def write(of, **options):
    global bank
    bank = StoredBank.write(path, of, torch.arange(n) // 4, **options)
path, ceiling, n = sys.argv[1], int(sys.argv[2]), 40_000
few = EmbeddingBank(torch.randn(3000, 64), torch.arange(3000) // 4)
for storage in ("int8", "float32"):
    small = StoredBank.write(path + "small", few, storage=storage)
    FullHardMiner().mine(small, anchors=range(10))
mined, asked, queries = [], torch.randperm(n)[:500], torch.randn(300, 256)
half = torch.randn(4000, 256)
told = [
    peak_mb(lambda: write((torch.randn(4000, 64) for _ in range(10)), storage="int8", memory_mb=ceiling)),
    peak_mb(answer),
    peak_mb(lambda: write((half * (1 + i % 2) for i in range(10)), memory_mb=ceiling)),  # all of it is merged
    peak_mb(lambda: bank.embeddings[asked]),
    peak_mb(answer),
    peak_mb(bank.verify),
    peak_mb(lambda: bank.load()) - 4 * n * 256 / 2**20,  # beside what it gives
]
print(*told, peak_mb(search) / 3)
assert [len(one) for one in mined] == [500, 500]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_writing_reading_and_mining_stay_below_the_ceiling(tmp_path):
    """3 and 41 MB on disk: written, merged, read here and there, mined and verified within 32 MiB; names are 5.

    And 2,000 neighbours of 300 queries within 96 MiB.
    """
    done = python("-c", MEASURE, tmp_path / "bank", 32, check=True)
    assert max(map(float, done.stdout.split())) < 32, done.stdout


def test_searches_of_several_threads_are_those_of_one(tmp_path):
    bank = small_bank(n=400)
    found = stored(tmp_path, bank, "int8")
    index = ExactIndex().fit(bank.embeddings, bank.labels, ids=bank.ids)
    asked = [(k, want) for k in (1, 4) for want in ("negative", "positive", "any")]
    alone = {one: [each.self_join(one[0], want=one[1]).ids for each in (StoredIndex(found), index)] for one in asked}
    fresh, differing = StoredBank(found.path), []

    def work(turn: int) -> None:
        for place in range(len(asked)):
            one = asked[(turn + place) % len(asked)]
            ids = [each.self_join(one[0], want=one[1]).ids for each in (StoredIndex(fresh), index)]
            differing.extend(one for mine, theirs in zip(ids, alone[one]) if not torch.equal(mine, theirs))

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not differing
