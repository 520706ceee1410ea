"""Where rows of several processes lie: decided at the byte, by the poorest, and told in figures that say why."""

import re

import pytest
import torch

from legolas_metric.distributed import World
from legolas_metric.index.placement import needed, place, travelling

N, D, K = 3_000_000, 16, 5
REPLICATED = needed(N, N, D, K)
SHARDED = needed(N, 1_600_000, D, K) + travelling(N, D, K)


@pytest.fixture
def asked(monkeypatch):
    """`place` on two processes, the other of which holds 1,600,000 rows."""

    def ask(own: int | None, other: int, *, told: bool = True, host: str | None = None, **more):
        def both(world, mine):
            return [mine, (1_600_000, mine[1] if host is None else (host, "cpu"), other, not told)]

        monkeypatch.setattr(World, "gather_objects", both)
        memory_mb = None if own is None else own / 2**20
        return place(World(0, 2), N - 1_600_000, D, k=K, device=torch.device("cpu"), memory_mb=memory_mb, **more)

    return ask


def figures(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.e+-]+) GiB", text)]


@pytest.mark.parametrize(
    ("own", "other", "how"),
    [
        (REPLICATED, REPLICATED, "replicated"),
        (REPLICATED, REPLICATED - 1, "sharded"),
        (REPLICATED - 1, REPLICATED, "sharded"),
        (SHARDED, SHARDED, "sharded"),
        (SHARDED, 10**15, "sharded"),
    ],
)
def test_the_poorest_decides_at_the_byte(asked, own, other, how):
    placing = asked(own, other)
    assert (placing.how, placing.budget) == (how, min(own, other))
    whole, part, there = figures(placing.sentence())
    assert (whole <= there) == (how == "replicated") or whole == pytest.approx(there, rel=0.01)
    assert part <= there or part == pytest.approx(there, rel=0.01)


@pytest.mark.parametrize("poorest", [SHARDED - 1, SHARDED // 2, 1])
def test_what_does_not_fit_looks_so(asked, poorest):
    with pytest.raises(
        ValueError, match=r"3,000,000 rows of 16 .* 1,600,000 at most, at .*rows on disk \(StoredBank\)"
    ) as told:
        asked(10**15, poorest)
    whole, part, there = figures(str(told.value))
    assert whole > there
    assert part > there


def test_those_that_share_a_machine_share_what_is_free_on_it(asked, monkeypatch):
    monkeypatch.setattr("legolas_metric.index.placement.free_memory", lambda device: 2 * REPLICATED)
    assert asked(None, 2 * REPLICATED, told=False).how == "replicated"
    assert asked(None, 2 * REPLICATED - 1, told=False).how == "sharded"
    assert asked(None, REPLICATED, told=False, host="elsewhere").how == "replicated"
    assert asked(None, REPLICATED, told=True).budget == REPLICATED  # a limit that was given is not divided


def test_rows_that_stay_apart_are_never_gathered(asked):
    assert asked(10**15, 10**15, apart=True).how == "sharded"
    with pytest.raises(ValueError, match=r"and all are needed, do not fit"):
        asked(SHARDED, SHARDED, whole="all are needed")
    with pytest.raises(ValueError, match=r"leaves rows on their own processes, but all are needed: leave index='auto'"):
        asked(10**15, 10**15, whole="all are needed", apart=True)
