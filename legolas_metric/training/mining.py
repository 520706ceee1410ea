"""Global mining as a callback of Lightning's: a `MiningLoop` that the Trainer drives."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import lightning as L
from jaxtyping import Int64
from torch import Tensor, nn

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, Metric
from legolas_metric.datasets.embedding import Collate
from legolas_metric.datasets.source import Source
from legolas_metric.miners.schedule import MiningSchedule, TripletMiner
from legolas_metric.recipes import Recipe
from legolas_metric.training.batches import Examples, FedBatches, ResumableLoader
from legolas_metric.training.embedder import Placed
from legolas_metric.training.encoder_option import EncoderOption, check_encoder, encoder_of
from legolas_metric.training.loop import MiningLoop
from legolas_metric.training.module import MetricLearner
from legolas_metric.training.module_encoder import finished, placed_encoder, world_of
from legolas_metric.training.monitor import ValidationMonitor
from legolas_metric.training.recording import (
    HistoryOption,
    check_history,
    record_end,
    record_epoch,
    record_failure,
    record_mining,
    record_start,
)
from legolas_metric.training.rounds import MiningRound
from legolas_metric.training.settings import Kind, Pairs


class GlobalMining(L.Callback):
    """Mine the whole training set at the start of every epoch, and build the epoch's batches from what was found.

    A `MiningLoop` that the Trainer drives, for any LightningModule: see there for what a round does, and for behaviour
    in corner cases. The encoder embeds in the Trainer's precision, on the module's device. Every round is kept in
    `rounds`, and goes to every logger and to `history.jsonl` of the run's folder. Of several processes under DDP each
    embeds its part (and keeps no other, where the bank doesn't fit), all have the same triplets, and each trains on its
    own part of every joint batch.

    Args:
        dataset: an array, or any object with `len` and `[]`: items x or (x, ...); ((a, b), y) has two inputs.
        labels: [n] integers.
        schedule: which miner is in charge from which epoch, or one miner.
        recipe: in its place, and of turns, k and every: `recipes.near()`; see `MiningLoop`.
        encoder: of the LightningModule: an attribute's name, or a function of the module (default: `module.encoder`,
            else the module itself).
        embed_dataset: the same examples as plain views, from which the bank is made; see `MiningLoop`.
        batch_size, turns, k, steps_per_epoch, seed: of the batches, see `MiningLoop`.
        pairs: "batch" lets the loss of `MetricLearner` see every pair of a batch, "mined" only the mined triplets in
            it. A module of one's own passes `mining.indices(ids)` to its loss.
        every, every_steps, rotate, ema: when is mined, and by which encoder, see `MiningLoop`.
        monitor: the logged metric that a schedule's `Plateau` looks at, such as "rank_at_1" of `ValidationMonitor`.
            Until it is logged no epoch counts, which is warned of; `patience` outlasts the epochs between validations.
        ids, groups, metric: as `EmbeddingBank`.
        embed_batch_size, collate_fn, num_workers, pin_memory, persistent_workers, memory_mb: see
            `MiningLoop`. `num_workers` serves embedding, and is the default of `loader`.
        progress: show a bar while embedding, unless the Trainer shows one.
        history: a `RunHistory` or its path (default: `history.jsonl` in the folder of the Trainer's logger, or in a
            `default_root_dir` of its own); False for none.

    Raises:
        TypeError, ValueError: settings out of bounds, when constructed.

    Example:
        >>> from legolas_metric import FullHardMiner, MiningSchedule, RandomMiner, SemiHardMiner
        >>> from legolas_metric.datasets import split_omniglot
        >>> from legolas_metric.training import GlobalMining
        >>> train, validation = split_omniglot()
        >>> schedule = MiningSchedule([(0, RandomMiner()), (1, SemiHardMiner()), (2, FullHardMiner())])
        >>> mining = GlobalMining(train, train.labels, schedule=schedule)
        >>> len(mining.loader())  # steps an epoch: Trainer(callbacks=[mining]).fit(learner, mining.loader())
        115

    Source: ours.
    """

    def __init__(
        self,
        dataset: Source,
        labels: ArrayLike,
        *,
        schedule: MiningSchedule | TripletMiner | None = None,
        recipe: Recipe | None = None,
        encoder: EncoderOption = None,
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
        monitor: str | None = None,
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
        history: HistoryOption = None,
        memory_mb: float | int | None = None,
    ) -> None:
        super().__init__()
        check_encoder(encoder)
        check_history(history)
        if monitor is not None and not isinstance(monitor, str):
            raise TypeError(f"monitor must be the name of a logged metric, got {monitor!r}")
        self.loop = MiningLoop(
            dataset,
            labels,
            schedule=schedule,
            recipe=recipe,
            embed_dataset=embed_dataset,
            batch_size=batch_size,
            turns=turns,
            k=k,
            pairs=pairs,
            steps_per_epoch=steps_per_epoch,
            every=every,
            every_steps=every_steps,
            rotate=rotate,
            ema=ema,
            ids=ids,
            groups=groups,
            metric=metric,
            embed_batch_size=embed_batch_size,
            collate_fn=collate_fn,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
            seed=seed,
            progress=progress,
            memory_mb=memory_mb,
        )
        self.inputs = self.loop.embedder.inputs  # what the bank is made of
        self.encoder, self.monitor, self.history_option = encoder, monitor, history
        self._began = self._told = self._changed = 0  # this fit's first epoch; rounds and changes of stage recorded
        self._trainer: L.Trainer | None = None
        self._earlier = -math.inf  # the monitored value before training was interrupted
        self._saved: Mapping[str, Any] | None = None

    @property
    def bank(self) -> EmbeddingBank | None:
        """The embeddings that were mined last, of those that lie on this process; None before training."""
        return self.loop.bank

    @property
    def rounds(self) -> list[MiningRound]:
        """Every round so far; after a resume, from the last one before it."""
        return self.loop.rounds

    @property
    def schedule(self) -> MiningSchedule:
        """Which miner is in charge."""
        return self.loop.schedule

    @property
    def examples(self) -> Examples:
        """What the batches are made of."""
        return self.loop.examples

    @property
    def labels(self) -> Int64[Tensor, " n"]:
        """Of the data set."""
        return self.loop.examples.labels

    @property
    def batches(self) -> FedBatches:
        """The batch sampler."""
        return self.loop.feeder.batches

    def indices(self, ids: ArrayLike) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " m"], Int64[Tensor, " m"]]:
        """The mined triplets that lie in a batch, as positions in it: pytorch-metric-learning's `indices_tuple`."""
        return self.loop.indices(ids)

    def loader(self, *, num_workers: int | None = None) -> ResumableLoader:
        """The data loader to train on, of (inputs, labels, ids); its batches are those that this callback mines."""
        return self.loop.loader(num_workers=num_workers)

    def prepare(self, pl_module: L.LightningModule) -> None:
        """Mine once with a module as it is, so that `loader` has batches where callbacks are suspended.

        `Tuner.lr_find` suspends all callbacks: call this before it. Training then begins with a round of its own.
        """
        found, before = encoder_of(pl_module, self.encoder), self.schedule.state_dict()
        placed = Placed(found, None if isinstance(found, nn.Module) else pl_module, pl_module.device)
        self.loop.begin(placed, epoch=0, step=0, value=-math.inf, due=True)
        self.schedule.load_state_dict(before)
        self.loop.rounds, self.loop.bank = [], None

    # Hooks

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mine for the first epoch, or go on where a loaded state stood."""
        # Before the first epoch's loader is iterated: its workers may draw batches before on_train_epoch_start.
        self._trainer = trainer
        self.loop.join(world_of(trainer))
        if self.loop.feeder.settings.pairs == "mined" and not isinstance(pl_module, MetricLearner):
            raise ValueError(
                f"pairs='mined' tells MetricLearner what its loss sees; {type(pl_module).__name__} passes "
                "mining.indices(ids) to its loss itself: leave pairs as it is"
            )
        shows = trainer.progress_bar_callback
        if getattr(shows, "is_enabled", shows is not None):  # one bar a place
            self.loop.embedder.quiet()
        placed = placed_encoder(trainer, pl_module, self.encoder)
        self._began, self._told = trainer.current_epoch, 0
        saved, self._saved = self._saved, None
        record_start(self, trainer, pl_module, resumed=None if saved is None else (saved["epoch"], saved["step"]))
        self.loop.start(placed)
        if saved is None:
            self._begin(trainer, pl_module, epoch=trainer.current_epoch, step=trainer.global_step, due=True)
            return
        self.loop.resume(placed)
        self._told, self._changed = len(self.rounds), len(self.schedule.changes)
        self._earlier = -math.inf if saved["value"] is None else saved["value"]
        self._show(pl_module)
        if self.loop.done >= self.loop.steps:
            # Lightning won't end this epoch again, so what is measured at its end is measured now.
            for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
                if isinstance(callback, ValidationMonitor):
                    self._earlier = callback.catch_up(trainer, pl_module).get(self.monitor or "", self._earlier)
            self._begin(trainer, pl_module, epoch=self.loop.current + 1, step=self.loop.step)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mine for this epoch, when its turn comes."""
        if trainer.current_epoch != self.loop.current:
            self._begin(trainer, pl_module, epoch=trainer.current_epoch, step=trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the average and the bank up, and mine anew within an epoch."""
        self.loop.done, self.loop.step = batch_idx + 1, trainer.global_step
        self.loop.after_step(placed_encoder(trainer, pl_module, self.encoder))
        self._tell(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the epoch."""
        record_epoch(self, trainer, epoch=trainer.current_epoch + 1)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the end of the run."""
        record_end(self, trainer, "stopped" if trainer.should_stop else "finished")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Record what ended the run; where another process has died, the error gets a note that names it."""
        if isinstance(exception, Exception) and (lost := self.loop.world.silent(exception)):
            exception.add_note(f"{lost} has died or does not answer")
        record_failure(self, trainer, exception)

    # State

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs beside Lightning's own: see `MiningLoop.state_dict`. A checkpoint holds it."""
        state = self.loop.state_dict()
        return state and state | {"value": self._value()}

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put all rows of a rotating bank that no process has all of into the checkpoint, which one process writes."""
        if self.bank is not None and self.loop.holding.sharded and self.loop.rhythm.rotate is not None:
            checkpoint["callbacks"][self.state_key]["bank"] = self.loop.holding.saved_by_all(self.bank)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state when training begins; `rounds` then starts with the last round before it.

        Raises:
            ValueError: this run averages its encoder (`ema`) and the saved one did not, or the other way round.
        """
        self.loop.load_state_dict(state_dict)
        self._saved = state_dict or None

    def recorded_settings(self) -> Mapping[str, Any]:
        """For `history.jsonl`."""
        return {
            "examples": len(self.examples),
            "classes": len(self.labels.unique()),
            "schedule": [f"{start}: {miner!r}" for start, miner in self.schedule.stages],
            "metric": self.loop.embedder.metric,
            "monitor": self.monitor,
            **asdict(self.loop.feeder.settings),
            **asdict(self.loop.rhythm),
        }

    def recorded_values(self, epoch: int) -> Mapping[str, float | int]:
        """Rounds have lines of their own."""
        return {}

    def recorded_names(self) -> set[str]:
        """None are logged by the Trainer."""
        return set()

    # Inside

    def _begin(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *, epoch: int, step: int, due: bool = False
    ) -> None:
        """Begin an epoch, unless the run has come to its end."""
        if finished(trainer, epoch=epoch, step=step):
            return
        placed = placed_encoder(trainer, pl_module, self.encoder)
        self.loop.current = epoch
        self.loop.begin(placed, epoch=epoch, step=step, value=self._awaited(), due=due)
        self._tell(trainer, pl_module)

    def _tell(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the module what was mined, and record the rounds that are new."""
        new, self._told = self.rounds[self._told :], len(self.rounds)
        if not new:
            return
        self._show(pl_module)
        placing = self.loop.holding.placing if new[0] is self.rounds[0] else None
        changes, self._changed = self.schedule.changes[self._changed :], len(self.schedule.changes)
        record_mining(trainer, new, changes, step=self.loop.step, placing=placing)

    def _show(self, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, MetricLearner):
            pl_module.triplets = self.rounds[-1].triplets if self.loop.feeder.settings.pairs == "mined" else None

    def _value(self) -> float | None:
        """What a schedule's `Plateau` looks at."""
        if self.monitor is None or self._trainer is None:
            return None
        return float(self._trainer.callback_metrics.get(self.monitor, self._earlier))

    def _awaited(self) -> float | None:
        """The same, with a warning where epochs have passed without it."""
        value = self._value()
        if value == -math.inf and self.loop.current > self._began:
            assert self._trainer is not None
            warnings.warn(
                f"monitor={self.monitor!r} is not among the logged metrics, so no plateau of it can begin a stage; "
                f"logged: {', '.join(sorted(self._trainer.callback_metrics)) or 'none'}",
                stacklevel=2,
            )
        return value
