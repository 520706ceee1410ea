"""Global mining in the training loop: `MiningLoop` for a plain one; callbacks for Lightning and for transformers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from legolas_metric.training.batches import WithIds as WithIds
from legolas_metric.training.epoch_record import EpochRecord as EpochRecord
from legolas_metric.training.history import RunHistory as RunHistory
from legolas_metric.training.loop import MiningLoop as MiningLoop
from legolas_metric.training.rounds import MiningRound as MiningRound

if TYPE_CHECKING:
    from legolas_metric.training.attention_monitor import AttentionMonitor as AttentionMonitor
    from legolas_metric.training.averaged_weights import AveragedWeights as AveragedWeights
    from legolas_metric.training.best_checkpoint import BestCheckpoint as BestCheckpoint
    from legolas_metric.training.classifier import ClassifierLearner as ClassifierLearner
    from legolas_metric.training.collapse_monitor import CollapseMonitor as CollapseMonitor
    from legolas_metric.training.early_stopping import EarlyStopping as EarlyStopping
    from legolas_metric.training.early_stopping import RestoringEarlyStopping as RestoringEarlyStopping
    from legolas_metric.training.epoch_confusion import EpochConfusion as EpochConfusion
    from legolas_metric.training.hf_trainer import MiningCallback as MiningCallback
    from legolas_metric.training.mining import GlobalMining as GlobalMining
    from legolas_metric.training.module import MetricLearner as MetricLearner
    from legolas_metric.training.monitor import ValidationMonitor as ValidationMonitor

_ON_LIGHTNING = {
    "AttentionMonitor": "attention_monitor",
    "AveragedWeights": "averaged_weights",
    "BestCheckpoint": "best_checkpoint",
    "ClassifierLearner": "classifier",
    "CollapseMonitor": "collapse_monitor",
    "EarlyStopping": "early_stopping",
    "EpochConfusion": "epoch_confusion",
    "GlobalMining": "mining",
    "MetricLearner": "module",
    "RestoringEarlyStopping": "early_stopping",
    "ValidationMonitor": "monitor",
}


def __getattr__(name: str) -> Any:
    if name == "MiningCallback":
        try:
            import transformers  # noqa: F401
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "legolas_metric.training.MiningCallback needs transformers: pip install 'legolas-metric[hf]'",
                name=error.name,
            ) from error
        return import_module(f"{__name__}.hf_trainer").MiningCallback
    if name not in _ON_LIGHTNING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import lightning  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"legolas_metric.training.{name} needs Lightning: pip install 'legolas-metric[train]'", name=error.name
        ) from error
    return getattr(import_module(f"{__name__}.{_ON_LIGHTNING[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ON_LIGHTNING, "MiningCallback"])
