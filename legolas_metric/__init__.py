"""Metric learning that looks past the batch."""

from legolas_metric.bank import EmbeddingBank as EmbeddingBank
from legolas_metric.evaluation.protocol import RetrievalProtocol as RetrievalProtocol
from legolas_metric.evaluation.ranking import RankingReport as RankingReport
from legolas_metric.evaluation.ranking import evaluate_ranking as evaluate_ranking
from legolas_metric.evaluation.verification import VerificationReport as VerificationReport
from legolas_metric.evaluation.verification import evaluate_verification as evaluate_verification
from legolas_metric.index.auto import AutoIndex as AutoIndex
from legolas_metric.index.exact import ExactIndex as ExactIndex
from legolas_metric.index.faiss import FaissIndex as FaissIndex
from legolas_metric.probes.collapse import CollapseProbe as CollapseProbe
from legolas_metric.probes.collapse import probe_embeddings as probe_embeddings
from legolas_metric.probes.report import CollapseReport as CollapseReport
from legolas_metric.records import MiningStats as MiningStats
from legolas_metric.records import Neighbors as Neighbors
from legolas_metric.records import Triplets as Triplets

__version__ = "0.1.0"
