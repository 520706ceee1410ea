"""Several processes as one: which one this is, and the few collectives that the library asks for by name.

Nothing here runs unless a `World` of more than one process is handed to what should use it. Every process of the world
must then make the same calls in the same order.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, slots=True)
class World:
    """The processes that work on one joint batch; of size 1, every method gives back what it got.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        averages_gradients: whether the gradients of the processes will be averaged, as `DistributedDataParallel` does
            (True), or summed (False). A loss scales its gradient by `size` where they will be averaged, so that either
            way the parameters' gradient is the one that a single process has on the joint batch.

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

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank must lie in 0..{self.size - 1} (size {self.size}), got {self.rank}")

    @classmethod
    def current(cls, *, averages_gradients: bool) -> "World":
        """The world of the default process group; a single process where none is initialised."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls(averages_gradients=averages_gradients)
        return cls(dist.get_rank(), dist.get_world_size(), averages_gradients)

    def gather(self, rows: Shaped[Tensor, "n *d"]) -> Shaped[Tensor, "m *d"]:
        """The rows of all processes, in order of rank; their numbers may differ. Gradients flow back to each owner."""
        return rows if self.size == 1 else _Gather.apply(rows, self)

    def offset(self, rows: int, device: torch.device) -> int:
        """How many rows the processes before this one hold."""
        return 0 if self.size == 1 else sum(self._counts(rows, device)[: self.rank])

    def reduce(self, value: Shaped[Tensor, "*d"]) -> Shaped[Tensor, "*d"]:
        """The sum over all processes. Its gradient goes to this process's own part, once."""
        return value if self.size == 1 else _Reduce.apply(value)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def _counts(self, rows: int, device: torch.device) -> list[int]:
        counts = torch.zeros(self.size, dtype=torch.int64, device=device)
        counts[self.rank] = rows
        dist.all_reduce(counts)
        return counts.tolist()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, world: World) -> Tensor:
        counts = world._counts(len(rows), rows.device)
        # Collectives want equal shapes: pad to the longest, cut afterwards.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        start = sum(counts[: world.rank])
        ctx.own = slice(start, start + len(rows))
        return torch.cat([part[:count] for part, count in zip(parts, counts)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.own], None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grads[0]
