"""Metric learning that looks past the batch."""

from legolas_metric.bank import EmbeddingBank as EmbeddingBank
from legolas_metric.records import MiningStats as MiningStats
from legolas_metric.records import Neighbors as Neighbors
from legolas_metric.records import Triplets as Triplets

__version__ = "0.1.0"
