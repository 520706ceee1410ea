"""The parts that settings choose: encoder, loss, miners, protocols, loggers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import Tensor, nn

from legolas_metric.encoders import Conv4, InputNormalisation, ResNet1D
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.losses import MultiSimilarityLoss, SupConLoss, TripletLoss
from legolas_metric.miners.schedule import MiningSchedule
from legolas_metric.miners.triplets import FullHardMiner, HardMiner, RandomMiner, SemiHardMiner
from legolas_metric.recipes import Recipe, choose, named
from legolas_metric.relations import LabelRelation
from legolas_metric.runs.run_log import log
from legolas_metric.runs.run_settings import MARGINS, RunSettings

ENCODERS = {1: "mlp", 2: "resnet1d", 3: "conv4"}  # by the number of axes of one input


def build_encoder(settings: RunSettings, input_shape: tuple[int, ...]) -> nn.Sequential:
    """The untrained encoder that settings and the shape of an input ask for, its input normalisation first.

    Raises:
        ValueError: an encoder of other inputs.
    """
    axes = len(input_shape)
    name = ENCODERS.get(axes) if settings.encoder == "auto" else settings.encoder
    if name is None or ENCODERS.get(axes) != name:
        raise ValueError(
            f"encoder={settings.encoder!r} does not take inputs of shape {input_shape}: conv4 takes [c, h, w], "
            "resnet1d [c, t], mlp [d]"
        )
    channels, width = input_shape[0], settings.width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        if name == "conv4":
            if min(input_shape[1:]) < 16:
                raise ValueError(f"encoder='conv4' halves an image four times, got {input_shape}: at least 16 x 16")
            net: nn.Module = Conv4(in_channels=channels, width=width)
        elif name == "resnet1d":
            net = ResNet1D(in_channels=channels, widths=(width // 2 or 1, width, 2 * width))
        else:
            net = nn.Sequential(nn.Linear(channels, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
    return nn.Sequential(InputNormalisation(channels), net)


def build_recipe(
    settings: RunSettings, labels: Int64[Tensor, " n"], groups: Int64[Tensor, " n"] | None, *, crossing: bool
) -> Recipe | None:
    """The recipe that settings name, or that the training set asks for; None where they set its parts themselves.

    Args:
        crossing: positives must be of another group.
    """
    if settings.recipe is None:
        return None
    if settings.recipe == "auto":
        recipe = choose(labels, groups=groups if crossing else None, batch_size=settings.batch_size, k=settings.k)
        log.info("Recipe %s: %s.", recipe.name, recipe.why)
    else:
        recipe = named(settings.recipe)
    return replace(recipe, k=settings.k, distinct_groups=crossing)


def build_loss(settings: RunSettings) -> nn.Module:
    """The loss of settings without a recipe."""
    if settings.loss == "supcon":
        return SupConLoss(temperature=0.1 if settings.temperature is None else settings.temperature)
    if settings.loss == "triplet":
        return TripletLoss(margin=_margin(settings, "triplet"))
    return MultiSimilarityLoss()


def build_schedule(settings: RunSettings, *, crossing: bool) -> MiningSchedule | None:
    """The miners; None for random batches. `crossing`: positives must be of another group."""
    relation = LabelRelation(positive_group="other") if crossing else LabelRelation()
    common: dict[str, Any] = {"relation": relation, "seed": settings.seed}
    semi_hard = SemiHardMiner(margin=_margin(settings, "semi-hard"), **common)
    miners = {
        "random": RandomMiner(**common),
        "semi-hard": semi_hard,
        "hard": HardMiner(**common),
        "full-hard": FullHardMiner(**common),
    }
    if settings.mining == "none":
        return None
    if settings.mining == "schedule":
        stages = [(round(settings.epochs * share / 4), miner) for share, miner in enumerate(miners.values())]
        return MiningSchedule(stages)
    return MiningSchedule([(0, miners[settings.mining])])


def build_protocols(settings: RunSettings) -> list[RetrievalProtocol]:
    """How rankings are asked."""
    presets = {
        "leave-one-out": RetrievalProtocol.leave_one_out,
        "cross-session": RetrievalProtocol.cross_session,
        "cross-day": RetrievalProtocol.cross_day,
        "re-identification": RetrievalProtocol.re_identification,
    }
    return [presets[name]() for name in settings.protocols]


def build_loggers(settings: RunSettings, folder: Path) -> list[Logger]:
    """Lightning's loggers: CSV always (`csv/version_*`, one for each start), and those that are asked for.

    Raises:
        ModuleNotFoundError: one whose package is missing.
    """
    loggers: list[Logger] = [CSVLogger(folder, name="csv")]
    try:
        for name in settings.loggers:
            loggers.append(_tensorboard(folder) if name == "tensorboard" else _mlflow(folder))
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"loggers={list(settings.loggers)} needs more packages: pip install 'legolas-metric[tracking]' ({error})"
        ) from error
    return loggers


def _tensorboard(folder: Path) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="tensorboard", version="")


def _mlflow(folder: Path) -> Logger:
    """A store in the run's folder; a run that is taken up again goes on in MLflow too."""
    from lightning.pytorch.loggers import MLFlowLogger

    known = folder / "mlflow_run.txt"
    logger = MLFlowLogger(
        experiment_name="legolas-metric",
        run_name=folder.name,
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        artifact_location=(folder / "mlflow").resolve().as_uri(),
        run_id=known.read_text(encoding="utf-8").strip() if known.is_file() else None,
    )
    known.write_text(f"{logger.run_id}\n", encoding="utf-8")
    return logger


def _margin(settings: RunSettings, name: str) -> float:
    return MARGINS[name] if settings.margin is None else settings.margin
