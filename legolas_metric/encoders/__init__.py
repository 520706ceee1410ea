"""Reference encoders of images, signals and sequences, and what their inputs need."""

from legolas_metric.encoders.augmentations import augment_images as augment_images
from legolas_metric.encoders.augmentations import augment_signals as augment_signals
from legolas_metric.encoders.augmentations import rarity as rarity
from legolas_metric.encoders.convolutional import Conv4 as Conv4
from legolas_metric.encoders.convolutional import ResNet1D as ResNet1D
from legolas_metric.encoders.heads import ModalityDropout as ModalityDropout
from legolas_metric.encoders.heads import ProjectionHead as ProjectionHead
from legolas_metric.encoders.input_normalisation import InputNormalisation as InputNormalisation
from legolas_metric.encoders.padding import pad_collate as pad_collate
from legolas_metric.encoders.sequences import AttentionPooling as AttentionPooling
from legolas_metric.encoders.sequences import BiLSTM as BiLSTM
from legolas_metric.encoders.sequences import SequenceTransformer as SequenceTransformer
from legolas_metric.encoders.sequences import attention_entropy as attention_entropy
