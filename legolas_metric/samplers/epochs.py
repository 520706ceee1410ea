"""What all batch samplers share: a planned epoch, handed out batch by batch, that can be left and taken up again."""

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import BatchSampler, Sampler

from legolas_metric.checks import check_whole
from legolas_metric.distributed import World


class PlannedSampler(Sampler[list[int]], ABC):
    """A batch sampler for `DataLoader(batch_sampler=...)`: plans an epoch, yields its batches as lists of row numbers.

    The plan depends on the settings and the epoch alone: not on what was drawn before, not on a global random state.
    Each iteration hands out the next epoch by itself; once `set_epoch` was called, the epoch is the one that was set,
    however often it is iterated.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self._start = 0  # where the next iteration begins: 0, unless a state was loaded
        self._next = 0  # the batch that the running iteration yields next
        self._begun = False  # whether an iteration of this epoch has begun
        self._set = False  # whether someone calls `set_epoch`
        self._place_checked = False

    @abstractmethod
    def plan(self) -> Sequence[Int64[Tensor, " b"]]:
        """The batches of the current epoch, as row numbers."""

    @abstractmethod
    def settings(self) -> Mapping[str, int | float]:
        """What the plan depends on, the epoch aside: a state is only good for equal settings."""

    @abstractmethod
    def _steps(self) -> int:
        """Batches of an epoch on each rank."""

    def __len__(self) -> int:
        self._refuse_as_sampler()  # here too: a loader of whole batches may be too short to be iterated at all
        return self._steps()

    def __iter__(self) -> Iterator[list[int]]:
        self._check_use()
        return self._batches_of_epoch()

    def _batches_of_epoch(self) -> Iterator[list[int]]:
        if self._begun and not self._set:
            self.epoch, self._start = self.epoch + 1, 0
        self._begun = True
        batches = self.plan()
        start, self._start = self._start, 0
        for place in range(start, len(batches)):
            self._next = place + 1
            yield batches[place].tolist()

    def divided(self) -> None:
        """Told by who divides its batches among processes itself: it plans for all of them, which is no mistake."""
        self._place_checked = True

    def _check_use(self) -> None:
        """Refuse to serve as `sampler=`, and warn once of a rank that is not this process's."""
        self._refuse_as_sampler()
        world = World.current(averages_gradients=False)
        if not self._place_checked and world.size > 1 and (self.rank, self.world_size) != (world.rank, world.size):
            warnings.warn(
                f"this is process {world.rank} of {world.size}, but {type(self).__name__} plans for rank={self.rank} "
                f"of world_size={self.world_size}, so processes may train on the same batches: pass "
                f"rank=torch.distributed.get_rank(), world_size=torch.distributed.get_world_size()",
                stacklevel=3,
            )
        self._place_checked = True

    def _refuse_as_sampler(self) -> None:
        if _serves_batch_sampler(self):
            raise TypeError(
                f"{type(self).__name__} hands out whole batches: pass it as DataLoader(..., batch_sampler=...), "
                "not as sampler=...; for a trainer of pytorch-metric-learning, "
                "legolas_metric.interop.pml.as_sampler(sampler)"
            )

    @property
    def sampler(self) -> "PlannedSampler":
        """Itself: Lightning calls `set_epoch` on a loader's `batch_sampler.sampler`."""
        return self

    @property
    def position(self) -> tuple[int, int]:
        """The epoch, and the batch of it that comes next."""
        return self.epoch, self._next

    @property
    def choice(self) -> Int64[Tensor, "b p"] | None:
        """What the epoch's plan rests on beside the settings, for `state_at`; None where there is nothing."""
        return None

    def state_at(self, epoch: int, batch: int, choice: Int64[Tensor, "b p"] | None) -> dict[str, Any]:
        """The state before a batch of any epoch, planned by the choice that it had then."""
        return {"epoch": epoch, "batch": batch, **self.settings()}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration hands out; call it on every rank, with the same number.

        The epoch at which a loaded state stands goes on where it stood; any other begins at its first batch. From the
        first call on, iterations no longer move on by themselves.
        """
        epoch = check_whole("epoch", epoch, 0)
        self._set = True
        if epoch != self.epoch:
            self.epoch, self._start, self._next = epoch, 0, 0

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Where the epoch stands, for `load_state_dict`.

        Args:
            consumed: batches of this epoch that were trained on (default: that were handed out). A loader with
                workers asks for batches ahead of their use: pass the number that the training loop counted.

        Raises:
            ValueError: consumed lies outside the epoch.
        """
        done = self._next if consumed is None else consumed
        if not 0 <= done <= len(self):
            raise ValueError(f"consumed must lie in 0..{len(self)}, the batches of an epoch, got {consumed}")
        check_whole("consumed", done, 0)
        return self.state_at(self.epoch, done, self.choice)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` stood: the next iteration yields what was left of that epoch.

        After a whole epoch, that is the next epoch's first batch. A state serves every rank.

        Raises:
            ValueError: the state is of a sampler with other settings, which would plan other batches, or no state.
        """
        own = self.settings()
        other = [f"{key} (saved {state.get(key)}, here {own[key]})" for key in own if state.get(key) != own[key]]
        if other or not {"epoch", "batch"} <= state.keys():
            raise ValueError(
                f"this state is of another sampler: {', '.join(other) or 'epoch or batch is missing'}. "
                "Construct the sampler with the settings and data it was saved with"
            )
        self.epoch, self._start = (check_whole(f"the state's {key}", state[key], 0) for key in ("epoch", "batch"))
        if self._start >= len(self):
            self.epoch, self._start = self.epoch + 1, 0
        self._next, self._begun = self._start, False


def checked_place(rank: Any, world_size: Any, seed: Any) -> tuple[int, int, int]:
    """The same as Python's integers; raise unless a process has its place in the world."""
    rank, world_size = check_whole("rank", rank, 0), check_whole("world_size", world_size, 1)
    if rank >= world_size:
        raise ValueError(f"rank must lie in 0..{world_size - 1} for world_size={world_size}, got {rank}")
    return rank, world_size, check_whole("seed", seed, -(2**63))


def checked_shape(p: Any, k: Any) -> tuple[int, int]:
    """Classes of a batch and examples of each, as Python's integers; raise unless both are at least 2."""
    for name, value, why in (
        ("p", p, "a batch of one class has no negatives"),
        ("k", k, "one example of a class has no positive in its batch"),
    ):
        if check_whole(name, value, 1) < 2:
            raise ValueError(f"{name} must be at least 2, got {value}: {why}")
    return int(p), int(k)


def _serves_batch_sampler(sampler: PlannedSampler) -> bool:
    """Whether a `BatchSampler` asks: a loader builds one around what it was given as `sampler=`.

    Only frames of `BatchSampler` are looked into: Python 3.11 keeps a copy of all names of a frame that is looked
    into, so a loop's iterator would live, workers and all, after the loop has let go of it.
    """
    asks = (BatchSampler.__iter__.__code__, BatchSampler.__len__.__code__)
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code in asks and frame.f_locals["self"].sampler is sampler:
            return True
        frame = frame.f_back
    return False
