"""What the history of a run tells of its split, so that whoever reads it need not have the data."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from legolas_metric.checks import UNLABELLED
from legolas_metric.training.recording import HistoryOption


class SplitRecord(L.Callback):
    """Notes how many identities each part has, and how many both, in the line that begins the history.

    It stands between other recorders, of which the first and the last write.

    Args:
        train, validation: labels of the two parts, of one numbering.
    """

    history_option: HistoryOption = None

    def __init__(self, train: Tensor, validation: Tensor) -> None:
        super().__init__()
        seen, asked = (part[part != UNLABELLED].unique() for part in (train, validation))
        self.counts = {
            "train_identities": len(seen),
            "validation_identities": len(asked),
            "shared_identities": int(torch.isin(asked, seen).sum()),
        }

    def recorded_settings(self) -> Mapping[str, Any]:
        """The counts."""
        return self.counts

    def recorded_values(self, epoch: int) -> Mapping[str, float | int]:
        """None: a split has no epochs."""
        return {}

    def recorded_names(self) -> set[str]:
        """None."""
        return set()
