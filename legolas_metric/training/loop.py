"""Global mining in a plain loop: refresh the bank, mine, and make the epoch's batches of what was found."""

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, Metric, check_metric
from legolas_metric.datasets.embedding import Collate, Encoder, PassSettings
from legolas_metric.datasets.source import Inputs, Source
from legolas_metric.distributed import ALONE, World
from legolas_metric.miners.schedule import MiningSchedule, TripletMiner
from legolas_metric.recipes import Recipe
from legolas_metric.rows import as_groups
from legolas_metric.signatures import typed
from legolas_metric.training.batches import CollateExamples, Examples, ResumableLoader
from legolas_metric.training.embedder import Embedder, Placed, averaging
from legolas_metric.training.feeding import Feeder
from legolas_metric.training.history import RunHistory
from legolas_metric.training.holding import Holding
from legolas_metric.training.loop_state import check_state, saved_state, take_up
from legolas_metric.training.rounds import MiningRound
from legolas_metric.training.settings import Kind, Pairs, Rhythm, asked

log = logging.getLogger(__name__)

Batch = tuple[Any, Int64[Tensor, " b"], Int64[Tensor, " b"]]
"""Inputs, labels and ids."""


class MiningLoop:
    """Mines the whole training set at the start of every epoch, and hands out batches made of what was found.

    Each round embeds the data set with the encoder as it is, asks the schedule for the epoch's miner, mines, and plans
    batches in which anchor, positive and negative stand together. Triplets of different classes share few rows, so
    their batches often are more than the steps of an epoch: `fed` of a round says which share was taken.

    Behaviour in corner cases: a round within an epoch replaces the mined batches of the steps that are left, but for
    those that a loader has fetched ahead, and the class graph of "neighbors", whose seeds go on where they were; none
    is mined after an epoch's last step, as the next epoch begins with one. Batches that have all been taken come again,
    in another order. A loop that is left by `break` has ended its epoch. Inputs come as the loader gives them: moving
    them to a device is the training loop's job. Memory of a refresh: the bank and one batch (the bank twice, at first).

    Args:
        dataset: an array, or any object with `len` and `[]`: items x or (x, ...); ((a, b), y) has two inputs.
        labels: [n] integers.
        miner, schedule: one miner, or which is in charge from which epoch.
        recipe: in place of these, and of turns, k and every: `recipes.near()`.
        embed_dataset: the same examples as plain views, from which the bank is made (default: `dataset`; where its
            reads of one example differ, a warning tells by how much).
        batch_size: rows of a batch.
        turns: where batches come from, in turn: "mined" triplets (the default), "neighbors" (P near classes), "random".
        k: examples of a class in the latter two (default: 4); P is batch_size // k (of a recipe, at most all classes).
        pairs: "batch": `indices` is for whoever wants it; "mined": the loss is to see only the mined triplets.
        steps_per_epoch: default ceil(n / batch_size).
        every, every_steps: mine every so many epochs (default: 1), and every so many steps within an epoch.
        rotate: rewrite this share of the bank after each step, in turn, in place of embedding the whole set for each
            round. Its rows are then up to 1 / rotate steps old: `triplets.stats` tells age and drift, and a miner's
            `max_staleness` refuses an older bank.
        ema: embed with an exponential moving average of the encoder with this decay, which moves more slowly.
        ids, groups, metric: as `EmbeddingBank`.
        embed_batch_size: examples of an embedding pass at a time.
        collate_fn: makes a batch of a list of inputs, alone (default: stacks them); for embedding and training.
        num_workers, pin_memory, persistent_workers: of the loaders, for embedding and training.
        seed: of the batches.
        progress: show a bar while embedding.
        history: a `RunHistory`, or its path, to which every round is written (by the first process).
        world: the processes that train together: `World.current(averages_gradients=True)`. Each embeds its part and
            trains on its part of a joint batch of batch_size * world.size rows; all hold the bank, if it fits.
        memory_mb: what this may take on a process, in MiB (default: an equal part of what is free).

    Raises:
        TypeError, ValueError: settings out of bounds, before anything is embedded; while training, a miner that finds
            no triplet at all.

    Example:
        >>> import torch
        >>> from legolas_metric import HardMiner, MiningLoop, SupConLoss
        >>> x, labels = torch.randn(60, 8), torch.arange(60) // 6
        >>> encoder, loss = torch.nn.Linear(8, 4), SupConLoss()
        >>> loop = MiningLoop(x, labels, miner=HardMiner(), batch_size=20, progress=False)
        >>> for inputs, y, ids in loop.epoch(encoder):
        ...     value = loss(encoder(inputs), y, loop.indices(ids))
        >>> loop.last.miner, len(loop.last.triplets), loop.next_epoch
        ('HardMiner', 60, 1)

    Source: ours.
    """

    @typed
    def __init__(
        self,
        dataset: Source,
        labels: ArrayLike,
        *,
        miner: TripletMiner | None = None,
        schedule: MiningSchedule | TripletMiner | None = None,
        recipe: Recipe | None = None,
        embed_dataset: Source | None = None,
        batch_size: int = 128,
        turns: Sequence[Kind] | None = None,
        k: int | None = None,
        pairs: Pairs = "batch",
        steps_per_epoch: int | None = None,
        every: int | None = None,
        every_steps: int | None = None,
        rotate: float | int | None = None,
        ema: float | int | None = None,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        metric: Metric = "cosine",
        embed_batch_size: int = 512,
        collate_fn: Collate | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        persistent_workers: bool = False,
        seed: int = 0,
        progress: bool = True,
        history: RunHistory | str | os.PathLike[str] | None = None,
        world: World = ALONE,
        memory_mb: float | int | None = None,
    ) -> None:
        check_metric(metric)
        plan = asked(recipe, schedule=schedule, miner=miner, turns=turns, k=k, every=every, seed=seed)
        self.schedule = plan.schedule
        self.rhythm = Rhythm(every=plan.every, every_steps=every_steps, rotate=rotate, ema=ema)
        feeding = plan.feeding(batch_size=batch_size, pairs=pairs, steps_per_epoch=steps_per_epoch, seed=seed)
        self.passes = PassSettings(
            batch_size=embed_batch_size,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
            progress=progress,
        )
        self.examples = Examples(dataset, labels, ids=ids)
        n = len(self.examples)
        plain = self.examples.inputs if embed_dataset is None else Inputs(embed_dataset)
        if len(plain) != n:
            raise ValueError(f"embed_dataset has {len(plain)} examples, the data set {n}: they must be the same ones")
        self._own_views = embed_dataset is not None
        self.embedder = Embedder(
            plain,
            labels=self.examples.labels,
            ids=self.examples.ids,
            groups=as_groups(groups, n, of="the data set"),
            metric=metric,
            settings=self.passes,
        )
        self.feeder = Feeder(self.examples, feeding, self.embedder.groups)
        self.history = history if history is None or isinstance(history, RunHistory) else RunHistory(history)
        self.holding = Holding(self.embedder, memory_mb, self.history)
        self.rounds: list[MiningRound] = []
        self.bank: EmbeddingBank | None = None
        self.current = self.done = self.step = 0  # of training: the epoch, its steps so far, and all steps
        self.averaged: AveragedModel | None = None
        self.next_row = 0  # of the bank, which is rewritten next
        self._saved: Mapping[str, Any] | None = None  # a loaded state, until training begins
        self.batches_out = False  # whether a batch was handed out whose step is not yet followed up
        self.complete = True  # whether the current epoch is through, or none has begun
        self.value: float | None = None
        self.join(world)

    @property
    def last(self) -> MiningRound:
        """The last round.

        Raises:
            ValueError: nothing was mined yet.
        """
        if not self.rounds:
            raise ValueError("nothing was mined yet: iterate epoch(encoder)")
        return self.rounds[-1]

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self.feeder.batches)

    @property
    def next_epoch(self) -> int:
        """The epoch that `epoch` hands out next, or goes on with."""
        if self._saved is not None:
            return self._saved["epoch"] + (self._saved["batches"]["step"] >= self.steps)
        return self.current + (self.complete and bool(self.rounds))

    def indices(self, ids: ArrayLike) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " m"], Int64[Tensor, " m"]]:
        """The mined triplets that lie in a batch, as positions in it: pytorch-metric-learning's `indices_tuple`."""
        return self.last.triplets.locate(ids)

    def loader(self, *, num_workers: int | None = None) -> ResumableLoader:
        """The data loader of the batches, which every round makes anew."""
        workers = self.passes.num_workers if num_workers is None else num_workers
        return ResumableLoader(
            self.examples,
            batch_sampler=self.feeder.batches,
            num_workers=workers,
            collate_fn=CollateExamples(self.passes.collate_fn),
            pin_memory=self.passes.pin_memory,
            persistent_workers=self.passes.persistent_workers and workers > 0,
            # its own, so that an iteration draws nothing from others
            generator=torch.Generator().manual_seed(self.feeder.settings.seed),
        )

    def epoch(self, encoder: Encoder, *, value: float | None = None) -> Iterator[Batch]:
        """The batches of the next epoch, mined first, if that is due; of a loaded state, those that were left.

        Args:
            encoder: maps inputs to [b, d]; a module is embedded with in evaluation mode.
            value: what a schedule's `Plateau` looks at, such as the last validation's Rank@1.
        """
        # DistributedDataParallel's own forward is for training: it waits for the other processes
        placed = Placed(encoder.module if isinstance(encoder, DistributedDataParallel) else encoder)
        self.value = value
        epoch = self.next_epoch
        self.start(placed)
        if self._saved is not None:
            self.resume(placed)
        self._follow_up(placed)
        if self.current != epoch or self.complete:
            self.begin(placed, epoch=epoch, step=self.step, value=value)
        try:
            for batch in self.loader():
                self.done, self.step, self.batches_out = self.done + 1, self.step + 1, True
                yield batch
                self._follow_up(placed)
        finally:  # also where the loop is left by `break`
            self.complete = True

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs beside encoder and optimiser, also in the midst of an epoch.

        That is the bank (of several processes that keep their own rows, this one's), the schedule with its miners, the
        last round, where the samplers stand, the averaged encoder, and the random generators of the process. The batch
        that was handed out last counts as trained on. Settings, indexes and data are not in it: construct as before.
        """
        return {} if self.bank is None else saved_state(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state when training begins; `rounds` then starts with the last round before it.

        Raises:
            ValueError: this run averages its encoder (`ema`) and the saved one did not, or the other way round.
        """
        check_state(self, state)
        self._saved = state or None

    # The parts of a round, for whoever drives the loop from outside, as `GlobalMining` does

    def join(self, world: World) -> None:
        """Work together with the processes of a world from here on; before anything was mined."""
        self.world = world
        self.holding.join(world)
        self.feeder.join(world)

    def start(self, placed: Placed) -> None:
        """Before the first epoch: make the averaged encoder."""
        if self.rhythm.ema is None or self.averaged is not None:
            return
        self.averaged = averaging(placed.encoder, float(self.rhythm.ema))

    def begin(self, placed: Placed, *, epoch: int, step: int, value: float | None = None, due: bool = False) -> None:
        """Begin an epoch: mine, if that is due (or asked for), and plan its batches."""
        self.current, self.done, self.step, self.value = epoch, 0, step, value
        self.complete = False
        if due or self.bank is None or epoch % self.rhythm.every == 0 or epoch == self.feeder.settings.warm_up:
            self.mine(placed)
        self.feeder.batches.set_epoch(epoch)

    def after_step(self, placed: Placed) -> None:
        """After an optimiser's step, which `step` and `done` count: keep average and bank up; mine, if that is due."""
        if self.averaged is not None:
            assert isinstance(placed.encoder, nn.Module)
            self.averaged.update_parameters(placed.encoder)
        if self.rhythm.rotate is not None:
            assert self.bank is not None
            n = len(self.examples)
            rows = (self.next_row + torch.arange(math.ceil(self.rhythm.rotate * n))) % n
            self.next_row = int(rows[-1] + 1) % n
            self.holding.rewrite(self.bank, self.embedding(placed), step=self.step, rows=rows)
        every = self.rhythm.every_steps
        if every is not None and self.step % every == 0 and self.step > self.last.step and self.done < self.steps:
            self.mine(placed)

    def mine(self, placed: Placed) -> None:
        """One round: refresh the bank, mine it, make batches for the steps that are left, and keep the record.

        Raises:
            ValueError: a miner that finds no triplet.
        """
        epoch, step, encoding = self.current, self.step, self.embedding(placed)
        with self.world.meeting("mining"):
            self.world.tell(None, "mining", call="MiningLoop.mine")
        times = [time.perf_counter()]
        if self.bank is None:
            if not self._own_views:
                self.embedder.warn_of_random_views(encoding)
            self.bank = self.holding.embed(encoding, self.schedule, epoch=epoch, step=step)
        elif self.rhythm.rotate is None:
            self.holding.rewrite(self.bank, encoding, step=step)
        times.append(time.perf_counter())
        miner = self.schedule.advance(epoch, value=self.value)
        triplets = self.holding.mine(miner, self.bank, epoch=epoch)
        times.append(time.perf_counter())
        near = self.holding.near(self.bank, self.feeder.settings)
        fed = self.feeder.feed(triplets, near, epoch=epoch, done=self.done)
        times.append(time.perf_counter())
        encode, mine, plan = (after - before for before, after in pairwise(times))
        done = MiningRound(
            epoch=epoch,
            step=step,
            miner=type(miner).__name__,
            triplets=triplets,
            fed=fed,
            encode_seconds=encode,
            mine_seconds=mine,
            plan_seconds=plan,
            drift=self.bank.drift,
            margin=getattr(getattr(miner, "strategy", None), "margin", None),
        )
        self.rounds.append(done)
        if self.history is not None and self.world.rank == 0:
            self.history.round(epoch=epoch, step=step, values=done.values(), **done.words())
        log.info("%s", done.summary())

    def resume(self, placed: Placed) -> None:
        """Go on where the loaded state stood; call `start` before."""
        saved, self._saved = self._saved, None
        assert saved is not None
        take_up(self, saved, placed)

    def _follow_up(self, placed: Placed) -> None:
        """What a step of the training loop calls for, once."""
        if self.batches_out:
            self.batches_out = False
            self.after_step(placed)

    def embedding(self, placed: Placed) -> Placed:
        """The encoder that embeds: the average, where there is one."""
        return placed if self.averaged is None else Placed(self.averaged, None, placed.device, placed.context)
