"""Global mining on several processes equals one process on the joint batches; all processes hold the same."""

import time
from unittest.mock import patch

import lightning as L
import process_runs
import processes
import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from process_runs import EPOCHS, JOINT, SETTINGS, SHARDED, STEPS, run_plain, under_lightning
from processes import FORKS, start, watched

from legolas_metric.distributed import World
from legolas_metric.training import RunHistory
from legolas_metric.training.module_encoder import world_of


def check_equal_to_one(runs, one, *, runs_of="seen"):
    """The same losses, banks and triplets on every process; batches disjoint, of one length, and joint those of one."""
    for step in range(STEPS * EPOCHS):
        parts = [run[runs_of]["ids"][step] for run in runs]
        assert {len(part) for part in parts} == {JOINT // len(runs)}
        assert torch.equal(torch.cat(parts), one["seen"]["ids"][step])
        assert len(torch.cat(parts).unique()) == JOINT
    for run in runs:
        torch.testing.assert_close(run[runs_of]["losses"], one["seen"]["losses"], rtol=0, atol=1e-6)


def many(folder, size, checkpoint=None):
    """Whatever one set of processes can do, one after the other; the second ends by itself."""
    with processes.port() as port:
        given = [(process_runs.many, rank, size, port, folder, checkpoint) for rank in range(size)]
        several = [FORKS.Process(target=watched, args=arguments) for arguments in given]
        for process in several:
            process.start()
        for process in several:
            process.join()
    assert [process.exitcode for process in several] == [0, 3, 0, 0][:size]
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory, spawned):
    return many(tmp_path_factory.mktemp("two"), 2, spawned / "stopped.ckpt")


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return many(tmp_path_factory.mktemp("four"), 4)


def forked(*given, start_method, start_processes=mp.start_processes, **more):
    """What Lightning starts its processes with, but in forks of the server: all that they get is sent to them alike."""
    return start_processes(*given, start_method="forkserver", **more)


@pytest.fixture(scope="module")
def spawned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spawned")
    with patch.object(mp, "start_processes", forked):
        under_lightning(folder, 2, "ddp_spawn")
    return folder


@pytest.fixture(scope="module", params=[2, 4])
def plain_runs(request):
    size = request.param
    folder, names = request.getfixturevalue("two" if size == 2 else "four"), SETTINGS if size == 2 else ["whole"]
    names = [*names, *SHARDED[size]]
    return {name: [loaded(folder / f"{name}-{rank}.pt") for rank in range(size)] for name in names}


def loaded(path):
    return torch.load(path, weights_only=False)


@pytest.fixture(scope="module")
def alone():
    return {name: run_plain(World(), **more) for name, more in (SETTINGS | SHARDED[2] | SHARDED[4]).items()}


def test_a_plain_loop_on_several_processes_is_that_of_one(plain_runs, alone):
    for name, runs in plain_runs.items():
        check_equal_to_one(runs, alone[name])
        for run in runs:
            if name not in (*SHARDED[2], *SHARDED[4]):
                assert torch.equal(run["bank"], runs[0]["bank"])
                torch.testing.assert_close(run["bank"], alone[name]["bank"], rtol=0, atol=1e-6)
            assert len(run["rounds"]) == len(alone[name]["rounds"])
            for found, expected in zip(run["rounds"], alone[name]["rounds"]):
                assert all(map(torch.equal, found, expected))
            torch.testing.assert_close(run["weights"], alone[name]["weights"], rtol=0, atol=1e-6)
            assert run["drift"] == pytest.approx(alone[name]["drift"], abs=1e-6)


def test_a_run_that_was_interrupted_within_an_epoch_goes_on(plain_runs, alone):
    for name, runs in plain_runs.items():
        check_equal_to_one(runs, alone[name], runs_of="resumed")
        for run in runs:  # what it holds, and how old that is
            assert all(map(torch.equal, run["held again"], run["held"])), name


def test_rows_that_do_not_fit_stay_on_their_processes(plain_runs, alone):
    for name in SHARDED[2] | SHARDED[4]:
        for runs in [plain_runs[name]] if name in plain_runs else []:
            assert [run["placing"].how for run in runs] == ["sharded"] * len(runs)
            assert [len(run["bank"]) for run in runs] == [160 // len(runs)] * len(runs)
            rows = torch.cat([run["bank"] for run in runs])
            torch.testing.assert_close(rows, alone[name]["bank"], rtol=0, atol=1e-6)
            if "whole" in runs[0]:
                assert torch.equal(runs[0]["whole"]["embeddings"], rows)
                assert torch.equal(runs[0]["whole"]["steps"], torch.cat([run["held"][1] for run in runs]))
    assert {run["placing"].how for run in plain_runs["whole"]} == {"replicated"}


def test_each_process_embeds_its_part(plain_runs, alone):
    reads = [run["reads"] for run in plain_runs["whole"]]
    rounds = len(alone["whole"]["rounds"])
    assert sum(reads) - len(reads) == alone["whole"]["reads"] == rounds * 160  # each reads one, for its dimension
    assert max(reads) <= rounds * (160 // len(reads)) + 1


@pytest.fixture(scope="module")
def lightning_alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    under_lightning(folder, 1, "auto")
    return torch.load(folder / "lightning-0.pt")


def lightning_runs(folder, size=2):
    return [torch.load(folder / f"lightning-{rank}.pt") for rank in range(size)]


def check_lightning(runs, one):
    check_equal_to_one(runs, one)
    for run in runs:
        assert torch.equal(run["bank"], runs[0]["bank"])
        for found, expected in zip(run["rounds"], one["rounds"], strict=True):
            assert all(map(torch.equal, found, expected))
        assert run["rank_at_1"] == pytest.approx(one["rank_at_1"])
        assert run["metrics"]["lr"] == one["metrics"]["lr"] == pytest.approx(0.002)
        assert run["metrics"]["train_loss"] == pytest.approx(one["metrics"]["train_loss"], abs=1e-6)


def test_under_lightning_spawned(spawned, lightning_alone):
    check_lightning(lightning_runs(spawned), lightning_alone)
    history = RunHistory(next(spawned.rglob("history.jsonl")))
    assert len(history.starts) == 1
    assert len([entry for entry in history.lines() if entry["kind"] == "epoch"]) == EPOCHS + 1
    assert len(history.rounds) == len(lightning_alone["rounds"])
    assert history.ended["why"] == "finished"
    assert list(history.series("lr").values()) == pytest.approx([0.002] * EPOCHS)


def test_under_lightning_at_four_processes(four, lightning_alone):
    check_lightning(lightning_runs(four / "whole", 4), lightning_alone)


def test_under_lightning_a_run_goes_on_within_an_epoch(two, spawned, lightning_alone):
    runs = lightning_runs(two / "again")
    for run, before in zip(runs, lightning_runs(spawned)):
        for key in ("losses", "ids"):
            assert len(run["seen"][key]) == STEPS * EPOCHS - process_runs.STOP
            run["seen"][key] = before["seen"][key][: process_runs.STOP] + run["seen"][key]
    check_equal_to_one(runs, lightning_alone)


def test_under_lightning_a_rotating_bank_that_no_process_has_all_of_goes_on(two):
    """From a checkpoint that one process wrote."""
    for run, again in zip(lightning_runs(two / "rotating"), lightning_runs(two / "rotating on"), strict=True):
        assert len(run["bank"]) == 80
        assert torch.equal(run["bank"], again["bank"])
        assert run["seen"]["losses"][process_runs.STOP :] == again["seen"]["losses"]


def test_a_strategy_that_divides_the_weights_is_refused():
    for strategy in (FSDPStrategy(), ModelParallelStrategy()):
        trainer = type("OfTwo", (L.Trainer,), {"__init__": lambda _: None, "world_size": 2, "strategy": strategy})()
        with pytest.raises(ValueError, match=rf"whole encoder, which {type(strategy).__name__} .*strategy='ddp'"):
            world_of(trainer)


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory):
    """The folder of a run with batch norm, of a sharded one, and of one that lost a process."""
    folder = tmp_path_factory.mktemp("torchrun")
    processes.torchrun(folder, process_runs.by_torchrun, folder)
    return folder


def test_under_torchrun_with_batch_norm_the_first_round_is_equal(torchrun, tmp_path):
    two, one = torchrun, tmp_path
    under_lightning(one, 1, "auto", norm=True)
    runs, alone = lightning_runs(two), torch.load(one / "lightning-0.pt")
    first = torch.load(one / "first-0.pt")
    for rank, run in enumerate(runs):
        assert torch.equal(torch.load(two / f"first-{rank}.pt"), first)
        assert all(map(torch.equal, run["rounds"][0], alone["rounds"][0]))
        assert torch.equal(run["bank"], runs[0]["bank"])
        for found, expected in zip(run["rounds"], runs[0]["rounds"], strict=True):
            assert all(map(torch.equal, found, expected))
    for step in range(7):  # until the next round
        assert torch.equal(torch.cat([run["seen"]["ids"][step] for run in runs]), alone["seen"]["ids"][step])


def test_mined_triplets_that_lie_across_processes_are_seen(two, tmp_path):
    under_lightning(tmp_path, 1, "auto", pairs="mined")
    check_lightning(lightning_runs(two / "mined"), torch.load(tmp_path / "lightning-0.pt"))


def test_a_process_that_does_not_come_ends_all_and_is_named():
    begun = time.perf_counter()
    with pytest.raises(Exception, match=r"process 1 has died or did not come within the time-out"):
        start(process_runs.sleeping, 2)
    assert time.perf_counter() - begun < 300  # of which 5 s are the time-out, and the rest starting on a busy machine


@pytest.mark.parametrize("size", [2, 4])
def test_a_process_that_is_lost_in_the_backward_pass_is_named_alone(size, request):
    """DDP waits there by itself: it names an address, of a neighbour that has only ended because the lost one did."""
    folder = request.getfixturevalue("two" if size == 2 else "four") / "lost"
    for rank in {*range(size)} - {1}:
        assert "\nprocess 1 has died or does not answer" in (folder / f"told-{rank}.txt").read_text()
    assert "(process 1 has died" in RunHistory(next(folder.rglob("history.jsonl"))).ended["why"]


def test_under_torchrun_rows_that_stay_on_their_processes_are_mined_as_by_one(torchrun, lightning_alone):
    folder = torchrun / "sharded"
    runs = lightning_runs(folder)
    assert [len(run["bank"]) for run in runs] == [80, 80]
    check_equal_to_one(runs, lightning_alone)
    for run in runs:
        for found, expected in zip(run["rounds"], lightning_alone["rounds"], strict=True):
            assert all(map(torch.equal, found, expected))
        assert run["rank_at_1"] == pytest.approx(lightning_alone["rank_at_1"])
    events = RunHistory(next(folder.rglob("history.jsonl"))).events
    told = [event["why"] for event in events if event["what"] == "placing"]
    assert len(told) == 1
    assert "each process holds its own rows (sharded)" in told[0]


def test_under_torchrun_a_process_that_is_lost_ends_all_and_is_named(torchrun):
    assert "process 1 has died or did not come within the time-out" in (torchrun / "told.txt").read_text()
    assert "exitcode  : 3" in (torchrun / "agent.txt").read_text()
