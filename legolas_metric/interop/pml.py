"""Adapters between this library and pytorch-metric-learning, both ways; the only room that imports the latter.

It is imported on the first call, since that takes a second. What differs is settled here: PML knows positions, this
library ids; PML excludes self by the identity of objects, knows losses by their class name, miners by their base, and
samplers as rows one by one.
"""

from legolas_metric.interop.pml_losses import PairLoss as PairLoss
from legolas_metric.interop.pml_losses import as_loss as as_loss
from legolas_metric.interop.pml_miners import PmlMiner as PmlMiner
from legolas_metric.interop.pml_miners import as_miner as as_miner
from legolas_metric.interop.pml_samplers import FlatSampler as FlatSampler
from legolas_metric.interop.pml_samplers import as_sampler as as_sampler
from legolas_metric.interop.pml_search import KnnFunc as KnnFunc
from legolas_metric.interop.pml_search import as_knn_func as as_knn_func
