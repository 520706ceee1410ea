"""The options that commands share, and what the choices among them stand for."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from legolas_metric.bank import EmbeddingBank
from legolas_metric.files import EmbeddingFile
from legolas_metric.index.auto import AutoIndex
from legolas_metric.index.exact import ExactIndex
from legolas_metric.index.faiss import FaissIndex
from legolas_metric.index.protocol import NeighborIndex
from legolas_metric.miners.miner import Miner
from legolas_metric.miners.triplets import FullHardMiner, HardMiner, RandomMiner, SemiHardMiner
from legolas_metric.terminal import Form, labels_of


class MetricName(StrEnum):
    """The similarities of the library."""

    cosine = "cosine"
    dot = "dot"
    euclidean = "euclidean"


class MinerName(StrEnum):
    """The miners of triplets."""

    random = "random"
    semi_hard = "semi-hard"
    hard = "hard"
    full_hard = "full-hard"


class ExcludeName(StrEnum):
    """What a query must not find."""

    self = "self"
    same_group = "same_group"


Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Embeddings, or checkpoints with --encoder and --data.")
]
Labels = Annotated[Path | None, typer.Option(metavar="FILE", help="Labels, where FILE holds none (or others).")]
AsMetric = Annotated[MetricName, typer.Option(help="Similarity; euclidean is minus the distance.")]
Untrained = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The same rows by the untrained encoder, to compare with.")
]
Encoder = Annotated[
    str | None,
    typer.Option(metavar="PACKAGE.MODULE:FUNCTION", help="Read files as checkpoints of the module it returns."),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|PACKAGE.MODULE:FUNCTION",
        help="What to embed: a file with `images` and `labels`, or a function that returns (data set, labels).",
    ),
]
Format = Annotated[Form, typer.Option("--format", help="How to print the table.")]
Json = Annotated[bool, typer.Option("--json", help="Short for --format json: all figures, in full precision.")]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a report with charts, one page; extra `report`.")
]


def bank_of(held: EmbeddingFile, metric: MetricName) -> EmbeddingBank:
    """The bank of a file."""
    return EmbeddingBank(held.embeddings, labels_of(held), ids=held.ids, groups=held.groups, metric=metric.value)


def index_of(name: str, metric: MetricName) -> NeighborIndex:
    """The index of a name: "auto", "exact", or a FAISS factory."""
    if name == "auto":
        return AutoIndex(metric=metric.value)
    return ExactIndex(metric=metric.value) if name == "exact" else FaissIndex(name, metric=metric.value)


def miner_of(name: MinerName, index: NeighborIndex, margin: float, per_anchor: int, seed: int) -> Miner:
    """The miner of a name."""
    kinds = {
        MinerName.random: RandomMiner,
        MinerName.semi_hard: SemiHardMiner,
        MinerName.hard: HardMiner,
        MinerName.full_hard: FullHardMiner,
    }
    return kinds[name](index=index, margin=margin, per_anchor=per_anchor, seed=seed)
