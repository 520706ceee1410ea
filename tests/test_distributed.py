"""Several processes equal one, in loss and gradient, with unequal batches."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock, patch

import pytest
import torch
import torch.distributed as dist
from processes import begin, port, start
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from legolas_metric import distributed
from legolas_metric.distributed import World
from legolas_metric.losses import MultiSimilarityLoss, SupConLoss, TripletLoss
from legolas_metric.signs_of_life import Signs

LOSSES = {
    "supcon": lambda world: SupConLoss(gather=world),
    "supcon, plain": lambda world: SupConLoss(gather=world, workspace_mb=None),
    "multi-similarity": lambda world: MultiSimilarityLoss(mining=0.1, gather=world),
    "hard": lambda world: TripletLoss(margin=0.5, gather=world),
    "all": lambda world: TripletLoss(margin=0.5, selection="all", gather=world),
}


def joint_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(23, 5, dtype=torch.float64, generator=generator)
    y = torch.randint(-1, 6, (23,), generator=generator)
    return x, y, torch.rand(23, dtype=torch.float64, generator=generator)


def share(rank: int, size: int) -> slice:
    """Unequal: the first process has 2 rows, the last has most."""
    starts = [2 * rank for rank in range(size)] + [23]
    return slice(starts[rank], starts[rank + 1])


def work(rank: int, size: int, port: int) -> None:
    begin(rank, size, port)
    beating = World.current(averages_gradients=False)._signs()._beating
    try:
        compare(rank, size)
        errors_of_its_own(World(rank, size))
        assert beating.is_alive()
    finally:
        dist.destroy_process_group()
    beating.join(60)
    assert not beating.is_alive()  # signs of life end with the group


def compare(rank: int, size: int) -> None:
    x, y, weights = joint_batch()
    own = share(rank, size)
    world = World(rank, size)
    assert World.current(averages_gradients=False) == world
    for name, loss in LOSSES.items():
        alone = x.clone().requires_grad_()
        with patch.multiple(dist, all_reduce=unasked, all_gather=unasked):
            expected, expected_detail = loss(None)(alone, y, weights=weights, detail=True)
            loss(None)(alone, y, weights=weights).backward()
        mine = x[own].clone().requires_grad_()
        got, detail = loss(world)(mine, y[own], weights=weights[own], detail=True)
        got.backward()
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
        torch.testing.assert_close(
            mine.grad, alone.grad[own], rtol=0, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}"
        )
        assert detail.no_positive == expected_detail.no_positive
        assert detail.mean_negative == pytest.approx(expected_detail.mean_negative, abs=1e-12)
        assert detail.active_share == pytest.approx(expected_detail.active_share, abs=1e-12)
    under_ddp(rank, size)
    listed_pairs(rank, size)
    unequal_parts(rank, size)
    world.barrier()


def errors_of_its_own(world: World) -> None:
    """A process that fails by itself waits for nobody, and blames nobody."""
    failure = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with patch.object(Signs, "missing", unasked):
        with pytest.raises(RuntimeError, match=r"^mat1"), world.meeting("failing"):
            raise failure
        assert not world.silent(failure)


def unequal_parts(rank: int, size: int) -> None:
    """Much that is gathered is not padded to the longest part, which one process may have nearly all of."""
    whole = torch.arange(46.0).view(23, 2)
    own = whole[:0] if rank == 0 else whole[share(rank - 1, size - 1)]
    mine = own.clone().requires_grad_()
    with patch.object(distributed, "WORKSPACE", 23 * 2 * 4 - 1), patch.object(dist, "all_gather", unasked):
        got = World(rank, size).gather(mine)
    torch.testing.assert_close(got, whole, rtol=0, atol=0)
    got.square().sum().backward()
    torch.testing.assert_close(mine.grad, 2 * size * own, rtol=0, atol=0)  # every process has the same loss


def unasked(*_: object) -> None:
    raise AssertionError("a collective that nobody asked for")


def under_ddp(rank: int, size: int) -> None:
    """DDP averages gradients; the parameters' gradient is still that of the joint batch."""
    x, y, _ = joint_batch()
    alone, torn = (nn.Linear(5, 4, dtype=torch.float64) for _ in range(2))
    torn.load_state_dict({name: value.clone().fill_(0.1).cumsum(0) for name, value in torn.state_dict().items()})
    alone.load_state_dict(torn.state_dict())
    parallel = DistributedDataParallel(torn)
    SupConLoss()(alone(x), y).backward()
    world = World.current(averages_gradients=True)
    own = share(rank, size)
    SupConLoss(gather=world)(parallel(x[own]), y[own]).backward()
    torch.testing.assert_close(torn.weight.grad, alone.weight.grad, rtol=0, atol=1e-12)


def listed_pairs(rank: int, size: int) -> None:
    """A tuple is each process's own; the mean is over all of them."""
    x, y, _ = joint_batch()
    n = 23
    triplets = (torch.arange(n), torch.arange(n), torch.arange(n).flip(0))
    whole = TripletLoss(margin=1.0)(x, y, triplets)
    own = share(rank, size)
    part = (torch.arange(own.stop - own.start), triplets[1][own], triplets[2][own])
    got = TripletLoss(margin=1.0, gather=World(rank, size))(x[own], y[own], part, x, y.clone())
    torch.testing.assert_close(got, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [2, 4])
def test_processes_equal_one(size):
    start(work, size)


MINES_AND_ENDS = """
import torch, torch.distributed as dist
from legolas_metric import EmbeddingBank, HardMiner
from legolas_metric.distributed import World
dist.init_process_group("gloo")
world = World.current(averages_gradients=False)
bank = EmbeddingBank(torch.eye(4), [0, 0, 1, 1], ids=torch.arange(4) + 4 * world.rank)
assert len(HardMiner().mine(bank, world=world)) == 4
dist.destroy_process_group()
"""


def test_a_program_that_mines_and_ends_does_end():
    """In interpreters of their own: those end otherwise than forks, and threads must not outlive them."""
    with port() as number:
        group = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(number)}
        programs = [
            subprocess.Popen([sys.executable, "-c", MINES_AND_ENDS], env=group | {"RANK": rank}) for rank in "01"
        ]
        assert [program.wait(300) for program in programs] == [0, 0]


def test_alone_is_a_null_object():
    world = World.current(averages_gradients=True)
    rows = torch.randn(3, 2, requires_grad=True)
    assert world == World(averages_gradients=True)
    assert world.gather(rows) is rows
    assert world.reduce(rows) is rows
    assert world.offset(3, rows.device) == 0
    world.barrier()


def test_rank_outside():
    with pytest.raises(ValueError, match=r"rank must lie in 0..1 \(size 2\), got 2"):
        World(2, 2)


def test_a_world_made_by_hand_needs_a_group():
    with pytest.raises(ValueError, match="size 2 needs a process group"), World(0, 2).meeting("mining"):
        pass


def test_threads_share_the_signs_of_a_group():
    """Of two that begin at once, one would be forgotten, and still be at the store when the interpreter ends."""
    group = Mock(get_group_store=lambda: None)
    with patch.object(dist, "get_rank", lambda: time.sleep(0.02) or 0), ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: Signs.of(0, 2, group), range(8)))) == 1
