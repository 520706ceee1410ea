"""Where the rows that several processes mine together shall lie: on each of them whole, or on each its own.

Letters: n rows of all processes, o rows of the process that has most, d dimensions, k candidates of a row.
"""

import math
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from legolas_metric.budgets import WORKSPACE
from legolas_metric.distributed import World

_CONTAINERS = (  # limits and what is taken of them, of both kinds of control groups
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Placing:
    """Where rows lie, and the figures that decided it.

    Attributes:
        how: "replicated", every process holds all rows, or "sharded", each its own.
        replicated, sharded: bytes that a process needs for the one and the other.
        budget: bytes that the poorest process has.
    """

    how: Literal["replicated", "sharded"]
    replicated: int
    sharded: int
    budget: int

    def sentence(self) -> str:
        """What was decided, and by which figures."""
        where = "every process holds all rows" if self.how == "replicated" else "each process holds its own rows"
        return (
            f"{where} ({self.how}): all of them need {_gb(self.replicated)} a process, a part {_gb(self.sharded)}, "
            f"and the poorest has {_gb(self.budget, up=False)}"
        )


def place(
    world: World,
    rows: int,
    d: int,
    *,
    k: int,
    device: torch.device,
    memory_mb: float | int | None = None,
    whole: str | None = None,
    apart: bool = False,
) -> Placing:
    """Decide it, from the smallest memory of all processes; all of them call this and come to the same.

    Args:
        world: the processes.
        rows: of this one.
        d: dimensions.
        k: candidates that a search gives for each row.
        device: on which the rows lie.
        memory_mb: what a process may use, in MiB (default: an equal part of what is free on its machine or card).
        whole: why all rows are needed on one process, if they are.
        apart: whether each process is to keep its own rows in any case, as a `ShardedIndex` asks.

    Raises:
        ValueError: neither fits, with the figures; or rows are to stay apart and needed on one process.
    """
    if apart and whole is not None:
        raise ValueError(f"index=ShardedIndex() leaves rows on their own processes, but {whole}: leave index='auto'")
    key = (socket.gethostname(), str(device))
    free = free_memory(device) if memory_mb is None else int(memory_mb * 2**20)
    told = world.gather_objects((rows, key, free, memory_mb is None))
    sharing = [sum(other[1] == own[1] for other in told) if own[3] else 1 for own in told]
    budget = min(own[2] // among for own, among in zip(told, sharing))
    n, most = sum(own[0] for own in told), max(own[0] for own in told)
    replicated, sharded = needed(n, n, d, k), needed(n, most, d, k) + travelling(n, d, k)
    fits = replicated <= budget and not apart
    placing = Placing("replicated" if fits else "sharded", replicated, sharded, budget)
    if placing.how == "replicated" or (sharded <= budget and whole is None):
        return placing
    some = f"or of which each holds its own, {most:,} at most, at {_gb(sharded)}" if whole is None else f"and {whole}"
    raise ValueError(
        f"{n:,} rows of {d} dimensions, all of which every process holds at {_gb(replicated)} {some}, do not fit the "
        f"{_gb(budget, up=False)} of the poorest of {world.size} processes: use more processes, a larger memory_mb, "
        "fewer dimensions, or one process with the rows on disk (StoredBank)"
    )


def needed(n: int, own: int, d: int, k: int) -> int:
    """Bytes of the bank of `own` rows, of a search among them for each, and of the names of all n.

    The rows four times (the bank; its copy in the index, or what is being written; what the engine makes of them),
    candidates and answers as `ExactIndex` counts them, and 13 numbers of 8 bytes a row for labels, ids, groups, their
    order, and triplets.
    """
    return own * (16 * d + 72 * k + 1100) + 104 * n


def travelling(n: int, d: int, k: int) -> int:
    """Bytes of the queries and answers of a block, with what their search takes beside them."""
    return 4 * min(WORKSPACE, n * (4 * d + 48 * k + 64))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device; on a processor's, what both the machine and its container leave."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else []
    known += [int(line.split()[1]) << 10 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    for files in _CONTAINERS:
        limit, taken = (next(iter(_lines(path)), "") for path in files)
        known += [int(limit) - int(taken)] if limit.isdigit() and taken.isdigit() else []
    return max(0, min(known, default=1 << 62))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _gb(size: int, *, up: bool = True) -> str:
    """To three digits: what is needed rounded up, what there is down, so that what does not fit looks so."""
    exact = size / 2**30
    shown = float(f"{exact:.3g}")
    if (shown < exact) == up and shown != exact:
        step = 10.0 ** (math.floor(math.log10(exact)) - 2)
        shown += step if up else -step
    return f"{shown:.3g} GiB"
