"""The exact engine."""

from legolas_metric.index.exact.engine import ExactIndex as ExactIndex
from legolas_metric.index.exact.engine import Precision as Precision
