"""Losses: what is minimised. Each is a pure function, and a module that holds its settings."""

from legolas_metric.losses.bank_loss import BankDetail as BankDetail
from legolas_metric.losses.bank_loss import BankLoss as BankLoss
from legolas_metric.losses.focal import FocalLoss as FocalLoss
from legolas_metric.losses.focal import focal_loss as focal_loss
from legolas_metric.losses.multi_similarity import MultiSimilarityLoss as MultiSimilarityLoss
from legolas_metric.losses.multi_similarity import multi_similarity_loss as multi_similarity_loss
from legolas_metric.losses.supcon import SupConLoss as SupConLoss
from legolas_metric.losses.supcon import supcon_loss as supcon_loss
from legolas_metric.losses.terms import LossDetail as LossDetail
from legolas_metric.losses.triplet import TripletLoss as TripletLoss
from legolas_metric.losses.triplet import triplet_loss as triplet_loss
