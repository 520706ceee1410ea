"""The recipe of the demo: batch-only training against global mining on Omniglot, at equal steps."""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
from legolas_metric.losses import SupConLoss
from legolas_metric.miners.schedule import MiningSchedule
from legolas_metric.miners.triplets import FullHardMiner, HardMiner, RandomMiner, SemiHardMiner
from legolas_metric.probes.collapse import probe_embeddings
from legolas_metric.probes.collapse_report import CollapseReport
from legolas_metric.records import Triplets
from legolas_metric.samplers.pk import PKSampler
from legolas_metric.training.batches import Examples
from legolas_metric.training.epoch_record import EpochRecord
from legolas_metric.training.mining import GlobalMining
from legolas_metric.training.module import MetricLearner
from legolas_metric.training.monitor import ValidationMonitor
from legolas_metric.training.rounds import MiningRound

P, K = 32, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one encoder does on the unseen alphabets.

    Attributes:
        ranking, verification, collapse: reports on the validation set.
        history: one record an epoch, the first before training; empty for the untrained encoder.
        rounds: what was mined; empty where nothing was.
        train_seconds: wall time of training, mining included.
    """

    ranking: RankingReport
    verification: VerificationReport
    collapse: CollapseReport
    history: tuple[EpochRecord, ...] = ()
    rounds: tuple[MiningRound, ...] = ()
    train_seconds: float = 0.0

    @property
    def mining_seconds(self) -> float:
        """Wall time of embedding the bank and mining it, over all rounds."""
        return sum((r.encode_seconds + r.mine_seconds for r in self.rounds), 0.0)


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
    race: EngineRace
    train: Omniglot
    validation: Omniglot
    seed: int
    steps: int
    seconds: float


def global_schedule(epochs: int) -> MiningSchedule:
    """From random to full-hard: a quarter of the run at each stage."""
    stages = (RandomMiner(), SemiHardMiner(), HardMiner(), FullHardMiner())
    return MiningSchedule([(round(epochs * share / 4), miner) for share, miner in enumerate(stages)])


def compare_on_omniglot(train: Omniglot, validation: Omniglot, *, epochs: int = 6, seed: int = 0) -> Comparison:
    """Train twice, with and without global mining, and judge on characters that neither run saw.

    Both runs have the same encoder, initial weights, loss, optimiser, batch size and number of steps; they differ in
    what a batch holds.

    Args:
        train, validation: as `split_omniglot` returns them.
        epochs: of ceil(n / 128) steps each; at least 4, one for each stage of `global_schedule`.
        seed: of the weights and the batches.
    """
    check_at_least("epochs", epochs, 4)
    started = time.perf_counter()
    with _quiet_lightning():
        untrained = _judge(_learner(seed), validation)
        batch_only = _train_batch_only(train, validation, epochs=epochs, seed=seed)
        mined, race = _train_mined(train, validation, epochs=epochs, seed=seed)
    return Comparison(
        untrained=untrained,
        batch_only=batch_only,
        mined=mined,
        race=race,
        train=train,
        validation=validation,
        seed=seed,
        steps=epochs * _steps_per_epoch(train),
        seconds=time.perf_counter() - started,
    )


def _steps_per_epoch(train: Omniglot) -> int:
    return -(-len(train) // (P * K))


def _learner(seed: int) -> MetricLearner:
    L.seed_everything(seed, verbose=False)
    return MetricLearner(Conv4(), SupConLoss(temperature=0.1))


def _train_batch_only(train: Omniglot, validation: Omniglot, *, epochs: int, seed: int) -> Outcome:
    sampler = PKSampler(train.labels, P, K, batches_per_epoch=_steps_per_epoch(train), seed=seed)
    loader = DataLoader(Examples(train, train.labels), batch_sampler=sampler)
    return _fit(_learner(seed), loader, validation, epochs=epochs, callbacks=[])


def _train_mined(train: Omniglot, validation: Omniglot, *, epochs: int, seed: int) -> tuple[Outcome, EngineRace]:
    mining = GlobalMining(train, train.labels, schedule=global_schedule(epochs), batch_size=P * K, seed=seed)
    outcome = _fit(_learner(seed), mining.loader(), validation, epochs=epochs, callbacks=[mining])
    assert mining.bank is not None
    return outcome, _race(mining.bank)


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
    seconds = time.perf_counter() - started
    rounds = tuple(r for c in callbacks if isinstance(c, GlobalMining) for r in c.rounds)
    return _judge(learner, validation, history=tuple(monitor.history), rounds=rounds, seconds=seconds)


def _judge(
    learner: MetricLearner,
    validation: Omniglot,
    *,
    history: tuple[EpochRecord, ...] = (),
    rounds: tuple[MiningRound, ...] = (),
    seconds: float = 0.0,
) -> Outcome:
    bank = ValidationMonitor(validation, validation.labels).embed(learner)
    return Outcome(
        ranking=evaluate_ranking(bank.embeddings, bank.labels, full=True),
        verification=evaluate_verification(bank.embeddings, bank.labels),
        collapse=probe_embeddings(bank.embeddings, bank.labels),
        history=history,
        rounds=rounds,
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
