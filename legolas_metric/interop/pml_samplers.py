"""Our samplers where PML's trainers take one."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from legolas_metric.samplers.epochs import PlannedSampler


def as_sampler(sampler: Sampler[list[int]]) -> "FlatSampler":
    """One of our batch samplers as rows one by one: for `MetricLossOnly(sampler=..., batch_size=...)`.

    PML's trainers take a sampler of rows and cut it into batches of `batch_size` by themselves; a batch sampler in its
    place is asked for batches of batches. Give the trainer `batch_size=as_sampler(s).batch_size`, so that its batches
    are the sampler's.

    Args:
        sampler: `PKSampler`, `NeighborPKSampler` or `TripletSampler`, whose batches are all of one size.

    Raises:
        TypeError: no batch sampler of this library.
        ValueError: while it is iterated, a batch of another size than the first: the trainer's cuts would move.

    Example:
        >>> from legolas_metric import PKSampler
        >>> from legolas_metric.interop.pml import as_sampler
        >>> flat = as_sampler(PKSampler([0, 0, 1, 1, 2, 2, 3, 3], p=2, k=2))
        >>> flat.batch_size, len(flat), sorted(flat)
        (4, 8, [0, 1, 2, 3, 4, 5, 6, 7])

    Source: ours.
    """
    if not isinstance(sampler, PlannedSampler):
        raise TypeError(f"as_sampler takes a PKSampler, NeighborPKSampler or TripletSampler, got {type(sampler)}")
    return FlatSampler(sampler)


class FlatSampler(Sampler[int]):
    """The rows of a batch sampler, batch after batch; see `as_sampler`.

    Example:
        >>> from legolas_metric import PKSampler
        >>> from legolas_metric.interop.pml import FlatSampler
        >>> len(FlatSampler(PKSampler([0, 0, 1, 1], p=2, k=2)))
        4

    Source: ours.
    """

    def __init__(self, sampler: PlannedSampler) -> None:
        self.sampler = sampler
        self.batch_size = len(sampler.plan()[0])

    def __len__(self) -> int:
        return len(self.sampler) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        for batch in self.sampler:
            if len(batch) != self.batch_size:
                raise ValueError(
                    f"batches of {self.batch_size} and of {len(batch)} rows: a trainer that cuts rows into equal "
                    "batches would mix them; use a PKSampler, or a DataLoader(batch_sampler=...) of your own"
                )
            yield from batch
