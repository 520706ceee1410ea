"""Data sets: what belongs to which class, honest splits, and the bundled characters."""

from legolas_metric.datasets.ecg import EcgBeats as EcgBeats
from legolas_metric.datasets.ecg import load_ecg_id as load_ecg_id
from legolas_metric.datasets.labels import LabelIndex as LabelIndex
from legolas_metric.datasets.omniglot import Omniglot as Omniglot
from legolas_metric.datasets.omniglot import load_omniglot as load_omniglot
from legolas_metric.datasets.omniglot import split_omniglot as split_omniglot
from legolas_metric.datasets.source import Inputs as Inputs
