"""Data sets: what belongs to which class, honest splits, and the bundled characters."""

from legolas_metric.datasets.ecg import EcgBeats as EcgBeats
from legolas_metric.datasets.ecg import load_ecg_id as load_ecg_id
from legolas_metric.datasets.image_files import ImageFiles as ImageFiles
from legolas_metric.datasets.image_files import image_folder as image_folder
from legolas_metric.datasets.image_files import market1501 as market1501
from legolas_metric.datasets.image_files import msmt17 as msmt17
from legolas_metric.datasets.labels import LabelIndex as LabelIndex
from legolas_metric.datasets.omniglot import Omniglot as Omniglot
from legolas_metric.datasets.omniglot import load_omniglot as load_omniglot
from legolas_metric.datasets.omniglot import split_omniglot as split_omniglot
from legolas_metric.datasets.rotated import RotatedClasses as RotatedClasses
from legolas_metric.datasets.source import Inputs as Inputs
