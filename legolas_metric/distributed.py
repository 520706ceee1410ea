"""Several processes as one: which one this is, and the few collectives that the library asks for by name.

Nothing here runs unless a `World` of more than one process is handed to what should use it. Every process of the world
must then make the same calls in the same order.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from legolas_metric.budgets import WORKSPACE
from legolas_metric.signs_of_life import Signs, of_others

_TOLD = "_told_the_other_processes"  # of an error: it is this process's own, and nobody is lost


class ProcessFailed(RuntimeError):
    """Another process failed, which this one waited for."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes that work on one joint batch; of size 1, every method gives back what it got.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        averages_gradients: whether the gradients of the processes will be averaged, as `DistributedDataParallel` does
            (True), or summed (False). A loss scales its gradient by `size` where they will be averaged, so that either
            way the parameters' gradient is the one that a single process has on the joint batch.

        group: the process group (default: the one of the run); `rank` and `size` are those within it.

    Raises:
        ValueError: a rank outside of 0..size - 1.

    Example:
        >>> import torch
        >>> from legolas_metric.distributed import World
        >>> World().gather(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    rank: int = 0
    size: int = 1
    averages_gradients: bool = False
    group: Any = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank must lie in 0..{self.size - 1} (size {self.size}), got {self.rank}")

    @classmethod
    def current(cls, *, averages_gradients: bool, group: Any = None) -> "World":
        """The world of a process group (default: the run's own); a single process where none is initialised.

        Raises:
            ValueError: this process is not one of the group's.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return cls(averages_gradients=averages_gradients)
        if dist.get_rank(group) < 0:
            raise ValueError(
                f"process {dist.get_rank()} is not one of the group's: only those that new_group() named take part"
            )
        world = cls(dist.get_rank(group), dist.get_world_size(group), averages_gradients, group)
        if world.size > 1 and world._processes is not None:
            world._signs()  # from here on, so that a process that waits is told from one that is lost
        return world

    def part(self, n: int) -> slice:
        """This process's part of n things that lie in a row; the parts differ by one at most."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def gather(self, rows: Shaped[Tensor, "n *d"]) -> Shaped[Tensor, "m *d"]:
        """The rows of all processes, in order of rank; their numbers may differ. Gradients flow back to each owner."""
        return rows if self.size == 1 else _Gather.apply(rows, self)

    def offset(self, rows: int, device: torch.device) -> int:
        """How many rows the processes before this one hold."""
        return 0 if self.size == 1 else sum(self._counts(rows, device)[: self.rank])

    def reduce(self, value: Shaped[Tensor, "*d"]) -> Shaped[Tensor, "*d"]:
        """The sum over all processes. Its gradient goes to this process's own part, once."""
        return value if self.size == 1 else _Reduce.apply(value, self)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier(self.group)

    @contextmanager
    def meeting(self, what: str) -> Iterator[None]:
        """Around collectives of every process, by which one that did not come is named.

        Raises:
            RuntimeError: a process has died, or did not come within the time-out of the group.
        """
        if self.size == 1:
            yield
            return
        # Each counts its meetings where the others can still read when it is gone: gloo's own error names no process.
        signs = self._signs()
        try:
            signs.come()
            yield
        except RuntimeError as error:
            if not of_others(error) or hasattr(error, _TOLD):
                raise
            raise RuntimeError(
                f"process {self.rank} of {self.size} waited in vain while {what}: "
                f"{signs.missing() or 'process unknown'} has died or did not come within the time-out"
            ) from error

    def silent(self, error: Exception | None = None) -> str:
        """Who is lost, "" for nobody; each process that lives asks it after an error, as of DDP's backward.

        Where the error is given, and is this process's own, nobody is: it is the one that the others miss.
        """
        return "" if self.size == 1 or (error is not None and not of_others(error)) else self._signs().missing()

    def _signs(self) -> Signs:
        group = self._processes
        if group is None:
            raise ValueError(f"a World of size {self.size} needs a process group: call init_process_group() first")
        return Signs.of(self.rank, self.size, group)

    @property
    def _processes(self) -> Any:
        """The process group; None where only rank and size are given, and no group is there."""
        return self.group if self.group is not None else dist.group.WORLD

    @contextmanager
    def together(self, what: str, *, call: str | None = None) -> Iterator[None]:
        """Around work of one's own, without collectives: where one process fails, all of them do.

        Raises:
            ProcessFailed: another process failed; its error is named.
            ValueError: the processes make different calls.
        """
        own = None
        try:
            yield
        except Exception as error:
            own = error
        self.tell(None, what, own, call=call)
        if own is not None:
            raise own

    def tell(self, value: Any, what: str, failure: Exception | None = None, *, call: str | None = None) -> list[Any]:
        """What each process tells the others, in order of rank; of one that tells of a failure the others hear by name.

        Args:
            value: to be told.
            what: is done meanwhile, for errors.
            failure: of this process, if any.
            call: what the caller asks for, in words that are equal on all processes (default: `what`).

        Raises:
            ProcessFailed: another process told of a failure.
            ValueError: the processes make different calls: each is told which one makes which.
        """
        # All meetings begin with this, so that processes that are at different calls hear of it here.
        failed = None if failure is None else f"failed while {what}: {type(failure).__name__}: {failure}"
        told = self.gather_objects((call or what, failed, value))
        if failure is not None:
            setattr(failure, _TOLD, True)
            return []
        for rank, (_, text, _) in enumerate(told):
            if text is not None:
                raise ProcessFailed(f"process {rank} of {self.size} {text}")
        calls = [asked for asked, _, _ in told]
        if len(set(calls)) > 1:
            raise ValueError(f"every process must make the same call, got {self.by_process(calls)}")
        return [value for _, _, value in told]

    def by_process(self, texts: Sequence[str]) -> str:
        """What differs between processes, with the numbers of those that share it."""
        who = {text: [str(rank) for rank, own in enumerate(texts) if own == text] for text in texts}
        return "; ".join(f"process{'es' * (len(ranks) > 1)} {', '.join(ranks)}: {text}" for text, ranks in who.items())

    def gather_objects(self, value: Any) -> list[Any]:
        """What each process has, in order of rank: anything small that can be pickled."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def exchange(self, parts: Shaped[Tensor, "w *d"]) -> Shaped[Tensor, "w *d"]:
        """Part r goes to process r; what comes back are the parts that the others have for this one, by rank."""
        if self.size == 1:
            return parts
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts.contiguous(), group=self.group)
        return received

    def deliver(self, parts: Sequence[Shaped[Tensor, "_ *d"]]) -> list[Shaped[Tensor, "_ *d"]]:
        """`exchange` of parts of any number of rows."""
        if self.size == 1:
            return list(parts)
        sizes = [len(part) for part in parts]
        sent = torch.cat(list(parts))
        counts = self.exchange(torch.tensor(sizes, device=sent.device)).tolist()
        received = sent.new_empty(sum(counts), *sent.shape[1:])
        dist.all_to_all_single(received, sent, counts, sizes, group=self.group)
        return list(received.split(counts))

    def lead(self, value: Shaped[Tensor, "*d"]) -> None:
        """Write the first process's values over everybody's, in place."""
        if self.size > 1:
            dist.broadcast(value, 0 if self.group is None else dist.get_global_rank(self.group, 0), group=self.group)

    def most(self, number: int, device: torch.device) -> int:
        """The largest of the processes' numbers."""
        if self.size == 1:
            return number
        largest = torch.tensor(number, device=device)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.group)
        return int(largest)

    def agree(self, number: int, device: torch.device) -> bool:
        """Whether all processes have the same number."""
        return self.most(number, device) == -self.most(-number, device)

    def _one_after_another(self, rows: Tensor, counts: list[int]) -> Tensor:
        """The rows of all processes, of which none are held twice, however unequal their numbers."""
        out = rows.new_empty(sum(counts), *rows.shape[1:])
        for rank, part in enumerate(out.split(counts)):
            if rank == self.rank:
                part.copy_(rows)
            if len(part):
                dist.broadcast(part, rank if self.group is None else dist.get_global_rank(self.group, rank), self.group)
        return out

    def _counts(self, rows: int, device: torch.device) -> list[int]:
        counts = torch.zeros(self.size, dtype=torch.int64, device=device)
        counts[self.rank] = rows
        dist.all_reduce(counts, group=self.group)
        return counts.tolist()


ALONE = World()
"""A single process."""


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, world: World) -> Tensor:
        counts = world._counts(len(rows), rows.device)
        start = sum(counts[: world.rank])
        ctx.own, ctx.group = slice(start, start + len(rows)), world.group
        if len(counts) * max(counts) * rows.element_size() * prod(rows.shape[1:]) > WORKSPACE:
            return world._one_after_another(rows, counts)
        # Collectives want equal shapes: pad to the longest, cut afterwards.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=world.group)
        return torch.cat([part[:count] for part, count in zip(parts, counts)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = grads[0].contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total[ctx.own], None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, world: World) -> Tensor:
        total = value.clone()
        dist.all_reduce(total, group=world.group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grads[0], None
