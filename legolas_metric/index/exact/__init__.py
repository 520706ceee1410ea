"""The exact engine."""

from legolas_metric.index.exact.engine import ExactIndex as ExactIndex
from legolas_metric.index.exact.loops import MINING as MINING
from legolas_metric.index.exact.loops import plain_seconds as plain_seconds
from legolas_metric.index.exact.precision import Precision as Precision
