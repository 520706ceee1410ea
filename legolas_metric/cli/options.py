"""The options that commands share, and what the choices among them stand for."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.cli.printing import Form, about, labels_of
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.files import EmbeddingFile, read_arrays
from legolas_metric.index.auto import AutoIndex
from legolas_metric.index.exact import ExactIndex
from legolas_metric.index.faiss import FaissIndex
from legolas_metric.index.interface import NeighborIndex
from legolas_metric.miners.miner import Miner
from legolas_metric.miners.triplets import FullHardMiner, HardMiner, RandomMiner, SemiHardMiner
from legolas_metric.rows import as_ids


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


Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Embeddings, or checkpoints with --encoder and --data.")
]
Labels = Annotated[Path | None, typer.Option(metavar="FILE", help="Labels, where FILE holds none (or others).")]
AsMetric = Annotated[MetricName, typer.Option(help="Similarity; euclidean is minus the distance.")]
Protocol = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What a query must find, and where: leave-one-out; across groups: re-identification, cross-session or "
        "cross-day; fixed, with --queries and --gallery; N-way-K-shot episodes, such as 20-way-1-shot.",
    ),
]
Queries = Annotated[
    Path | None, typer.Option(metavar="FILE", help="`ids` of the rows that ask: .npz, .npy, .safetensors or .pt.")
]
Gallery = Annotated[Path | None, typer.Option(metavar="FILE", help="`ids` of the rows that are searched.")]
Episodes = Annotated[int | None, typer.Option(min=1, help="Of N-way-K-shot (default: 1000).")]
WithinGroup = Annotated[
    bool, typer.Option("--within-group", help="Draw the classes of an episode from one group, such as an alphabet.")
]
Prototypes = Annotated[
    bool, typer.Option("--prototypes", help="Compare with the mean of each class's shots, not with each shot.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of all that is drawn at random.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the triplets here, as .npz or .safetensors.")]
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
    window = {"margin": margin} if name is MinerName.semi_hard else {}
    return kinds[name](index=index, per_anchor=per_anchor, seed=seed, **window)


def protocol_of(
    name: str,
    queries: Path | None = None,
    gallery: Path | None = None,
    episodes: int | None = None,
    within_group: bool = False,
    prototypes: bool = False,
    seed: int = 0,
) -> RetrievalProtocol:
    """The protocol of a name; options of another protocol are refused."""
    asked, searched = (None if path is None else _ids(path) for path in (queries, gallery))
    shape = re.fullmatch(r"(\d+)-way-(\d+)-shot", name)
    if shape is None and (episodes is not None or within_group or prototypes):
        raise ValueError(
            "--episodes, --within-group and --prototypes belong to episodes: pass --protocol 20-way-1-shot"
        )
    if name not in ("re-identification", "fixed") and not (asked is None and searched is None):
        raise ValueError(f"--queries and --gallery belong to --protocol fixed or re-identification, got {name!r}")
    if shape is not None:
        return RetrievalProtocol.few_shot(
            ways=int(shape[1]),
            shots=int(shape[2]),
            episodes=1000 if episodes is None else episodes,
            within_group=within_group,
            prototypes=prototypes,
            seed=seed,
        )
    if name == "re-identification":
        return RetrievalProtocol.re_identification(queries=asked, gallery=searched)
    if name == "fixed":
        if asked is None or searched is None:
            raise ValueError("--protocol fixed needs both lists: pass --queries FILE and --gallery FILE")
        return RetrievalProtocol.fixed(asked, searched)
    presets = {
        "leave-one-out": RetrievalProtocol.leave_one_out,
        "cross-session": RetrievalProtocol.cross_session,
        "cross-day": RetrievalProtocol.cross_day,
    }
    if name not in presets:
        known = ", ".join((*presets, "re-identification", "fixed"))
        raise ValueError(f"--protocol must be one of {known} or N-way-K-shot (20-way-1-shot), got {name!r}")
    return presets[name]()


def _ids(path: Path) -> Tensor:
    ids = read_arrays(path, ("ids",))["ids"]
    return about(path, lambda: as_ids(ids, ids.numel(), of="the file"))
