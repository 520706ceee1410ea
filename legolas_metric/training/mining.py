"""Global mining in the loop: refresh the bank, mine, and feed what was mined to the batches."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import lightning as L
from torch.utils.data import DataLoader, Dataset, Sampler

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, as_groups, as_ids, as_labels, check_at_least, check_choice
from legolas_metric.datasets.source import Inputs
from legolas_metric.miners.schedule import MiningSchedule
from legolas_metric.records import Triplets
from legolas_metric.samplers.epochs import PlannedSampler
from legolas_metric.samplers.neighbor_pk import NeighborPKSampler
from legolas_metric.samplers.pk import PKSampler
from legolas_metric.samplers.triplet import TripletSampler
from legolas_metric.training.module import MetricLearner

log = logging.getLogger(__name__)

Kind = Literal["mined", "neighbors", "random"]
Pairs = Literal["batch", "mined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningRound:
    """One refresh of the bank and what was mined from it.

    Attributes:
        epoch, step: when.
        miner: name of the strategy in charge.
        triplets: what it found, with its `MiningStats`.
        encode_seconds, mine_seconds: wall time of the two parts.
        drift: mean cosine between the rows and their rewrites; None the first time.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, HardMiner
        >>> from legolas_metric.training import MiningRound
        >>> mined = HardMiner().mine(EmbeddingBank(torch.eye(4), [0, 0, 1, 1]))
        >>> seconds = {"encode_seconds": 0.1, "mine_seconds": 0.2}
        >>> len(MiningRound(epoch=0, step=0, miner="hard", triplets=mined, drift=None, **seconds).triplets)
        4
    """

    epoch: int
    step: int
    miner: str
    triplets: Triplets
    encode_seconds: float
    mine_seconds: float
    drift: float | None


class Examples(Dataset[tuple[Any, int, int]]):
    """(input, label, id) of every row: what `MetricLearner` trains on."""

    def __init__(self, dataset: Dataset | ArrayLike, labels: ArrayLike, *, ids: ArrayLike | None = None) -> None:
        self.inputs = Inputs(dataset)
        self.labels = as_labels(labels, len(self.inputs), of="the data set")
        self.ids = as_ids(ids, len(self.inputs), of="the data set")

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> tuple[Any, int, int]:
        return self.inputs[row], int(self.labels[row]), int(self.ids[row])


class FedBatches(Sampler[list[int]]):
    """A batch sampler of fixed length whose batches come, in turn, from the samplers that it was last fed.

    A sampler that runs dry starts over, with its next epoch's order. So an epoch has the same number of steps however
    many triplets were mined, and runs can be compared at equal steps.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._sources: Sequence[PlannedSampler] = ()

    def feed(self, sources: Sequence[PlannedSampler], epoch: int) -> None:
        """Take the samplers of the coming epoch, one for each turn; the same object may stand in several."""
        self._sources = sources
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch: each sampler plans its batches for it."""
        for source in self._sources:
            source.set_epoch(epoch)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        if not self._sources:
            raise RuntimeError(
                "batches were drawn before anything was mined: pass this GlobalMining to the Trainer's callbacks, and "
                "with num_workers > 0 don't read trainer.estimated_stepping_batches in configure_optimizers"
            )
        streams = {id(source): _endless(source) for source in self._sources}
        for step in range(self.steps):
            yield next(streams[id(self._sources[step % len(self._sources)])])


def _endless(source: PlannedSampler) -> Iterator[list[int]]:
    while True:
        yield from source
        source.set_epoch(source.epoch + 1)


class GlobalMining(L.Callback):
    """Mine the whole training set at the start of every epoch, and build the epoch's batches from what was found.

    Each refresh embeds the data set with the encoder as it is, asks the schedule for the epoch's miner, mines, and
    feeds the triplets to a `TripletSampler`; every round is kept in `rounds`, nothing is thrown away in silence.

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
        every: refresh the bank every so many epochs.
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
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        super().__init__()
        check_at_least("every", every, 1)
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
        self.every = every
        self.seed = seed
        self.progress = progress
        self.rounds: list[MiningRound] = []
        self.bank: EmbeddingBank | None = None
        self.batches = FedBatches(steps_per_epoch or -(-len(self.examples) // batch_size))
        self._k = k
        self._pk: dict[Kind, PKSampler | NeighborPKSampler] = {}
        if "random" in self.turns:
            random = PKSampler(
                self.examples.labels, batch_size // k, k, batches_per_epoch=self._share("random"), seed=seed
            )
            self._pk["random"] = random

    def loader(self, *, num_workers: int = 0) -> DataLoader[tuple[Any, int, int]]:
        """The data loader to train on; its batches are those that this callback mines."""
        return DataLoader(self.examples, batch_sampler=self.batches, num_workers=num_workers)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mine for the first epoch."""
        # Before the first epoch's loader is iterated: its workers may draw batches before on_train_epoch_start.
        self._refresh(pl_module, epoch=trainer.current_epoch, step=trainer.global_step)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mine for this epoch, when its turn comes."""
        epoch = trainer.current_epoch
        if epoch == self.rounds[-1].epoch:
            return
        if epoch % self.every == 0:
            self._refresh(pl_module, epoch=epoch, step=trainer.global_step)
        else:
            self.batches.set_epoch(epoch)

    def _refresh(self, learner: L.LightningModule, *, epoch: int, step: int) -> None:
        assert isinstance(learner, MetricLearner)
        started = time.perf_counter()
        drift = self._embed(learner, step)
        encoded = time.perf_counter()
        assert self.bank is not None
        miner = self.schedule.advance(epoch)
        triplets = miner.mine(self.bank)
        mined = time.perf_counter()
        name = type(miner).__name__
        if len(triplets) == 0:
            raise ValueError(f"{name} found no triplet in epoch {epoch} ({triplets.stats}): ease its window or guard")
        self.rounds.append(
            MiningRound(
                epoch=epoch,
                step=step,
                miner=name,
                triplets=triplets,
                encode_seconds=encoded - started,
                mine_seconds=mined - encoded,
                drift=drift,
            )
        )
        log.info("epoch %d: %s found %d triplets, %s", epoch, name, len(triplets), triplets.stats)
        learner.triplets = triplets if self.pairs == "mined" else None
        self._feed(triplets, epoch)

    def _embed(self, learner: MetricLearner, step: int) -> float | None:
        examples = self.examples
        bank = EmbeddingBank.encode(
            learner.encoder,
            examples.inputs,
            labels=examples.labels,
            ids=examples.ids,
            groups=self.groups,
            device=learner.device,
            step=step,
            progress=self.progress,
        )
        if self.bank is None:
            self.bank = bank
            return None
        return self.bank.update(bank.ids, bank.embeddings, step=step)

    def _share(self, kind: Kind) -> int:
        """Steps of an epoch that a kind of batch serves."""
        return max(1, sum(self.turns[step % len(self.turns)] == kind for step in range(len(self.batches))))

    def _feed(self, triplets: Triplets, epoch: int) -> None:
        assert self.bank is not None
        if "neighbors" in self.turns and "neighbors" not in self._pk:
            self._pk["neighbors"] = NeighborPKSampler(
                self.bank,
                self.batch_size // self._k,
                self._k,
                batches_per_epoch=self._share("neighbors"),
                seed=self.seed,
            )
        mined = TripletSampler(triplets, self.batch_size, ids=self.examples.ids, seed=self.seed)
        self.batches.feed([mined if kind == "mined" else self._pk[kind] for kind in self.turns], epoch)
