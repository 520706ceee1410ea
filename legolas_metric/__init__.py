"""Metric learning that looks past the batch."""

from legolas_metric.bank import EmbeddingBank as EmbeddingBank
from legolas_metric.datasets.splits import class_disjoint_folds as class_disjoint_folds
from legolas_metric.datasets.splits import class_disjoint_split as class_disjoint_split
from legolas_metric.datasets.splits import group_disjoint_folds as group_disjoint_folds
from legolas_metric.datasets.splits import group_disjoint_split as group_disjoint_split
from legolas_metric.evaluation.protocol import RetrievalProtocol as RetrievalProtocol
from legolas_metric.evaluation.ranking import RankingReport as RankingReport
from legolas_metric.evaluation.ranking import evaluate_ranking as evaluate_ranking
from legolas_metric.evaluation.verification import VerificationReport as VerificationReport
from legolas_metric.evaluation.verification import evaluate_verification as evaluate_verification
from legolas_metric.index.auto import AutoIndex as AutoIndex
from legolas_metric.index.exact import ExactIndex as ExactIndex
from legolas_metric.index.faiss import FaissIndex as FaissIndex
from legolas_metric.losses.bank import BankLoss as BankLoss
from legolas_metric.losses.focal import FocalLoss as FocalLoss
from legolas_metric.losses.multi_similarity import MultiSimilarityLoss as MultiSimilarityLoss
from legolas_metric.losses.supcon import SupConLoss as SupConLoss
from legolas_metric.losses.terms import LossDetail as LossDetail
from legolas_metric.losses.triplet import TripletLoss as TripletLoss
from legolas_metric.miners.guard import FalseNegativeGuard as FalseNegativeGuard
from legolas_metric.miners.pairs import MultiSimilarityMiner as MultiSimilarityMiner
from legolas_metric.miners.relation import LabelRelation as LabelRelation
from legolas_metric.miners.schedule import MiningSchedule as MiningSchedule
from legolas_metric.miners.triplets import DistanceWeightedMiner as DistanceWeightedMiner
from legolas_metric.miners.triplets import EasyPositiveMiner as EasyPositiveMiner
from legolas_metric.miners.triplets import FullHardMiner as FullHardMiner
from legolas_metric.miners.triplets import HardMiner as HardMiner
from legolas_metric.miners.triplets import RandomMiner as RandomMiner
from legolas_metric.miners.triplets import SemiHardMiner as SemiHardMiner
from legolas_metric.probes.collapse import CollapseProbe as CollapseProbe
from legolas_metric.probes.collapse import probe_embeddings as probe_embeddings
from legolas_metric.probes.guard import CollapseGuard as CollapseGuard
from legolas_metric.probes.guard import GuardAction as GuardAction
from legolas_metric.probes.hubness import hubness_of as hubness_of
from legolas_metric.probes.report import CollapseReport as CollapseReport
from legolas_metric.records import MiningStats as MiningStats
from legolas_metric.records import Neighbors as Neighbors
from legolas_metric.records import Pairs as Pairs
from legolas_metric.records import Triplets as Triplets
from legolas_metric.samplers.neighbor_pk import NeighborPKSampler as NeighborPKSampler
from legolas_metric.samplers.pk import PKSampler as PKSampler
from legolas_metric.samplers.triplet import TripletSampler as TripletSampler

__version__ = "0.1.0"
