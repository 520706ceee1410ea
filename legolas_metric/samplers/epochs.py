"""What all batch samplers share: a planned epoch, handed out batch by batch, that can be left and taken up again."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Sampler

from legolas_metric.checks import check_whole


class PlannedSampler(Sampler[list[int]], ABC):
    """A batch sampler for `DataLoader(batch_sampler=...)`: plans an epoch, yields its batches as lists of row numbers.

    The plan depends on the settings and the epoch alone: not on what was drawn before, not on a global random state.
    Iterating again without `set_epoch` repeats the epoch, as `torch.utils.data.DistributedSampler` does.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._start = 0  # where the next iteration begins: 0, unless a state was loaded
        self._next = 0  # the batch that the running iteration yields next

    @abstractmethod
    def plan(self) -> Sequence[Int64[Tensor, " b"]]:
        """The batches of the current epoch, as row numbers."""

    @abstractmethod
    def settings(self) -> Mapping[str, int]:
        """What the plan depends on, the epoch aside: a state is only good for equal settings."""

    @abstractmethod
    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.plan()
        start, self._start = self._start, 0
        for place in range(start, len(batches)):
            self._next = place + 1
            yield batches[place].tolist()

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

        The epoch at which a loaded state stands goes on where it stood; any other begins at its first batch.
        """
        epoch = check_whole("epoch", epoch, 0)
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
        self._next = self._start


def checked_place(rank: Any, world_size: Any, seed: Any) -> tuple[int, int, int]:
    """The same as Python's integers; raise unless a process has its place in the world."""
    rank, world_size = check_whole("rank", rank, 0), check_whole("world_size", world_size, 1)
    if rank >= world_size:
        raise ValueError(f"rank must lie in 0..{world_size - 1} for world_size={world_size}, got {rank}")
    return rank, world_size, check_whole("seed", seed, -(2**63))
