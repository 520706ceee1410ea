"""The commands of whole runs: parse, call, print. What a command needs is imported when it runs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class How(StrEnum):
    """Ways to join encoders."""

    mean = "mean"
    concat = "concat"
    score = "score"


Settings = Annotated[
    Path | None, typer.Argument(metavar="[SETTINGS.TOML]", help="Settings; what is not in it has its default.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as epochs=3; repeatable."),
]
Folder = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The study's folder; the same one goes on.")]
RunFolder = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="The run's folder; the same one goes on (default: a new runs/DATE)."),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
OtherData = Annotated[
    str | None, typer.Option("--data", metavar="PATH", help="Other data, as `data` of the settings names it.")
]


def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the report goes.")] = Path("runs/demo"),
    epochs: Annotated[int, typer.Option(min=2, help="Of 115 steps, for each of two trained encoders.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, the weights and the batches.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the processor (default: all cores).")] = None,
) -> None:
    """Train on bundled handwriting for a few minutes, and see what a look at the whole set is worth.

    Ends with a table, and writes report.html and summary.json into the folder. Needs the extras `train` and `report`.
    """
    from legolas_metric.demo.run import run_demo

    run_demo(out, epochs=epochs, seed=seed, threads=threads)


def train(settings: Settings = None, changes: Changes = None, out: RunFolder = None) -> None:
    """Train an encoder, keep its best epoch, and judge it on classes that it never saw.

    Without a file it trains on the bundled handwriting. Interrupted, it goes on by the same command with its folder as
    --out. Needs the extras `train` and `report`; pictures need `images`, loggers `tracking`.
    """
    from legolas_metric.runs.commands import train as run
    from legolas_metric.runs.run_settings import RunSettings

    run(RunSettings.read(settings, changes or ()), out)


def kfold(settings: Settings = None, changes: Changes = None, out: RunFolder = None) -> None:
    """Cross-validate by identity, a test set held out: mean, spread, and the pooled figure with its interval.

    Interrupted, it goes on with the first fold that is not done, by the same command with its folder as --out.
    """
    from legolas_metric.runs.commands import kfold as run
    from legolas_metric.runs.run_settings import RunSettings

    run(RunSettings.read(settings, changes or ()), out)


def embed(
    run: Run,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Write here: .npz or .safetensors.")],
    data: OtherData = None,
    fold: Annotated[int | None, typer.Option(min=0, help="Whose encoder, of a run of `kfold`; from 0.")] = None,
) -> None:
    """Embed data by a run's best weights, as a file for `rank`, `verify`, `probe` and the others."""
    from legolas_metric.cli import printing
    from legolas_metric.cli.waiting import waiting
    from legolas_metric.runs.commands import embed_data

    with waiting(f"embedding {data or run}"):
        count = embed_data(run, out, data=data, fold=fold)
    printing.say(f"Wrote {count} embeddings to {out}.")


def ensemble(
    run: Run,
    how: Annotated[How | None, typer.Option(help="Default: as the run's settings say.")] = None,
    data: OtherData = None,
) -> None:
    """Join the encoders of a `kfold`, and rank the held-out test rows by all together and by each alone."""
    from legolas_metric.cli.waiting import waiting
    from legolas_metric.runs.commands import join

    with waiting(f"joining {run}"):
        join(run, how=None if how is None else how.value, data=data)


def search(
    space: Annotated[Path, typer.Argument(metavar="SPACE.TOML", help="Key -> list of values, or {low, high, log}.")],
    settings: Annotated[Path | None, typer.Option("--settings", metavar="FILE", help="What all trials share.")] = None,
    changes: Changes = None,
    trials: Annotated[int, typer.Option(min=1, help="In all, those of earlier calls included.")] = 20,
    out: Folder = Path("runs/search"),
) -> None:
    """Search over settings with Optuna; the study is kept in the folder, and goes on. Needs the extra `tune`."""
    from legolas_metric.runs.run_settings import RunSettings
    from legolas_metric.runs.search import read_space, search_settings

    search_settings(RunSettings.read(settings, changes or ()), read_space(space), trials=trials, folder=out)
