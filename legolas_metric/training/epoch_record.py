"""What a validation measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.probes.collapse_report import CollapseReport


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """Ranking and collapse probes of the validation set after an epoch; epoch 0 is the untrained encoder.

    Attributes:
        epoch: epochs trained.
        ranking: by the first protocol.
        rankings: by every protocol, under its name.
        collapse: probes of the embeddings.

    Example:
        >>> import torch
        >>> from legolas_metric import evaluate_ranking, probe_embeddings
        >>> from legolas_metric.training import EpochRecord
        >>> rows, labels = torch.eye(4), [0, 0, 1, 1]
        >>> ranking, collapse = evaluate_ranking(rows, labels), probe_embeddings(rows)
        >>> EpochRecord(epoch=0, ranking=ranking, collapse=collapse).ranking.queries
        4

    Source: ours.
    """

    epoch: int
    ranking: RankingReport
    collapse: CollapseReport
    rankings: Mapping[str, RankingReport] = field(default_factory=dict)

    def values(self) -> dict[str, float | int]:
        """The figures by name, as loggers and `history.jsonl` have them."""
        collapse = ("effective_rank", "mean_cosine", "top1_variance", "resultant_length", "participation_ratio")
        values = _of_ranking(self.ranking) | {name: getattr(self.collapse, name) for name in collapse}
        if len(self.rankings) > 1:
            for protocol, report in self.rankings.items():
                values |= {f"{name}/{protocol}": value for name, value in _of_ranking(report).items()}
        return values


def _of_ranking(report: RankingReport) -> dict[str, float | int]:
    return {f"rank_at_{k}": value for k, value in report.rank.items()} | {
        "map_at_r": report.map_at_r,
        "r_precision": report.r_precision,
        "nn_accuracy": report.nn_accuracy,
        "intra": report.intra,
        "inter": report.inter,
        "queries": report.queries,
        "unanswerable": report.unanswerable,
    }
