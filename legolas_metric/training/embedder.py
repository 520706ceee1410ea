"""Embeds one data set again and again, with an encoder that moves on, wherever and however that one runs."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset

from legolas_metric.bank import EmbeddingBank
from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import Metric, check_metric
from legolas_metric.datasets.embedding import (
    Encoder,
    PassSettings,
    embed_each,
    embed_rows,
    evened,
    input_loader,
    shared_rows,
)
from legolas_metric.datasets.source import Inputs, Whole
from legolas_metric.distributed import ALONE, World
from legolas_metric.training.resume import generator_states, restore_generators

_READ_TWICE = 32  # examples


@dataclass(frozen=True, slots=True)
class Placed:
    """An encoder, with where and how it runs.

    Attributes:
        encoder: maps inputs to [b, d].
        module: whose parts are put into evaluation mode; None for the encoder, where it is a module.
        device: where it runs; None for its own.
        context: entered around each forward pass.
    """

    encoder: Encoder
    module: nn.Module | None = None
    device: torch.device | None = None
    context: Callable[[], AbstractContextManager[Any]] = nullcontext


class Embedder:
    """Makes a bank of a data set, and rewrites it; a rewrite needs one batch, or 64 MiB, beside the bank.

    Args:
        inputs: what is embedded.
        labels, ids, groups: of its rows.
        metric: of the bank.
        settings: how the data set is read.
    """

    def __init__(
        self,
        inputs: Inputs,
        *,
        labels: Int64[Tensor, " n"],
        ids: Int64[Tensor, " n"],
        groups: Int64[Tensor, " n"] | None,
        metric: Metric,
        settings: PassSettings,
    ) -> None:
        check_metric(metric)
        self.inputs, self.labels, self.ids, self.groups = inputs, labels, ids, groups
        self.metric: Metric = metric
        self.settings = settings
        self.world = ALONE
        self._loader: DataLoader[Any] | None = None

    def join(self, world: World) -> None:
        """Share every pass with the processes of a world: each embeds its part, and gets the rows of all."""
        self.world, self._loader = world, None

    def part(self, rows: slice) -> "Embedder":
        """Of some rows alone, which this process embeds by itself."""
        numbers = torch.arange(len(self.inputs))[rows]
        return Embedder(
            Inputs(Whole(Subset(self.inputs, numbers.tolist()))),
            labels=self.labels[numbers],
            ids=self.ids[numbers],
            groups=None if self.groups is None else self.groups[numbers],
            metric=self.metric,
            settings=self.settings,
        )

    def first(self, placed: Placed) -> Float32[Tensor, "1 d"]:
        """The embedding of the first example; leaves the random generators as they were."""
        before = generator_states()
        found = self._few(placed, [self.inputs[0]], self.ids[:1])
        restore_generators(before)
        return found

    def lead(self, placed: Placed) -> None:
        """Give all processes the encoder's running statistics of the first: each has those of its own batches."""
        module = placed.module if placed.module is not None else placed.encoder
        if isinstance(module, nn.Module):
            for buffer in module.buffers():
                self.world.lead(buffer)

    def quiet(self) -> None:
        """Show no bar from here on: another one has the screen."""
        self.settings = replace(self.settings, progress=False)

    def of_rows(self, rows: Tensor, steps: Tensor, drift: float | None) -> EmbeddingBank:
        """The bank that has these rows, as a saved state holds them, and owns them."""
        bank = EmbeddingBank.of_own(rows, self.labels, ids=self.ids, groups=self.groups, metric=self.metric)
        bank.steps.copy_(steps)
        bank.drift = drift
        return bank

    def embed(self, placed: Placed, *, step: int, progress: bool | None = None) -> EmbeddingBank:
        """A bank of the whole set."""
        world = self._sharing(placed, len(self.inputs))
        rows = embed_rows(
            placed.encoder,
            self._all(world),
            self.ids,
            metric=self.metric,
            module=placed.module,
            device=placed.device,
            context=placed.context,
            progress=self.settings.progress if progress is None else progress,
            world=world,
        )
        return EmbeddingBank.of_own(rows, self.labels, ids=self.ids, groups=self.groups, metric=self.metric, step=step)

    def rewrite(
        self, bank: EmbeddingBank, placed: Placed, *, step: int, rows: Int64[Tensor, " m"] | None = None
    ) -> None:
        """Write all rows of a bank anew, or some of them; its drift is that of all that were written."""
        names = self.ids if rows is None else self.ids[rows]
        world = self._sharing(placed, len(names))
        if rows is None:
            loader = self._all(world)
        else:  # a few: workers would take longer to start than to read them
            settings = replace(self.settings, num_workers=0, persistent_workers=False)
            loader = self._reading(world, settings, rows)
        drifts: list[float] = []
        held: list[Tensor] = []  # batches that wait to be written together: each writing looks all ids up
        written = 0

        def flush() -> None:
            nonlocal written
            new = torch.cat(held)
            held.clear()
            drifts.append(len(new) * bank.update(names[written : written + len(new)], new, step=step))
            written += len(new)

        def take(begin: int, part: Tensor) -> None:
            held.append(part)
            end = begin + len(part)
            if end == len(names) or end - written >= rows_for(BLOCK, 4 * part.shape[1]):
                flush()

        embed_each(
            placed.encoder,
            loader,
            take,
            module=placed.module,
            device=placed.device,
            context=placed.context,
            progress=self.settings.progress and rows is None,
            world=world,
        )
        bank.drift = sum(drifts) / len(names)

    def warn_of_random_views(self, placed: Placed) -> None:
        """Warn, with the drift of an encoder that stands still, where two reads of an example differ."""
        if self.world.rank:
            return
        before = generator_states()
        rows = torch.linspace(0, len(self.inputs) - 1, min(_READ_TWICE, len(self.inputs))).long()
        reads = [[self.inputs[int(row)] for row in rows] for _ in range(2)]
        if not _same(*reads):
            both = [self._few(placed, read, self.ids[rows]) for read in reads]
            drift = float(torch.cosine_similarity(both[0], both[1]).mean())
            warnings.warn(
                f"two reads of an example differ: the embeddings of {len(rows)} examples, read twice, have a mean "
                f"cosine of {drift:.3f} to each other. The bank is made of such random views: pass embed_dataset, the "
                f"same examples as plain views",
                stacklevel=2,
            )
        restore_generators(before)

    def _few(self, placed: Placed, read: list[Any], ids: Int64[Tensor, " m"]) -> Float32[Tensor, "m d"]:
        """The embeddings of inputs that are read already."""
        settings = replace(self.settings, num_workers=0, persistent_workers=False, progress=False)
        return embed_rows(
            placed.encoder,
            input_loader(Inputs(Whole(read)), settings),
            ids,
            metric=self.metric,
            module=placed.module,
            device=placed.device,
            context=placed.context,
            progress=False,
        )

    def _all(self, world: World) -> DataLoader[Any]:
        if self._loader is None or not self.settings.persistent_workers:
            self._loader = self._reading(world, self.settings, None)
        return self._loader

    def _reading(self, world: World, settings: PassSettings, rows: Int64[Tensor, " m"] | None) -> DataLoader[Any]:
        """This process's part of some rows (None: all), in batches."""
        if world.size > 1:
            part, settings = shared_rows(len(self.inputs) if rows is None else len(rows), settings, world)
            rows = part if rows is None else rows[part]
        else:
            settings = evened(len(self.inputs) if rows is None else len(rows), settings)
        return input_loader(self.inputs if rows is None else Subset(self.inputs, rows.tolist()), settings)

    def _sharing(self, placed: Placed, n: int) -> World:
        """The processes that share a pass over n rows, with equal encoders: none where there are fewer rows."""
        self.lead(placed)
        return self.world if n >= self.world.size else ALONE


def averaging(encoder: Encoder, decay: float) -> AveragedModel:
    """An exponential moving average of an encoder, buffers too, that begins with it as it is.

    Raises:
        TypeError: an encoder that is no module.
    """
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"ema averages the parameters of an encoder that is a module, got {encoder!r}")
    averaged = AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    averaged.update_parameters(encoder)  # the first one copies
    return averaged


def _same(one: Any, other: Any) -> bool:
    """Whether two inputs are equal, part by part; what can't be compared counts as equal."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(part, other[key]) for key, part in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    try:
        return type(one).__eq__ is object.__eq__ or bool(one == other)
    except (TypeError, ValueError):
        return True
