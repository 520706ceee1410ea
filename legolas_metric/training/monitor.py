"""What an epoch did to embeddings of classes that were never trained on."""

from dataclasses import dataclass
from typing import Any

import lightning as L
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike
from legolas_metric.datasets.source import Inputs
from legolas_metric.evaluation.ranking import RankingReport, evaluate_ranking
from legolas_metric.probes.collapse import probe_embeddings
from legolas_metric.probes.collapse_report import CollapseReport
from legolas_metric.rows import as_labels
from legolas_metric.training.module import MetricLearner


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """Ranking and collapse probes of the validation set after an epoch; epoch 0 is the untrained encoder.

    Example:
        >>> import torch
        >>> from legolas_metric import evaluate_ranking, probe_embeddings
        >>> from legolas_metric.training import EpochRecord
        >>> rows, labels = torch.eye(4), [0, 0, 1, 1]
        >>> ranking, collapse = evaluate_ranking(rows, labels), probe_embeddings(rows)
        >>> EpochRecord(epoch=0, ranking=ranking, collapse=collapse).ranking.queries
        4
    """

    epoch: int
    ranking: RankingReport
    collapse: CollapseReport


class ValidationMonitor(L.Callback):
    """Embed a validation set before training and after every epoch; rank it, probe it, log both, keep both.

    Logs `rank_at_1`, `map_at_r`, `effective_rank`, `mean_cosine` and `top1_variance`; the reports are in `history`.

    Args:
        dataset: any map-style `Dataset` (items x or (x, ...)), or an array of inputs, of classes not trained on.
        labels: [n] integers.

    Example:
        >>> from legolas_metric.datasets import split_omniglot
        >>> from legolas_metric.training import ValidationMonitor
        >>> train, validation = split_omniglot()
        >>> monitor = ValidationMonitor(validation, validation.labels)
        >>> monitor.history
        []
    """

    def __init__(self, dataset: Dataset | ArrayLike, labels: ArrayLike) -> None:
        super().__init__()
        self.inputs = Inputs(dataset)
        self.labels: Int64[Tensor, " n"] = as_labels(labels, len(self.inputs), of="the validation set")
        self.history: list[EpochRecord] = []

    def embed(self, learner: MetricLearner) -> EmbeddingBank:
        """Embed the validation set as it stands."""
        return EmbeddingBank.encode(
            learner.encoder, self.inputs, labels=self.labels, device=learner.device, progress=False
        )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the untrained encoder."""
        self._measure(pl_module, epoch=trainer.current_epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the epoch, and log it."""
        measures = self._measure(pl_module, epoch=trainer.current_epoch + 1)
        pl_module.log("rank_at_1", measures.pop("rank_at_1"), prog_bar=True)
        pl_module.log_dict(measures)

    def _measure(self, learner: L.LightningModule, *, epoch: int) -> dict[str, Any]:
        assert isinstance(learner, MetricLearner)
        bank = self.embed(learner)
        ranking = evaluate_ranking(bank.embeddings, bank.labels)
        collapse = probe_embeddings(bank.embeddings, bank.labels)
        self.history.append(EpochRecord(epoch=epoch, ranking=ranking, collapse=collapse))
        return {
            "rank_at_1": ranking.rank[1],
            "map_at_r": ranking.map_at_r,
            "effective_rank": collapse.effective_rank,
            "mean_cosine": collapse.mean_cosine,
            "top1_variance": collapse.top1_variance,
        }
