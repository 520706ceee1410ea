"""The options that commands share. Nothing heavy is imported here: help and errors of usage answer at once."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

FORMATS = """
Embeddings are read from .npz or .safetensors files with the arrays `embeddings` [n, d] and `labels` [n] (and, where
you have them, `ids` and `groups`: session, camera, recording), from tables (.csv, .tsv, .txt, .jsonl, .parquet) with
columns label, id, group and numbers, or from .npy and .pt files that hold the embeddings alone, with --labels FILE
(--groups, --ids), by row, or by id where both have ids. Labels, groups and ids may be names; `-` is standard input.
Pickled objects are never executed.
Label -1 means unlabelled.
"""

HELP = f"""Look at embeddings as metric learning needs it: have they collapsed, do they rank, which triplets are hard?

{FORMATS}
Start with `legolas-metric demo`, or with `legolas-metric rank FILE` on embeddings of your own.

Exit status: 0 all is well, 1 some of several files could not be used (the rest was), 2 bad input."""


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


class TripletForm(StrEnum):
    """The lines of a file of triplets."""

    n_tuple = "n-tuple"
    triplet = "triplet"
    labelled_pair = "labelled-pair"


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
Labels = Annotated[
    Path | None,
    typer.Option(metavar="FILE[:NAME]", help="Labels, where FILE holds none (or others); NAME of a column."),
]
Groups = Annotated[
    Path | None, typer.Option(metavar="FILE[:NAME]", help="Groups, likewise: session, camera, recording.")
]
Ids = Annotated[
    Path | None, typer.Option(metavar="FILE[:NAME]", help="Ids of the rows, where FILE holds none (or others).")
]
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
        "cross-day; single-gallery-shot; fixed, with --queries and --gallery; "
        "N-way-K-shot episodes, such as 20-way-1-shot.",
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


class Drawn(StrEnum):
    """What the bootstrap of intervals draws."""

    identities = "identities"
    groups = "groups"


Over = Annotated[
    Drawn,
    typer.Option(help="What intervals draw: classes, or groups, where sessions, speakers or cameras are the question."),
]
SameSpace = Annotated[bool, typer.Option("--same-space", help="Only tell whether A and B share a space.")]
Seed = Annotated[int, typer.Option(min=0, help="Of all that is drawn at random.")]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the triplets here: .npz, .safetensors, .jsonl, .csv or .parquet."),
]
ThresholdFar = Annotated[
    float | None,
    typer.Option("--threshold-far", metavar="RATE", help="Choose the threshold of this false accept rate (FAR, FMR)."),
]
Apply = Annotated[
    Path | None,
    typer.Option("--apply", metavar="FILE", help="What that threshold does to these other people; one FILE alone."),
]
ApplyLabels = Annotated[
    Path | None, typer.Option("--apply-labels", metavar="FILE[:NAME]", help="Labels of that file, where it holds none.")
]
ApplyGroups = Annotated[
    Path | None, typer.Option("--apply-groups", metavar="FILE[:NAME]", help="Groups of that file, where it holds none.")
]
Grid = Annotated[
    bool,
    typer.Option("--grid", help="Count on a grid of 2^18 cells: for millions of genuine pairs."),
]
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
