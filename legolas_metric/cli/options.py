"""The options that commands share. Nothing heavy is imported here: help and errors of usage answer at once."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class MetricName(StrEnum):
    """The similarities of the library."""

    cosine = "cosine"
    dot = "dot"
    euclidean = "euclidean"


class Form(StrEnum):
    """How a table is printed."""

    table = "table"
    csv = "csv"
    markdown = "markdown"
    json = "json"


class MinerName(StrEnum):
    """The miners of triplets."""

    random = "random"
    semi_hard = "semi-hard"
    hard = "hard"
    full_hard = "full-hard"


def print_version(asked: bool) -> bool:
    """Print the version, where it is asked for, and end."""
    if asked:
        print(f"legolas-metric {sys.modules['legolas_metric'].__version__}")
        raise typer.Exit
    return asked


Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version, and exit.")
]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Embeddings, or checkpoints with --encoder and --data.")
]
Labels = Annotated[Path | None, typer.Option(metavar="FILE", help="Labels, where FILE holds none (or others).")]
EmbeddingsKey = Annotated[
    str, typer.Option(metavar="NAME", help="The array of embeddings, where it has another name than `embeddings`.")
]
LabelsKey = Annotated[
    str, typer.Option(metavar="NAME", help="The array of labels, where it has another name than `labels`.")
]
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
