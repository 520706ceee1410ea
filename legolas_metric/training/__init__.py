"""Training on Lightning (extra `train`): the module, global mining in the loop, and what an epoch did."""

try:
    import lightning as _lightning  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "legolas_metric.training needs Lightning: pip install 'legolas-metric[train]'", name=error.name
    ) from error

from legolas_metric.training.mining import GlobalMining as GlobalMining
from legolas_metric.training.module import MetricLearner as MetricLearner
from legolas_metric.training.monitor import EpochRecord as EpochRecord
from legolas_metric.training.monitor import ValidationMonitor as ValidationMonitor
from legolas_metric.training.round import MiningRound as MiningRound
