"""The exact engine."""

from legolas_metric.index.exact.engine import ExactIndex as ExactIndex
from legolas_metric.index.exact.precision import Precision as Precision
