"""One index over several processes answers as one process with all rows does, and fails on all of them at once."""

import os
import signal
import time
from contextlib import suppress

import pytest
import torch
import torch.distributed as dist
from joint_mining import mines_as_one, refuses_alike
from processes import begin, hurry, start, torchrun

from legolas_metric import EmbeddingBank, ExactIndex, FullHardMiner, HardMiner, SemiHardMiner, ShardedIndex
from legolas_metric.distributed import ProcessFailed, World
from legolas_metric.miners.joint import JointSearch

N, D = 61, 3
METRICS = ("cosine", "dot", "euclidean")
SHARES = {1: [61], 2: [20, 41], 3: [0, 2, 59], 4: [30, 0, 30, 1]}  # uneven and empty shards; k is larger than some


def table(metric: str):
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(-2, 3, (N, D), generator=generator).float()  # many ties
    x[x.abs().sum(1) == 0] = 1.0
    labels = torch.randint(-1, 4, (N,), generator=generator)
    groups = torch.randint(0, 3, (N,), generator=generator)
    ids = torch.randperm(N, generator=generator) * 3
    low = torch.rand(N, generator=generator).double() - (1.0 if metric == "cosine" else 2.0)
    return x, labels, groups, ids, (low, torch.where(labels == 0, torch.nan, low + 0.7))


def shares(size: int) -> list[slice]:
    ends = torch.tensor(SHARES[size]).cumsum(0).tolist()
    return [slice(end - count, end) for end, count in zip(ends, SHARES[size])]


def compare(rank: int, size: int, port: int) -> None:
    begin(rank, size, port)
    own = shares(size)[rank]
    searches(own)
    for metric in METRICS:
        mines_as_one(own, metric, *table(metric)[:4])
    directions_of_all(rank, size)
    some_without_queries(rank)
    refusals(rank, size, own)
    different_calls(rank, size, own)
    if size > 1:
        x, labels, groups, ids, _ = table("cosine")
        refuses_alike(rank, size, own, x, labels, groups, ids)
    dist.destroy_process_group()


def searches(own: slice) -> None:
    for metric in METRICS:
        x, labels, groups, ids, (low, high) = table(metric)
        one = ExactIndex(metric=metric).fit(x, labels, ids=ids, groups=groups)
        index = ShardedIndex(metric=metric)
        index.fit(x[own], labels[own], ids=ids[own], groups=groups[own])
        for want in ("negative", "positive", "cross_group_positive", "any"):
            for k, farthest, windowed in ((1, False, False), (7, True, False), (70, False, True)):
                asked = {"want": want, "farthest": farthest}
                window = (low, high) if windowed else None
                part = (low[own], high[own]) if windowed else None
                check(index.self_join(k, **asked, window=part), one.self_join(k, **asked, window=window), own)
                named = {"labels": labels.flip(0), "groups": groups.flip(0)}
                check(
                    index.search(x[own] + 0.5, k, **{a: v[own] for a, v in named.items()}, **asked, window=part),
                    one.search(x + 0.5, k, **named, **asked, window=window),
                    own,
                )
        check(index.search(x[own] + 0.5, 70), one.search(x + 0.5, 70), own)  # all rows: none is the query itself


def check(found, expected, own: slice) -> None:
    assert torch.equal(found.ids, expected.ids[own])
    assert torch.equal(found.similarities, expected.similarities[own])


def directions_of_all(rank: int, size: int) -> None:
    """Rows of one direction and other lengths are exact ties wherever they lie, as they are on one process."""
    generator = torch.Generator().manual_seed(2)
    for cone in (0.0, 1000.0):
        x = torch.randn(16, 8, generator=generator) + cone
        x = torch.cat([x, x * 3.7, x * 0.013, x * torch.rand(16, 1, generator=generator)])[
            torch.randperm(64, generator=generator)
        ]
        labels, ids = torch.randint(0, 5, (64,), generator=generator), torch.randperm(64, generator=generator)
        own = World(rank, size).part(64)
        one, index = ExactIndex().fit(x, labels, ids=ids), ShardedIndex().fit(x[own], labels[own], ids=ids[own])
        for want in ("negative", "positive"):
            check(index.self_join(9, want=want), one.self_join(9, want=want), own)
        bank = EmbeddingBank(x[own], labels[own], ids=ids[own])
        before, expected = bank.embeddings.clone(), FullHardMiner().mine(EmbeddingBank(x, labels, ids=ids))
        for found in (
            FullHardMiner(index=ShardedIndex()).mine(bank),
            FullHardMiner().mine(bank, world=World.current(averages_gradients=False), memory_mb=1e6),
        ):
            mine = torch.isin(expected.anchor, bank.ids)
            for column in ("anchor", "positive", "negative", "s_ap", "s_an"):
                assert torch.equal(getattr(found, column), getattr(expected, column)[mine]), column
        assert torch.equal(bank.embeddings, before)  # the caller's


def some_without_queries(rank: int) -> None:
    """Who has no rows or no queries takes part without saying what names them, and without a window."""
    x, labels, groups, ids, (low, high) = table("cosine")
    one, has = ExactIndex().fit(x, labels, ids=ids, groups=groups), rank == 0
    named = {"labels": labels, "ids": ids, "groups": groups} if has else {}
    index = ShardedIndex().fit(x if has else torch.empty(0, 3), **named)
    for want in ("negative", "cross_group_positive"):
        asked = {"labels": labels, "groups": groups, "window": (low, high)} if has else {}
        found = index.search(x if has else torch.empty(0, 3), 70, want=want, **asked)
        expected = one.search(x, 70, want=want, labels=labels, groups=groups, window=(low, high))
        check(found, expected, slice(None) if has else slice(0, 0))
    with pytest.raises((ValueError, ProcessFailed), match="there are no queries, but 61 labels"):
        index.search(torch.empty(0, 3), 3, labels=labels, want="negative")


def different_calls(rank: int, size: int, own: slice) -> None:
    """Processes that do different things all say who does what, and can go on."""
    if size == 1:
        return
    x, labels, _, ids, (low, high) = table("cosine")
    index, bank = ShardedIndex().fit(x[own], labels[own]), EmbeddingBank(x, labels, ids=ids + 1000 * rank)
    window, two = (None if rank else (low[:2], high[:2])), x[:2]
    others = "process 1" if size == 2 else f"processes {', '.join(map(str, range(1, size)))}"
    hard, semi = HardMiner(index=ShardedIndex()), SemiHardMiner(index=ShardedIndex())
    for calls, told in (
        ((lambda: index.search(x[own], 3), lambda: index.self_join(3)), (r"\.search\(k=3, want='any'", r"\.self_join")),
        ((lambda: index.self_join(2), lambda: index.self_join(3)), ("k=2", "k=3")),
        ((lambda: index.self_join(2), lambda: index.self_join(2, want="any")), ("'negative'", "'any'")),
        ((lambda: index.search(two, 2, window=window),) * 2, ("a window", "none")),
        ((lambda: hard.mine(bank), lambda: semi.mine(bank)), (r"HardMiner\(index=ShardedIndex.*call 1", "SemiHard")),
        ((lambda: hard.mine(bank), lambda: index.fit(x[own])), (r"HardMiner\(", r"ShardedIndex\.fit")),
    ):
        with pytest.raises(ValueError, match=f"every process .* got process 0: .*{told[0]}.*; {others}: .*{told[1]}"):
            calls[min(rank, 1)]()
    with pytest.raises(TypeError if rank == 0 else ProcessFailed, match="k must be an integer, got '3'"):
        index.self_join(3 if rank else "3")
    hard.calls = rank  # one has mined before: it would draw other rows
    with pytest.raises(ValueError, match=r"call 1; .*call 2"):
        hard.mine(bank)
    with pytest.raises(ValueError if rank == 0 else ProcessFailed, match="holds no rows"):
        (index if rank else ShardedIndex()).self_join(3)


def refusals(rank: int, size: int, own: slice) -> None:
    """What one process refuses, all do, and the index can be used afterwards."""
    x, labels, _, ids, _ = table("cosine")
    index = ShardedIndex()
    last = size - 1
    bad = x.clone()
    bad[-1, 0] = torch.nan  # a row of the last process
    with pytest.raises(ValueError if rank == last else ProcessFailed, match="NaN or inf"):
        index.fit(bad[own], labels[own])
    if size > 1:
        twice = ids.clone()
        twice[-1] = twice[shares(size)[1 if size == 3 else 0].start]
        with pytest.raises(ValueError, match=rf"unique over all processes.*{int(twice[-1])}"):
            index.fit(x[own], labels[own], ids=twice[own])
        with pytest.raises(ValueError, match="same arguments"):
            index.fit(x[own], None if rank == last else labels[own])
        with pytest.raises(ValueError, match="same embeddings' dimensions"):
            index.fit(x[own] if rank else torch.ones(len(x[own]), 2), labels[own])
        with pytest.raises(ValueError, match="same metric, got"):
            ShardedIndex(metric="dot" if rank else "cosine").fit(x[own], labels[own])
    index.fit(x[own], labels[own])
    if size > 1:
        with pytest.raises(ValueError if rank == last else ProcessFailed, match="2 dimensions, the fitted rows has 3"):
            index.search(torch.empty(0, 2) if rank == last else x[:2], 3)
    with pytest.raises(ValueError if rank == 0 else ProcessFailed, match="k must be"):
        index.self_join(3 if rank else 0)
    found = index.self_join(4)  # ids are row numbers, counted on
    check(found, ExactIndex().fit(x, labels).self_join(4), own)
    names = [f"class {label}" for label in labels.tolist()]
    assert torch.equal(index.fit(x[own], names[own]).self_join(4).ids, ExactIndex().fit(x, names).self_join(4).ids[own])


@pytest.mark.parametrize("size", SHARES)
def test_any_number_of_processes_answers_as_one(size):
    start(compare, size)


def started_by_torchrun() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    searches(shares(dist.get_world_size())[dist.get_rank()])
    print("as one")


def test_under_torchrun_three_processes_answer_as_one(tmp_path):
    torchrun(tmp_path, started_by_torchrun, size=3)
    said = {f"{path.parent.name}/{path.stem}": path.read_text() for path in sorted(tmp_path.rglob("std*.log"))}
    assert not list(tmp_path.rglob("agent.txt")), said
    assert [said[f"{rank}/stdout"] for rank in range(3)] == ["as one\n"] * 3


def dying(rank: int, size: int, port: int, how: str) -> None:
    begin(rank, size, port)
    x, labels, _, _, _ = table("cosine")
    own, lost = shares(size)[rank], size // 2  # that has rows
    index = ShardedIndex().fit(x[own], labels[own])
    index.self_join(2)
    mined = how == "dies while it is mined"
    if mined:
        bank = EmbeddingBank(x[own], labels[own], ids=torch.arange(61)[own])
        HardMiner(index=ShardedIndex()).mine(bank)
    everybody = World(rank, size).gather_objects(os.getpid())
    hurry(5)
    if mined and rank == lost:
        JointSearch._delivered = lambda *a: os._exit(0)  # behind the search, when the others wait for its rows
        HardMiner(index=ShardedIndex()).mine(bank)
    if rank == lost:
        index._local.answer = lambda *_: os._exit(0) if how == "dies" else outlive(everybody)  # in the middle
        index.self_join(2)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=rf"in vain while (searching|mining)[a-z ]*: process {lost} has died"):
        HardMiner(index=ShardedIndex()).mine(bank) if mined else index.self_join(2)
    assert time.monotonic() - start < 30  # of which 5 are the time-out, and 6 for a word from who lives


def outlive(everybody: list[int]) -> None:
    """Stay until the others have ended."""
    for other in {*everybody} - {os.getpid()}:
        with suppress(ProcessLookupError):
            while True:
                os.kill(other, 0)
                time.sleep(0.1)
    os._exit(0)


@pytest.mark.parametrize(
    ("size", "how"), [(2, "dies"), (2, "sleeps"), (2, "dies while it is mined"), (4, "dies"), (4, "sleeps")]
)
def test_a_process_that_ends_within_a_search_ends_all_and_is_named_alone(size, how):
    start(dying, size, how)


def standing_still(rank: int, size: int, port: int) -> None:
    """Process 0, which keeps the store of the run, stops in the middle of a search, but does not end."""
    begin(rank, size, port)
    x, labels, _, _, _ = table("cosine")
    own = shares(size)[rank]
    index, keeper = ShardedIndex().fit(x[own], labels[own]), World(rank, size).gather_objects(os.getpid())[0]
    index.self_join(2)
    if rank == 0:
        index._local.answer = lambda *a: os.kill(keeper, signal.SIGSTOP) or os._exit(0)
    hurry(4)
    start = time.monotonic()
    try:
        with pytest.raises(RuntimeError, match=r"process 0 of the run, .* has died or did not come"):
            index.self_join(2)
        assert time.monotonic() - start < 30
    finally:
        with suppress(ProcessLookupError):  # until it has ended: it may stop only after it is missed
            while rank:
                os.kill(keeper, signal.SIGCONT)
                time.sleep(0.1)


def test_a_process_that_stands_still_with_the_store_ends_all():
    start(standing_still, 2)


def test_alone_it_is_the_exact_index():
    x, labels, groups, ids, window = table("cosine")
    one = ExactIndex().fit(x, labels, ids=ids, groups=groups)
    index = ShardedIndex().fit(x, labels, ids=ids, groups=groups)
    assert index.world == World()
    check(index.self_join(5, window=window), one.self_join(5, window=window), slice(None))
    found = index.search(torch.empty(0, 3), 4, want="negative")
    assert (found.ids.shape, found.similarities.shape, found.stats.engine) == ((0, 4), (0, 4), "sharded")
    mined = HardMiner(index=ShardedIndex()).mine(EmbeddingBank(x, labels)).stats.engine
    assert mined == index.self_join(2).stats.engine == "sharded"  # of one process, too
    with pytest.raises(ValueError, match="holds no rows"):
        index.clone().self_join(1)
    with pytest.raises(ValueError, match="a row on one process at least"):
        ShardedIndex().fit(torch.zeros(0, 3))
