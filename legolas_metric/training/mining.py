"""Global mining in the loop: refresh the bank, mine, and feed what was mined to the batches."""

import logging
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

import lightning as L
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Subset

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, check_choice, check_whole
from legolas_metric.miners.schedule import MiningSchedule
from legolas_metric.records import MiningStats, SearchStats, Triplets
from legolas_metric.rows import as_groups
from legolas_metric.samplers.neighbor_pk import NeighborPKSampler
from legolas_metric.samplers.pk import PKSampler
from legolas_metric.samplers.triplet_sampler import TripletSampler
from legolas_metric.training.batches import Examples, FedBatches, ResumableLoader
from legolas_metric.training.module import MetricLearner
from legolas_metric.training.resume import generator_states, restore_generators
from legolas_metric.training.round import MiningRound

log = logging.getLogger(__name__)

Kind = Literal["mined", "neighbors", "random"]
Pairs = Literal["batch", "mined"]


class GlobalMining(L.Callback):
    """Mine the whole training set at the start of every epoch, and build the epoch's batches from what was found.

    Each round embeds the data set with the encoder as it is, asks the schedule for the epoch's miner, mines, and
    feeds the triplets to a `TripletSampler`; every round is kept in `rounds`. Triplets of different classes share few
    rows, so their batches often are more than the steps of an epoch: `fed` of a round says which share was taken.

    Behaviour in corner cases: a round within an epoch replaces the mined batches of the steps that are left, but for
    those that a loader has fetched ahead, and the class graph of "neighbors", whose seeds go on where they were; none
    is mined after an epoch's last step, as the next epoch begins with one. Batches that have all been taken come again,
    in another order. It serves one process: training on several is refused.

    Args:
        dataset: any map-style `Dataset` (items x or (x, ...)), or an array of inputs.
        labels: [n] integers.
        schedule: which miner is in charge from which epoch.
        batch_size: rows of a batch.
        turns: where the batches come from, in turn: "mined" (triplets that were mined), "neighbors" (P classes that lie
            near each other in the bank, by `NeighborPKSampler`), "random" (any P classes, by `PKSampler`).
        k: examples of a class in the latter two; P is batch_size // k.
        pairs: "batch" lets the loss see every pair of a batch, "mined" only the mined triplets in it.
        steps_per_epoch: default ceil(n / batch_size).
        every: mine every so many epochs.
        every_steps: mine also every so many steps within an epoch.
        rotate: rewrite this share of the bank after each step, in turn, in place of embedding the whole set for each
            round. Its rows are then up to 1 / rotate steps old: `triplets.stats` tells age and drift, and a miner's
            `max_staleness` refuses an older bank.
        ema: embed with an exponential moving average of the encoder with this decay, which moves more slowly.
        monitor: the logged metric that a schedule's `Plateau` looks at, such as "rank_at_1" of `ValidationMonitor`.
            Until it is logged no epoch counts, which is warned of from the second epoch on. A `patience` should be
            longer than the epochs between two validations.
        ids, groups: as `EmbeddingBank`.
        seed: of the batches.
        progress: show a bar while embedding.

    Example:
        >>> from legolas_metric import FullHardMiner, MiningSchedule, RandomMiner, SemiHardMiner
        >>> from legolas_metric.datasets import split_omniglot
        >>> from legolas_metric.training import GlobalMining
        >>> train, validation = split_omniglot()
        >>> schedule = MiningSchedule([(0, RandomMiner()), (1, SemiHardMiner()), (2, FullHardMiner())])
        >>> mining = GlobalMining(train, train.labels, schedule=schedule)
        >>> len(mining.loader())  # steps an epoch: Trainer(callbacks=[mining]).fit(learner, mining.loader())
        115
    """

    def __init__(
        self,
        dataset: Dataset | ArrayLike,
        labels: ArrayLike,
        *,
        schedule: MiningSchedule,
        batch_size: int = 128,
        turns: Sequence[Kind] = ("mined",),
        k: int = 4,
        pairs: Pairs = "batch",
        steps_per_epoch: int | None = None,
        every: int = 1,
        every_steps: int | None = None,
        rotate: float | None = None,
        ema: float | None = None,
        monitor: str | None = None,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        super().__init__()
        steps = {"every": every, "every_steps": every_steps, "steps_per_epoch": steps_per_epoch}
        for name, whole in ({"batch_size": batch_size, "k": k} | steps).items():
            check_whole(name, 1 if whole is None else whole, 1)
        for name, share in (("rotate", rotate), ("ema", ema)):
            if share is not None and not 0 < share < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {share}")
        check_choice("pairs", pairs, get_args(Pairs))
        for kind in turns:
            check_choice("turns", kind, get_args(Kind))
        if "mined" not in turns:
            raise ValueError("turns must hold 'mined' at least once; for random batches alone use a PKSampler")
        self.examples = Examples(dataset, labels, ids=ids)
        self.groups = as_groups(groups, len(self.examples), of="the data set")
        self.schedule = schedule
        self.batch_size = batch_size
        self.turns = tuple(turns)
        self.pairs = pairs
        self.every, self.every_steps = every, every_steps
        self.rotate, self.ema = rotate, ema
        self.monitor = monitor
        self.seed = seed
        self.progress = progress
        self.rounds: list[MiningRound] = []
        self.bank: EmbeddingBank | None = None
        self.batches = FedBatches(steps_per_epoch or -(-len(self.examples) // batch_size))
        self._k = k
        self._averaged: AveragedModel | None = None
        self._next = 0  # the row of the bank that is rewritten next
        self._epoch = self._done = self._step = 0  # of training: the epoch, its steps so far, and all steps
        self._began = 0  # the epoch at which this fit began
        self._trainer: L.Trainer | None = None
        self._earlier = -math.inf  # the monitored value before training was interrupted
        self._saved: Mapping[str, Any] | None = None  # a loaded state, until training begins
        self._pk: dict[Kind, PKSampler | NeighborPKSampler] = {}
        if "random" in self.turns:
            share = self._share("random")
            self._pk["random"] = PKSampler(self.examples.labels, batch_size // k, k, batches_per_epoch=share, seed=seed)

    def loader(self, *, num_workers: int = 0) -> DataLoader[tuple[Any, int, int]]:
        """The data loader to train on; its batches are those that this callback mines."""
        generator = torch.Generator().manual_seed(self.seed)  # its own, so that an iteration draws nothing from others
        return ResumableLoader(self.examples, batch_sampler=self.batches, num_workers=num_workers, generator=generator)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mine for the first epoch, or go on where a loaded state stood."""
        # Before the first epoch's loader is iterated: its workers may draw batches before on_train_epoch_start.
        learner, self._trainer = _learner(pl_module), trainer
        if trainer.world_size > 1:
            raise ValueError(f"{trainer.world_size} processes would train on the same batches: use one, devices=1")
        if self.ema is not None:
            average = get_ema_multi_avg_fn(self.ema)
            self._averaged = AveragedModel(learner.encoder, multi_avg_fn=average, use_buffers=True)
            self._averaged.update_parameters(learner.encoder)  # the first one copies
        self._began = trainer.current_epoch
        if self._saved is None:
            self._step = trainer.global_step
            self._begin(learner, trainer.current_epoch, due=True)
        else:
            self._resume(learner, self._saved)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mine for this epoch, when its turn comes."""
        epoch = trainer.current_epoch
        if epoch != self._epoch:
            self._begin(_learner(pl_module), epoch, due=epoch % self.every == 0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the average and the bank up, and mine anew within an epoch."""
        learner, step = _learner(pl_module), trainer.global_step
        self._done, self._step = batch_idx + 1, step
        if self._averaged is not None:
            self._averaged.update_parameters(learner.encoder)
        if self.rotate is not None:
            n = len(self.examples)
            rows = (self._next + torch.arange(math.ceil(self.rotate * n))) % n
            self._next = int(rows[-1] + 1) % n
            self._rewrite(learner, rows, step)
        due = self.every_steps is not None and step % self.every_steps == 0 and step > self.rounds[-1].step
        if due and not trainer.is_last_batch:
            self._round(learner)

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs beside Lightning's own: see "To go on after an interruption" in the documentation.

        That is the bank, the schedule with its miners, the last round, where the samplers stand, the averaged encoder,
        and the random generators of the process. A checkpoint of Lightning's holds it.
        """
        if self.bank is None:
            return {}
        return {
            "epoch": self._epoch,
            "step": self._step,
            "next": self._next,
            "value": self._value(),
            "bank": {
                "embeddings": self.bank.embeddings.clone(),
                "steps": self.bank.steps.clone(),
                "drift": self.bank.drift,
            },
            "average": None if self._averaged is None else self._averaged.state_dict(),
            "schedule": self.schedule.state_dict(),
            "round": asdict(self.rounds[-1]),
            "batches": self.batches.state_dict(self._done),
            "generators": generator_states(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state when training begins; `rounds` then starts with the last round before it.

        Raises:
            ValueError: this run averages its encoder (`ema`) and the saved one did not, or the other way round.
        """
        averaged = state_dict.get("average") is not None
        if state_dict and averaged != (self.ema is not None):
            how = "with" if averaged else "without"
            raise ValueError(f"ema={self.ema}, but the saved run was {how} an averaged encoder: set ema as it was")
        self._saved = state_dict or None

    def _resume(self, learner: MetricLearner, saved: Mapping[str, Any]) -> None:
        self._saved = None
        examples, bank = self.examples, saved["bank"]
        self.bank = EmbeddingBank(
            bank["embeddings"].to(learner.device), examples.labels, ids=examples.ids, groups=self.groups
        )
        self._pk.pop("neighbors", None)  # it plans by the bank that this one takes the place of
        self.bank.steps.copy_(bank["steps"])
        self.bank.drift = bank["drift"]
        if self._averaged is not None:
            self._averaged.load_state_dict(saved["average"])
        self.schedule.load_state_dict(saved["schedule"])
        self._epoch, self._step, self._next = saved["epoch"], saved["step"], saved["next"]
        self._earlier = -math.inf if saved["value"] is None else saved["value"]
        mined = saved["round"]["triplets"]
        told = mined["stats"] | {"search": SearchStats(**mined["stats"]["search"])}
        triplets = Triplets(**(mined | {"stats": MiningStats(**told)}))
        self.rounds = [MiningRound(**(saved["round"] | {"triplets": triplets}))]
        self._feed(triplets, learner, self._epoch)
        self.batches.load_state_dict(saved["batches"])
        self._done = saved["batches"]["step"]
        restore_generators(saved["generators"])
        if self._done == len(self.batches):
            epoch = self._epoch + 1
            self._begin(learner, epoch, due=epoch % self.every == 0)

    def _begin(self, learner: MetricLearner, epoch: int, *, due: bool) -> None:
        """Begin an epoch: mine, if that is due, and plan its batches."""
        self._epoch, self._done = epoch, 0
        if due:
            self._round(learner)
        self.batches.set_epoch(epoch)

    def _value(self) -> float | None:
        """What a schedule's `Plateau` looks at."""
        if self.monitor is None:
            return None
        assert self._trainer is not None
        return float(self._trainer.callback_metrics.get(self.monitor, self._earlier))

    def _awaited(self) -> float | None:
        """The same, with a warning where epochs have passed without it."""
        value = self._value()
        if value == -math.inf and self._epoch > self._began:
            assert self._trainer is not None
            warnings.warn(
                f"monitor={self.monitor!r} is not among the logged metrics, so no plateau of it can begin a stage; "
                f"logged: {', '.join(sorted(self._trainer.callback_metrics)) or 'none'}",
                stacklevel=2,
            )
        return value

    def _round(self, learner: MetricLearner) -> None:
        epoch, step = self._epoch, self._step
        started = time.perf_counter()
        if self.bank is None:
            self.bank = self._embed(learner, torch.arange(len(self.examples)), step)
        elif self.rotate is None:
            self._rewrite(learner, torch.arange(len(self.examples)), step)
        encoded = time.perf_counter()
        miner = self.schedule.advance(epoch, value=self._awaited())
        triplets = miner.mine(self.bank)
        mined = time.perf_counter()
        name = type(miner).__name__
        if len(triplets) == 0:
            raise ValueError(f"{name} found no triplet in epoch {epoch} ({triplets.stats}): ease its window or guard")
        fed = self._feed(triplets, learner, epoch)
        self.rounds.append(
            MiningRound(
                epoch=epoch,
                step=step,
                miner=name,
                triplets=triplets,
                fed=fed,
                encode_seconds=encoded - started,
                mine_seconds=mined - encoded,
                drift=self.bank.drift,
            )
        )
        log.info("epoch %d: %s found %d triplets, fed %.2f, %s", epoch, name, len(triplets), fed, triplets.stats)

    def _embed(self, learner: MetricLearner, rows: Int64[Tensor, " m"], step: int) -> EmbeddingBank:
        examples = self.examples
        return EmbeddingBank.encode(
            learner.encoder if self._averaged is None else self._averaged,
            Subset(examples.inputs.source, rows.tolist()),
            labels=examples.labels[rows],
            ids=examples.ids[rows],
            groups=None if self.groups is None else self.groups[rows],
            device=learner.device,
            step=step,
            progress=self.progress and len(rows) == len(examples),
        )

    def _rewrite(self, learner: MetricLearner, rows: Int64[Tensor, " m"], step: int) -> None:
        assert self.bank is not None
        written = self._embed(learner, rows, step)
        self.bank.update(written.ids, written.embeddings, step=step)

    def _share(self, kind: Kind) -> int:
        """Steps of an epoch that a kind of batch serves."""
        return max(1, sum(self.turns[step % len(self.turns)] == kind for step in range(len(self.batches))))

    def _feed(self, triplets: Triplets, learner: MetricLearner, epoch: int) -> float:
        """Make batches for the steps that are left of an epoch; the share of those of triplets that it takes."""
        learner.triplets = triplets if self.pairs == "mined" else None
        if "neighbors" in self.turns and ("neighbors" not in self._pk or self._done):
            self._pk["neighbors"] = self._neighbors(self._pk.get("neighbors"))
        mined = TripletSampler(triplets, self.batch_size, ids=self.examples.ids, seed=self.seed)
        self.batches.feed([mined if kind == "mined" else self._pk[kind] for kind in self.turns], epoch)
        left = sum(self.turns[step % len(self.turns)] == "mined" for step in range(self._done, len(self.batches)))
        return min(1.0, left / len(mined))

    def _neighbors(self, before: PKSampler | NeighborPKSampler | None) -> NeighborPKSampler:
        """Batches of near classes by the bank as it is, from the seed on that comes next."""
        assert self.bank is not None
        share, p = self._share("neighbors"), self.batch_size // self._k
        sampler = NeighborPKSampler(self.bank, p, self._k, batches_per_epoch=share, seed=self.seed)
        if before is not None:
            sampler.load_state_dict(before.state_at(*before.position, None))
        return sampler


def _learner(pl_module: L.LightningModule) -> MetricLearner:
    assert isinstance(pl_module, MetricLearner)
    return pl_module
