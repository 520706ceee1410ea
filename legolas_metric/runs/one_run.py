"""Training one encoder on some rows and judging it on others, and going on where that was interrupted."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Float32, Int64
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import UNLABELLED
from legolas_metric.datasets.source import Inputs
from legolas_metric.encoders import InputNormalisation
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.ranking import evaluate_ranking
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.recipes import Recipe
from legolas_metric.runs.run_data import RunData
from legolas_metric.runs.run_log import log
from legolas_metric.runs.run_parts import (
    build_encoder,
    build_loggers,
    build_loss,
    build_protocols,
    build_recipe,
    build_schedule,
)
from legolas_metric.runs.run_settings import OF_LOGITS, RunSettings
from legolas_metric.runs.split_record import SplitRecord
from legolas_metric.runs.steps import PrepareSteps
from legolas_metric.training.attention_monitor import AttentionMonitor
from legolas_metric.training.batches import CollateExamples, Examples
from legolas_metric.training.best_checkpoint import BestCheckpoint
from legolas_metric.training.best_weights import WeightsFile, read_weights_file
from legolas_metric.training.collapse_monitor import CollapseMonitor
from legolas_metric.training.early_stopping import EarlyStopping
from legolas_metric.training.loss_by_epoch import LossByEpoch
from legolas_metric.training.mining import GlobalMining
from legolas_metric.training.module import MetricLearner
from legolas_metric.training.monitor import ValidationMonitor

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """An encoder on the rows that it never saw.

    Attributes:
        encoder: with the weights of the best epoch.
        kept: the file that they are from.
        rankings: name of the protocol -> report, each with the untrained encoder's as its baseline.
        embeddings: [n, d], of those rows.
        recipe: that it was trained by, in this call; None where the settings set its parts.
    """

    encoder: nn.Module
    kept: WeightsFile
    rankings: Mapping[str, RankingReport]
    embeddings: Float32[Tensor, "n d"]
    recipe: Recipe | None = None

    @property
    def first(self) -> RankingReport:
        """By the protocol that was watched."""
        return next(iter(self.rankings.values()))


def train_one(
    data: RunData,
    train: Int64[Tensor, " a"],
    validation: Int64[Tensor, " b"],
    settings: RunSettings,
    folder: Path,
    *,
    fold: int | None = None,
) -> Judged:
    """Train, or go on from the folder's last checkpoint; then judge the weights of the best epoch.

    Args:
        data: all rows.
        train, validation: row numbers.
        settings: as `load_data` filled them in.
        folder: for history, loggers and checkpoints.
        fold: number of the fold, for the file's name.
    """
    parts = data.take(train), data.take(validation)
    crossing = build_protocols(settings)[0].exclude == "same_group"
    encoder = build_encoder(settings, data.input_shape)
    norm = encoder[0]
    assert isinstance(norm, InputNormalisation)
    norm.fit(Inputs(parts[0].dataset))
    recipe = build_recipe(settings, parts[0].labels, parts[0].groups, crossing=crossing)
    loss = build_loss(settings, _width(encoder, parts[0]), parts[0].labels) if recipe is None else recipe.build_loss()
    learner = MetricLearner(encoder, loss, lr=settings.lr, weight_decay=settings.weight_decay)
    callbacks, loader = _feeding(parts[0], settings, recipe, crossing)
    callbacks.append(PrepareSteps(settings, parts[0].labels, len(data.input_shape)))
    if settings.encoder == "bilstm":
        callbacks.append(_attention(encoder, parts[1]))
    best = _best(data, settings, folder, fold)
    callbacks += [_monitor(parts[1], settings, folder), SplitRecord(parts[0].labels, parts[1].labels)]
    callbacks.append(CollapseMonitor("warn"))
    if settings.patience is not None:
        callbacks.append(EarlyStopping(settings.monitor, mode=settings.mode, patience=settings.patience))
    callbacks.append(best)
    if settings.progress:
        callbacks.append(TQDMProgressBar(refresh_rate=5))
    _fit(learner, loader, callbacks, settings, folder)
    return replace(judge(parts[1], settings, best.path), recipe=recipe)


def judge(
    part: RunData, settings: RunSettings, path: Path, protocols: Sequence[RetrievalProtocol] | None = None
) -> Judged:
    """Rank rows by the weights in a file, beside the untrained encoder; protocols as the settings have them, or others.

    Raises:
        ValueError: rows of another shape than those that the encoder was made for.
    """
    trained, kept = read_encoder(path, settings)
    protocols = build_protocols(settings) if protocols is None else protocols
    before = _rankings(embed(untrained_as(trained, settings, part), part, settings), part, protocols, {})
    rows = embed(trained, part, settings)
    return Judged(encoder=trained, kept=kept, rankings=_rankings(rows, part, protocols, before), embeddings=rows)


def untrained_as(trained: nn.Sequential, settings: RunSettings, part: RunData) -> nn.Sequential:
    """The encoder before training, with the input normalisation of the trained one."""
    untrained = build_encoder(settings, part.input_shape)
    untrained[0].load_state_dict(trained[0].state_dict())
    return untrained


def read_encoder(path: Path, settings: RunSettings) -> tuple[nn.Sequential, WeightsFile]:
    """The encoder of a file that `train_one` kept.

    Raises:
        FileNotFoundError: no such file.
        ValueError: weights of other settings.
    """
    held = read_weights_file(path)
    encoder = build_encoder(settings, tuple(held.settings["input_shape"]))
    encoder.load_state_dict(held.weights)
    return encoder, held


def embed(encoder: nn.Module, part: RunData, settings: RunSettings) -> Float32[Tensor, "n d"]:
    """Unit rows of a part of the data."""
    bank = EmbeddingBank.encode(
        encoder,
        Inputs(part.dataset),
        labels=part.labels,
        num_workers=settings.num_workers,
        progress=settings.progress,
    )
    return bank.embeddings


def best_path(folder: Path, fold: int | None) -> Path:
    """Where the best epoch's weights lie."""
    ending = "" if fold is None else f"_fold{fold}"
    return folder / CHECKPOINTS / f"best_model{ending}.safetensors"


def _rankings(
    rows: Tensor, part: RunData, protocols: Sequence[RetrievalProtocol], before: Mapping[str, RankingReport]
) -> dict[str, RankingReport]:
    return {
        protocol.name: evaluate_ranking(
            rows, part.labels, groups=part.groups, protocol=protocol, full=True, baseline=before.get(protocol.name)
        )
        for protocol in protocols
    }


def _feeding(
    part: RunData, settings: RunSettings, recipe: Recipe | None, crossing: bool
) -> tuple[list[L.Callback], DataLoader[Any]]:
    """The loader of training batches, and the callbacks that mine them and change the loss, where any do."""
    inputs, steps = Inputs(part.dataset), settings.steps_per_epoch or -(-len(part.labels) // settings.batch_size)
    schedule = None if recipe is not None else build_schedule(settings, crossing=crossing)
    if settings.loss in OF_LOGITS:
        return [], _as_they_are(Examples(inputs, part.labels), settings)
    if schedule is None and (recipe is None or not recipe.looks):
        p, classes = settings.batch_size // settings.k, len(part.labels[part.labels != UNLABELLED].unique())
        if recipe is None and p > classes:
            raise ValueError(
                f"batch_size={settings.batch_size} and k={settings.k} ask for {p} classes a batch, and there are "
                f"{classes} to train on: lower batch_size to {classes * settings.k}"
            )
        plain = recipe or Recipe(name="random batches", k=settings.k, distinct_groups=crossing)
        sampler = plain.sampler(
            part.labels,
            batch_size=settings.batch_size,
            groups=part.groups,
            batches_per_epoch=steps,
            seed=settings.seed,
        )
        loader = DataLoader(
            Examples(inputs, part.labels),
            batch_sampler=sampler,
            num_workers=settings.num_workers,
            collate_fn=CollateExamples(None),
            generator=torch.Generator().manual_seed(settings.seed),
        )
        return [LossByEpoch(plain)] if plain.warm_up else [], loader
    mining = GlobalMining(
        inputs,
        part.labels,
        groups=part.groups,
        schedule=schedule,
        recipe=recipe,
        batch_size=settings.batch_size,
        steps_per_epoch=steps,
        num_workers=settings.num_workers,
        seed=settings.seed,
        progress=settings.progress,
    )
    return [mining], mining.loader()


def _as_they_are(examples: Examples, settings: RunSettings) -> DataLoader[Any]:
    """Rows in random order, classes as frequent as they are; the order is the epoch's, after a resume too."""
    loader = DataLoader(
        examples,
        batch_size=settings.batch_size,
        sampler=DistributedSampler(examples, 1, 0, seed=settings.seed),
        num_workers=settings.num_workers,
        collate_fn=CollateExamples(None),
        generator=torch.Generator().manual_seed(settings.seed),
        drop_last=len(examples) % settings.batch_size == 1 and len(examples) > 1,  # batch norm needs two rows
    )
    if settings.steps_per_epoch is not None and settings.steps_per_epoch > len(loader):
        raise ValueError(
            f"steps_per_epoch={settings.steps_per_epoch} with loss={settings.loss!r}: each row comes once an epoch, "
            f"and {len(examples)} rows make {len(loader)} batches of {settings.batch_size}"
        )
    return loader


def _width(encoder: nn.Module, part: RunData) -> int:
    """Dimensions of an embedding."""
    encoder.eval()
    with torch.no_grad():
        width = encoder(Inputs(part.dataset)[0][None]).shape[1]
    encoder.train()
    return width


def _attention(encoder: nn.Sequential, part: RunData) -> AttentionMonitor:
    inputs = Inputs(part.dataset)
    some = torch.stack([inputs[row] for row in range(min(len(inputs), 64))])
    with torch.no_grad():
        return AttentionMonitor(encoder[0](some), encoder=lambda module: module.encoder[1])


def _monitor(part: RunData, settings: RunSettings, folder: Path) -> ValidationMonitor:
    return ValidationMonitor(
        Inputs(part.dataset),
        part.labels,
        groups=part.groups,
        protocol=build_protocols(settings),
        num_workers=settings.num_workers,
        history=folder / "history.jsonl",
    )


def _best(data: RunData, settings: RunSettings, folder: Path, fold: int | None) -> BestCheckpoint:
    return BestCheckpoint(
        settings.monitor,
        mode=settings.mode,
        folder=folder / CHECKPOINTS,
        fold=fold,
        part="encoder",
        settings=settings.plain() | {"input_shape": list(data.input_shape)},
        label_names=data.label_names,
    )


def _fit(
    learner: MetricLearner, loader: DataLoader[Any], callbacks: list[L.Callback], settings: RunSettings, folder: Path
) -> None:
    last = folder / CHECKPOINTS / "last.ckpt"
    # The latest epoch under one name; `save_last=True` beside `save_top_k=0` would wait for the end of training.
    keeping = ModelCheckpoint(
        folder / CHECKPOINTS, "last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False
    )
    L.seed_everything(settings.seed, verbose=False)
    with warnings.catch_warnings():
        # Lightning's advice on workers and short epochs, and that the folder of a resumed run is not empty.
        warnings.filterwarnings("ignore", module="lightning")
        trainer = L.Trainer(
            max_epochs=settings.epochs,
            # Mined and planned batches are already as many as that.
            limit_train_batches=settings.steps_per_epoch if settings.loss in OF_LOGITS else None,
            callbacks=[*callbacks, keeping],
            logger=build_loggers(settings, folder),
            default_root_dir=folder,
            accelerator="auto",
            devices=1,
            enable_progress_bar=settings.progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
        )
        resumed = last if last.is_file() else None
        if resumed is not None:
            log.info("Going on from %s.", resumed)
        trainer.fit(learner, loader, ckpt_path=resumed, weights_only=None if resumed is None else True)
