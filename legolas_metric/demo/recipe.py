"""The contest of the demo: a tuned batch-only recipe against near classes on Omniglot, at equal steps."""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor
from torch.utils.data import DataLoader

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import check_at_least
from legolas_metric.datasets import Omniglot
from legolas_metric.encoders import Conv4
from legolas_metric.evaluation.ranking import RankingReport, evaluate_ranking
from legolas_metric.evaluation.verification import evaluate_verification
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.index.exact import ExactIndex
from legolas_metric.index.faiss import FaissIndex
from legolas_metric.miners.triplets import FullHardMiner
from legolas_metric.probes.collapse import probe_embeddings
from legolas_metric.probes.collapse_report import CollapseReport
from legolas_metric.recipes import Recipe, near, pk_batch_hard
from legolas_metric.records import Triplets
from legolas_metric.samplers.class_means import class_centroids
from legolas_metric.samplers.members import Members
from legolas_metric.training.batches import Examples
from legolas_metric.training.epoch_record import EpochRecord
from legolas_metric.training.loss_by_epoch import LossByEpoch
from legolas_metric.training.mining import GlobalMining
from legolas_metric.training.module import MetricLearner
from legolas_metric.training.monitor import ValidationMonitor
from legolas_metric.training.rounds import MiningRound

BATCH = 128
BATCH_ONLY, OURS, RATE = pk_batch_hard(), near(hard=0.5), 4e-3  # the hardest drawings gain in short runs
"""The best of each side in docs/log.md that trains on the drawings as they are, at the best rate of its four trials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at the whole training set tells of its classes.

    Attributes:
        epoch: when.
        nearest: mean, over the classes, of the similarity of a class's mean to the nearest other.
        confused: share of the drawings that lie nearer to another class's mean than to their own.
    """

    epoch: int
    nearest: float
    confused: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NearPair:
    """Two classes whose means lie near each other, and of each the drawing that lies nearest to the other's mean.

    Attributes:
        rows: of the training set.
        similarity: of the two means.
    """

    rows: tuple[int, int]
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one encoder does on the unseen alphabets.

    Attributes:
        ranking, verification, collapse: reports on the validation set.
        history: one record an epoch, the first before training; empty for the untrained encoder.
        rounds, looks: each time that the bank was embedded; empty where there was none.
        train_seconds: wall time of training, mining included.
    """

    ranking: RankingReport
    verification: VerificationReport
    collapse: CollapseReport
    history: tuple[EpochRecord, ...] = ()
    rounds: tuple[MiningRound, ...] = ()
    looks: tuple[Look, ...] = ()
    train_seconds: float = 0.0

    @property
    def mining_seconds(self) -> float:
        """Wall time of embedding the bank, mining it and planning batches by it, over all rounds."""
        return sum((r.encode_seconds + r.mine_seconds + r.plan_seconds for r in self.rounds), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRace:
    """The same mining job by two exact engines, on the bank of the last epoch.

    Attributes:
        rows: of the bank.
        faiss, exact: what `FullHardMiner` found with `FaissIndex("Flat")` and with `ExactIndex`.
        agreement: share of the anchors for which both chose the same negative.
    """

    rows: int
    faiss: Triplets
    exact: Triplets
    agreement: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The demo's result: three encoders, and two engines, on the same data and seed."""

    untrained: Outcome
    batch_only: Outcome
    mined: Outcome
    near: tuple[NearPair, ...]
    race: EngineRace
    train: Omniglot
    validation: Omniglot
    seed: int
    steps: int
    seconds: float


def compare_on_omniglot(train: Omniglot, validation: Omniglot, *, epochs: int = 6, seed: int = 0) -> Comparison:
    """Train twice, by a tuned recipe that never looks beyond the batch and by near classes, and judge on unseen ones.

    Both runs have the same encoder, initial weights, optimiser, batch size and number of steps; each has the batches
    and the loss of its recipe.

    Args:
        train, validation: as `split_omniglot` returns them.
        epochs: of ceil(n / 128) steps each; at least 2, the first of which warms up.
        seed: of the weights and the batches.
    """
    check_at_least("epochs", epochs, 2)
    started = time.perf_counter()
    with _quiet_lightning():
        untrained = _judge(_learner(seed, OURS), validation)
        batch_only = _train_batch_only(train, validation, epochs=epochs, seed=seed)
        mined, bank = _train_mined(train, validation, epochs=epochs, seed=seed)
    return Comparison(
        untrained=untrained,
        batch_only=batch_only,
        mined=mined,
        near=near_pairs(bank),
        race=_race(bank),
        train=train,
        validation=validation,
        seed=seed,
        steps=epochs * _steps_per_epoch(train),
        seconds=time.perf_counter() - started,
    )


def near_pairs(bank: EmbeddingBank, count: int = 12) -> tuple[NearPair, ...]:
    """The pairs of classes whose means lie nearest to each other, nearest first; each class once."""
    members, means = _means(bank)
    similar = (means @ means.T).masked_fill(torch.ones(len(means), len(means)).tril().bool(), -torch.inf)
    pairs: list[NearPair] = []
    taken: set[int] = set()
    for flat in similar.flatten().argsort(descending=True).tolist():
        a, b = divmod(flat, len(means))
        if a >= b or len(pairs) == count:
            break
        if taken & {a, b}:
            continue
        taken |= {a, b}
        own = [torch.from_numpy(members.rows[members.offsets[c] : members.offsets[c + 1]]) for c in (a, b)]
        nearest = [int(rows[(bank.embeddings[rows] @ means[c]).argmax()]) for rows, c in zip(own, (b, a))]
        pairs.append(NearPair(rows=(nearest[0], nearest[1]), similarity=float(similar[a, b])))
    return tuple(pairs)


def look_at(bank: EmbeddingBank, epoch: int) -> Look:
    """What a bank tells of its classes."""
    members, means = _means(bank)
    similar = (means @ means.T).fill_diagonal_(-torch.inf)
    own = torch.arange(len(means)).repeat_interleave(torch.from_numpy(members.sizes))
    nearest = (bank.embeddings[torch.from_numpy(members.rows)] @ means.T).argmax(1)
    return Look(epoch=epoch, nearest=float(similar.amax(1).mean()), confused=float((nearest != own).float().mean()))


class LooksAtClasses(L.Callback):
    """Keeps a `Look` for each epoch whose bank was embedded; stands behind the mining that embeds it."""

    def __init__(self, mining: GlobalMining) -> None:
        super().__init__()
        self.mining = mining
        self.looks: list[Look] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the bank as it is."""
        assert self.mining.bank is not None
        self.looks.append(look_at(self.mining.bank, trainer.current_epoch))


def _means(bank: EmbeddingBank) -> tuple[Members, Tensor]:
    assert bank.labels is not None
    members = Members.of(bank.labels)
    return members, class_centroids(bank, members)[0]


def _steps_per_epoch(train: Omniglot) -> int:
    return -(-len(train) // BATCH)


def _learner(seed: int, recipe: Recipe) -> MetricLearner:
    L.seed_everything(seed, verbose=False)
    return MetricLearner(Conv4(), recipe.build_loss(0), lr=RATE)


def _train_batch_only(train: Omniglot, validation: Omniglot, *, epochs: int, seed: int) -> Outcome:
    steps = _steps_per_epoch(train)
    sampler = BATCH_ONLY.sampler(train.labels, batch_size=BATCH, batches_per_epoch=steps, seed=seed)
    loader = DataLoader(Examples(train, train.labels), batch_sampler=sampler)
    learner = _learner(seed, BATCH_ONLY)
    return _fit(learner, loader, validation, epochs=epochs, callbacks=[LossByEpoch(BATCH_ONLY)])


def _train_mined(train: Omniglot, validation: Omniglot, *, epochs: int, seed: int) -> tuple[Outcome, EmbeddingBank]:
    mining = GlobalMining(train, train.labels, recipe=OURS, batch_size=BATCH, seed=seed)
    looking = LooksAtClasses(mining)
    learner = _learner(seed, OURS)
    outcome = _fit(learner, mining.loader(), validation, epochs=epochs, callbacks=[mining, looking])
    assert mining.bank is not None
    return replace(outcome, rounds=tuple(mining.rounds), looks=tuple(looking.looks)), mining.bank


def _fit(
    learner: MetricLearner,
    loader: DataLoader[tuple[Tensor, int, int]],
    validation: Omniglot,
    *,
    epochs: int,
    callbacks: list[L.Callback],
) -> Outcome:
    monitor = ValidationMonitor(validation, validation.labels)
    trainer = L.Trainer(
        max_epochs=epochs,
        callbacks=[*callbacks, monitor, TQDMProgressBar(refresh_rate=5)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    started = time.perf_counter()
    trainer.fit(learner, loader)
    return _judge(learner, validation, history=tuple(monitor.history), seconds=time.perf_counter() - started)


def _judge(
    learner: MetricLearner,
    validation: Omniglot,
    *,
    history: tuple[EpochRecord, ...] = (),
    seconds: float = 0.0,
) -> Outcome:
    bank = ValidationMonitor(validation, validation.labels).embed(learner)
    return Outcome(
        ranking=evaluate_ranking(bank.embeddings, bank.labels, full=True),
        verification=evaluate_verification(bank.embeddings, bank.labels),
        collapse=probe_embeddings(bank.embeddings, bank.labels),
        history=history,
        train_seconds=seconds,
    )


def _race(bank: EmbeddingBank) -> EngineRace:
    faiss = FullHardMiner(index=FaissIndex("Flat")).mine(bank)
    exact = FullHardMiner(index=ExactIndex()).mine(bank)
    same = (faiss.negative == exact.negative) if len(faiss) == len(exact) else torch.zeros(1)
    return EngineRace(rows=len(bank), faiss=faiss, exact=exact, agreement=float(same.float().mean()))


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Progress bars only: hints about hardware and workers are noise to a reader of the demo."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)
