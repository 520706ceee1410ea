"""What the commands share: reading files one by one, naming the bad ones, and printing."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from legolas_metric.files import EmbeddingFile, read_embeddings
from legolas_metric.summaries import Figures, in_order, on_screen, plain, sparkline
from legolas_metric.tables import Table

T = TypeVar("T")
BAD_INPUT = (ValueError, TypeError, OSError, ModuleNotFoundError)


class Form(StrEnum):
    """How a table is printed."""

    table = "table"
    csv = "csv"
    markdown = "markdown"
    json = "json"


def each(files: Sequence[Path], labels: Path | None, work: Callable[[EmbeddingFile], T]) -> tuple[dict[str, T], int]:
    """The work done on every file that can be used, by its name, and the exit status.

    One file alone that can't be used raises; of several, the bad ones are named on stderr and the rest goes on.
    """
    results: dict[str, T] = {}
    for path in in_order(files):
        try:
            results[str(path)] = about(path, lambda path=path: work(read_embeddings(path, labels=labels)))
        except BAD_INPUT as error:
            complain(error)
    if not results:
        raise SystemExit(2)
    return results, int(len(results) < len(files))


def about(path: Path, call: Callable[[], T]) -> T:
    """The call's result; what it refuses is told with the name of the file."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        named = str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
        raise type(error)(named) from error


def complain(error: Exception) -> None:
    """One line on stderr."""
    print(f"legolas-metric: {' '.join(str(error).split())}", file=sys.stderr)


def show(table: Table, form: Form) -> None:
    """Print a table; where nobody watches, at its full width."""
    if form is Form.csv:
        print(table.csv(), end="")
    elif form is Form.markdown:
        print(table.markdown())
    else:
        console = Console()
        Console(width=None if console.is_terminal else 10_000).print(on_screen(table))


def show_json(records: Mapping[str, object]) -> None:
    """Print records with the names of their files: one object, or a list of several."""
    objects = [{"file": name, **_fields(record)} for name, record in records.items()]
    print(json.dumps(objects[0] if len(objects) == 1 else objects, indent=2, allow_nan=False))


def show_trends(figures: Mapping[str, Figures], measures: Sequence[str]) -> None:
    """One line for each measure over several files, in their order."""
    if len(figures) < 2:
        return
    for measure in measures:
        values = [held.get(measure) for held in figures.values()]
        ends = " to ".join(format(value, "#.4g") for value in (values[0], values[-1]) if isinstance(value, int | float))
        print(f"{measure:<16} {sparkline(values)}  {ends}")


def show_kept(figures: Mapping[str, Figures], measure: str) -> None:
    """Name the file with the best value of a measure: the epoch that a stop on it would have kept."""
    values = {name: value for name, held in figures.items() if isinstance(value := held.get(measure), int | float)}
    if len(values) > 1:
        best = max(values, key=values.__getitem__)
        print(f"A stop on {measure} would have kept {best} ({values[best]:#.4g}).")


def show_worse(figures: Mapping[str, Figures], untrained: Figures, measure: str) -> None:
    """Say which files rank worse than the untrained encoder."""
    floor = untrained[measure]
    for name, held in figures.items():
        value = held[measure]
        if isinstance(value, int | float) and isinstance(floor, int | float) and value < floor:
            print(f"{name}: training made it worse: {measure} {value:#.4g}, untrained {floor:#.4g}.")


def _fields(record: object) -> dict[str, object]:
    fields = plain(record)
    assert isinstance(fields, dict)
    return fields
