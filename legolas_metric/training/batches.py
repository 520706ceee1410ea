"""What a training loop iterates: examples with their ids, in batches from samplers that may change while it runs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from legolas_metric.checks import ArrayLike
from legolas_metric.datasets.embedding import Collate, stacked
from legolas_metric.datasets.source import Inputs, Source
from legolas_metric.distributed import ALONE, World
from legolas_metric.rows import as_ids, as_labels
from legolas_metric.samplers.epochs import PlannedSampler

_Place = tuple[int, int, Int64[Tensor, "b p"] | None]  # an epoch, a batch of it, and the choice of its plan


class Examples(Dataset[tuple[Any, int, int]]):
    """(input, label, id) of every row: what `MetricLearner` trains on."""

    def __init__(self, dataset: Source, labels: ArrayLike, *, ids: ArrayLike | None = None) -> None:
        self.inputs = Inputs(dataset)
        self.labels = as_labels(labels, len(self.inputs), of="the data set")
        self.ids = as_ids(ids, len(self.inputs), of="the data set")

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> tuple[Any, int, int]:
        return self.inputs[row], int(self.labels[row]), int(self.ids[row])


class CollateExamples:
    """Makes (inputs, labels, ids) of a list of examples; `collate_fn` receives their inputs alone."""

    def __init__(self, collate_fn: Collate | None) -> None:
        self.collate_fn = collate_fn or stacked

    def __call__(self, examples: list[tuple[Any, int, int]]) -> tuple[Any, Int64[Tensor, " b"], Int64[Tensor, " b"]]:
        """The batch of some examples."""
        inputs, labels, ids = zip(*examples, strict=True)
        return self.collate_fn(list(inputs)), torch.tensor(labels), torch.tensor(ids)


class WithIds(Dataset[Any]):
    """A data set whose items also tell their id: (x, y) becomes (x, y, id), x (x, id), and a dict has "ids".

    For a loader of one's own, so that the training loop can ask for the mined triplets of its batch:
    `loop.indices(ids)`, or `triplets.locate(ids)`.

    Args:
        dataset: any object with `len` and `[]`.
        ids: [n] unique, >= 0 (default: row numbers).

    Raises:
        TypeError, ValueError: no such object, or ids that are not one for each example.

    Example:
        >>> from legolas_metric.training import WithIds
        >>> WithIds([("a", 0), ("b", 1)], ids=[7, 9])[1]
        ('b', 1, 9)

    Source: ours.
    """

    def __init__(self, dataset: Source, *, ids: ArrayLike | None = None) -> None:
        self.inputs = Inputs(dataset)
        self.ids = as_ids(ids, len(self.inputs), of="the data set")

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> Any:
        item, name = self.inputs.source[row], int(self.ids[row])
        if isinstance(item, dict):
            return item | {"ids": name}
        return (*item, name) if isinstance(item, tuple | list) else (item, name)


class FedBatches(Sampler[list[int]]):
    """A batch sampler of fixed length whose batches come, in turn, from the samplers that it was last fed.

    A sampler that runs dry starts over, with its next epoch's order. So an epoch has the same number of steps however
    many triplets were mined, and runs can be compared at equal steps. Samplers may be fed while an epoch runs: the next
    batch comes from them, and those that were there before go on where they stand.

    Of several processes, each draws the same joint batches and hands out its own part of them, of equal length where
    their number divides the batch's; states are of the joint batches, so that one serves every process.
    """

    def __init__(self, steps: int) -> None:
        self.world, self.steps = ALONE, steps
        self._sources: Sequence[PlannedSampler] = ()
        self._start = self._first = 0  # the steps at which the next and the last iteration begin: 0, but after a load
        # Of each step: from where it was drawn, where that stood, and the batch.
        self._drawn: list[tuple[PlannedSampler | None, _Place | None, list[int]]] = []
        self._fetched: dict[int, list[int]] = {}  # steps whose batch came from samplers that a saved run had let go

    def join(self, world: World, steps: int) -> None:
        """Hand out this process's parts of so many batches an epoch."""
        self.world, self.steps = world, steps

    def feed(self, sources: Sequence[PlannedSampler], epoch: int) -> None:
        """Take the samplers of the coming steps, one for each turn; the same object may stand in several."""
        new = [source for source in sources if source not in self._sources]
        self._sources = sources
        for source in new:
            source.divided()
            source.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch: each sampler plans its batches for it."""
        self._start, self._fetched = 0, {}
        for source in self._sources:
            source.set_epoch(epoch)

    def state_dict(self, consumed: int) -> dict[str, Any]:
        """Where the samplers stand after so many steps of the running epoch, whatever a loader has fetched ahead."""
        ahead = self._drawn[consumed - self._first :]
        first = {source: place for source, place, _ in reversed(ahead)}
        places = {source: first.get(source) or (*source.position, source.choice) for source in self._sources}
        gone = {consumed + i: batch for i, (source, _, batch) in enumerate(ahead) if source not in self._sources}
        gone = {step: batch for step, batch in (self._fetched | gone).items() if step >= consumed}
        sources = [source.state_at(*place) for source, place in places.items()]
        return {"step": consumed, "sources": sources, "fetched": gone}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` stood, with samplers like those that were fed then."""
        self._start, self._fetched = state["step"], dict(state["fetched"])
        for source, saved in zip(dict.fromkeys(self._sources), state["sources"], strict=True):
            source.load_state_dict(saved)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.joint():
            yield batch[self.world.part(len(batch))]

    def joint(self) -> Iterator[list[int]]:
        """The batches of all processes together."""
        if not self._sources:
            raise RuntimeError(
                "batches were drawn before anything was mined: pass this GlobalMining to the Trainer's callbacks, and "
                "with num_workers > 0 don't read trainer.estimated_stepping_batches in configure_optimizers. "
                "(Tuner.lr_find suspends all callbacks, GlobalMining too: call mining.prepare(module) before it.)"
            )
        streams: dict[PlannedSampler, Iterator[list[int]]] = {}
        self._first, self._start = self._start, 0
        self._drawn = []
        for step in range(self._first, self.steps):
            if step in self._fetched:
                batch = self._fetched[step]
                self._drawn.append((None, None, batch))
            else:
                source = self._sources[step % len(self._sources)]
                batch = next(streams.setdefault(source, _endless(source)))
                epoch, following = source.position
                self._drawn.append((source, (epoch, following - 1, source.choice), batch))
            yield batch


class ResumableLoader(DataLoader[Any]):
    """What Lightning goes on with in mid-epoch; where its batches stand is in the state of `GlobalMining`.

    Its batches are divided among the processes already, which Lightning takes from the class of `sampler` alone: else
    it would want to divide them by a sampler of its own.
    """

    sampler = DistributedSampler(range(1), num_replicas=1, rank=0)  # pyright: ignore  (unused: batches are planned)

    def __setattr__(self, attr: str, value: Any) -> None:
        if attr != "sampler":
            super().__setattr__(attr, value)

    def __getstate__(self) -> dict[str, Any]:
        # A spawned process can't read a generator: the tensor of its state is gone before it gets there.
        assert self.generator is not None
        return self.__dict__ | {"generator": self.generator.initial_seed()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"generator": torch.Generator().manual_seed(state["generator"])})

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""


def _endless(source: PlannedSampler) -> Iterator[list[int]]:
    while True:
        yield from source
        source.set_epoch(source.epoch + 1)
