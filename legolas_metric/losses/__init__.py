"""Losses: what is minimised."""

from legolas_metric.losses.multi_similarity import MultiSimilarityLoss as MultiSimilarityLoss
from legolas_metric.losses.multi_similarity import multi_similarity_loss as multi_similarity_loss
from legolas_metric.losses.supcon import SupConLoss as SupConLoss
from legolas_metric.losses.supcon import supcon_loss as supcon_loss
from legolas_metric.losses.triplet import TripletLoss as TripletLoss
from legolas_metric.losses.triplet import triplet_loss as triplet_loss
