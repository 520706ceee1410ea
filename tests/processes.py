"""Processes for tests: clean forks of a server that has imported, once, what takes each new interpreter seconds."""

import faulthandler
import os
import runpy
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

FORKS = mp.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["lightning", "pytest", "legolas_metric.training", "legolas_metric.losses", "legolas_metric.index.sharded"]
)
LONGEST = 600  # seconds: a process that takes longer says where it stands, and ends


def watched(work, *arguments):
    """`work(*arguments)`, in a process that ends even where it waits for itself: by a thread that asks no lock."""
    faulthandler.dump_traceback_later(LONGEST, exit=True)
    work(*arguments)
    faulthandler.cancel_dump_traceback_later()


def python(*arguments: object, cwd: Path | None = None, check: bool = False) -> CompletedProcess[str]:
    """`python -c code ...`, `python -m module ...` or `python script.py ...`: status, stdout and stderr.

    For programs that need a process of their own, but none in which nothing was imported before: as in a new
    interpreter, the types of arguments are checked by the library alone, and peaks of memory are the program's.
    """
    with TemporaryDirectory() as folder:
        said = [Path(folder, name) for name in ("out", "err")]
        given = (list(map(str, arguments)), cwd or Path.cwd(), *said)
        process = FORKS.Process(target=watched, args=(_interpret, *given))
        process.start()
        process.join()
        done = CompletedProcess(given[0], process.exitcode, *(path.read_text(encoding="utf-8") for path in said))
    if check:
        assert not done.returncode, done.stderr
    return done


def _interpret(arguments: list[str], cwd: Path, *said: Path) -> None:
    for number, path in zip((1, 2), said, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    interpret(arguments, cwd)


def interpret(arguments: list[str], cwd: Path) -> None:
    """Do in this process what `python` does with its arguments."""
    os.chdir(cwd)
    how, *rest = arguments
    sys.argv = rest if how in ("-c", "-m") else arguments
    if how == "-c":
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif how == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(how).parent))
        runpy.run_path(how, run_name="__main__")


@contextmanager
def port() -> Iterator[int]:
    """One that nobody else is given meanwhile, though a process of ours may listen there."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def start(work, size: int, *arguments) -> None:
    """`work(rank, size, port, *arguments)` in each of `size` processes; the first error ends all and is raised."""
    with port() as number:
        given = (work, size, number, *arguments)
        mp.start_processes(_ranked, args=given, nprocs=size, start_method="forkserver")


def _ranked(rank: int, work, *arguments) -> None:
    watched(work, rank, *arguments)


def begin(rank: int, size: int, port: int) -> None:
    """Join the group of the processes that were started together."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size, timeout=timedelta(minutes=5))


def hurry(seconds: float) -> None:
    """From here on, where all processes are, what is waited for longer fails: so much may pass until they are here."""
    dist.barrier()
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds))


def torchrun(folder: Path, work, *arguments, size: int = 2) -> None:
    """What the program torchrun does with its script: an agent starts processes of `work(*arguments)`.

    One that fails ends all; what the agent says of it is in agent.txt, what each process said further down the folder.
    """
    start(_agent, 1, folder, work, arguments, size)


def _agent(rank: int, agents: int, port: int, folder: Path, work, arguments: tuple, size: int) -> None:
    faulthandler.cancel_dump_traceback_later()  # its processes are forks of this one, and watched themselves
    written = DefaultLogsSpecs(log_dir=str(folder), redirects=Std.ALL)
    nodes = {"min_nodes": 1, "max_nodes": 1, "max_restarts": 0, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    config = LaunchConfig(**nodes, nproc_per_node=size, logs_specs=written, start_method="fork")
    try:
        elastic_launch(config, watched)(work, *arguments)
    except ChildFailedError as error:
        (folder / "agent.txt").write_text(str(error))
