"""The parts that settings choose: encoder, loss, miners, protocols, loggers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from legolas_metric.checks import ArrayLike
from legolas_metric.encoders import BiLSTM, Conv4, InputNormalisation, ResNet1D, SequenceTransformer
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.losses import FocalLoss, MultiSimilarityLoss, SupConLoss, TripletLoss
from legolas_metric.losses.head import HeadLoss
from legolas_metric.miners.schedule import MiningSchedule
from legolas_metric.miners.triplets import (
    DistanceWeightedMiner,
    EasyPositiveMiner,
    FullHardMiner,
    HardMiner,
    RandomMiner,
    SemiHardMiner,
)
from legolas_metric.recipes import Recipe, choose, named
from legolas_metric.relations import LabelRelation
from legolas_metric.runs.run_log import log
from legolas_metric.runs.run_settings import MARGINS, RunSettings

if TYPE_CHECKING:  # whoever only builds an encoder, such as a service, needs no Lightning
    from lightning.pytorch.loggers import Logger

Shape = tuple[int, ...]
ENCODERS: Mapping[int, tuple[str, ...]] = {1: ("mlp",), 2: ("resnet1d", "bilstm", "transformer"), 3: ("conv4",)}
"""By the number of axes of one input; the first is that of "auto"."""
_HEADS = 4


class AlongTime(nn.Module):
    """A sequence encoder, of [b, t, c], as one of signals [b, c, t]."""

    def __init__(self, net: BiLSTM | SequenceTransformer) -> None:
        super().__init__()
        self.net = net

    def forward(self, signals: Tensor) -> Tensor:
        """Embed a batch."""
        return self.net(signals.transpose(1, 2))

    def attention(self, signals: Tensor, lengths: Tensor | None = None) -> Tensor:
        """How much each step counts, of a BiLSTM."""
        assert isinstance(self.net, BiLSTM)
        return self.net.attention(signals.transpose(1, 2), lengths)


def build_encoder(settings: RunSettings, input_shape: Shape) -> nn.Sequential:
    """The untrained encoder that settings and the shape of an input ask for, its input normalisation first.

    Raises:
        ValueError: an encoder of other inputs, or a width that it can't have.
    """
    fitting = ENCODERS.get(len(input_shape), ())
    name = settings.encoder if settings.encoder != "auto" else next(iter(fitting), None)
    if name not in fitting:
        raise ValueError(
            f"encoder={settings.encoder!r} does not take inputs of shape {input_shape}: conv4 takes [c, h, w]; "
            "resnet1d, bilstm and transformer [c, t]; mlp [d]"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = _NETS[name](settings.width, input_shape)
    return nn.Sequential(InputNormalisation(input_shape[0]), net)


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


def _conv4(width: int, shape: Shape) -> nn.Module:
    if min(shape[1:]) < 16:
        raise ValueError(f"encoder='conv4' halves an image four times, got {shape}: at least 16 x 16")
    return Conv4(in_channels=shape[0], width=width)


def _transformer(width: int, shape: Shape) -> nn.Module:
    if width % _HEADS:
        raise ValueError(f"width must be a multiple of {_HEADS} for encoder='transformer', got {width}")
    return AlongTime(SequenceTransformer(shape[0], dim=width, heads=_HEADS))


_NETS: Mapping[str, Callable[[int, Shape], nn.Module]] = {
    "conv4": _conv4,
    "resnet1d": lambda width, shape: ResNet1D(in_channels=shape[0], widths=(width // 2 or 1, width, 2 * width)),
    "bilstm": lambda width, shape: AlongTime(BiLSTM(shape[0], hidden=width)),
    "transformer": _transformer,
    "mlp": lambda width, shape: nn.Sequential(nn.Linear(shape[0], 2 * width), nn.ReLU(), nn.Linear(2 * width, width)),
}


def build_loss(settings: RunSettings, dim: int, classes: ArrayLike) -> nn.Module:
    """The loss of embeddings of `dim` dimensions, and of labels among `classes`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        match settings.loss:
            case "supcon":
                return SupConLoss(temperature=0.1 if settings.temperature is None else settings.temperature)
            case "triplet":
                return TripletLoss(margin=_margin(settings, "triplet"))
            case "multi-similarity":
                return MultiSimilarityLoss()
            case "cross-entropy":
                return HeadLoss(dim, classes)
            case "focal":
                return HeadLoss(dim, classes, loss=FocalLoss())
            case None:
                raise ValueError(f"recipe={settings.recipe!r} makes its own loss")


def build_schedule(settings: RunSettings, *, crossing: bool) -> MiningSchedule | None:
    """The miners; None for random batches. `crossing`: positives must be of another group."""
    relation = LabelRelation(positive_group="other") if crossing else LabelRelation()
    common: dict[str, Any] = {"relation": relation, "seed": settings.seed}
    semi_hard = SemiHardMiner(margin=_margin(settings, "semi-hard"), **common)
    stages = {
        "random": RandomMiner(**common),
        "semi-hard": semi_hard,
        "hard": HardMiner(**common),
        "full-hard": FullHardMiner(**common),
    }
    others = {"easy-positive": EasyPositiveMiner(**common), "distance-weighted": DistanceWeightedMiner(**common)}
    if settings.mining is None or settings.mining == "none":
        return None
    if settings.mining == "schedule":
        return MiningSchedule([(round(settings.epochs * n / 4), miner) for n, miner in enumerate(stages.values())])
    return MiningSchedule([(0, (stages | others)[settings.mining])])


def build_protocols(settings: RunSettings) -> list[RetrievalProtocol]:
    """How rankings are asked."""
    presets = {
        "leave-one-out": RetrievalProtocol.leave_one_out,
        "cross-session": RetrievalProtocol.cross_session,
        "cross-day": RetrievalProtocol.cross_day,
        "re-identification": RetrievalProtocol.re_identification,
    }
    return [presets[name]() for name in settings.protocols]


def build_loggers(settings: RunSettings, folder: Path) -> "list[Logger]":
    """Lightning's loggers: CSV always (`csv/version_*`, one for each start), and those that are asked for.

    Raises:
        ModuleNotFoundError: one whose package is missing.
    """
    from lightning.pytorch.loggers import CSVLogger

    loggers: list[Logger] = [CSVLogger(folder, name="csv")]
    try:
        for name in settings.loggers:
            loggers.append(_tensorboard(folder) if name == "tensorboard" else _mlflow(folder))
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"loggers={list(settings.loggers)} needs more packages: pip install 'legolas-metric[tracking]' ({error})"
        ) from error
    return loggers


def _tensorboard(folder: Path) -> "Logger":
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="tensorboard", version="")


def _mlflow(folder: Path) -> "Logger":
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
