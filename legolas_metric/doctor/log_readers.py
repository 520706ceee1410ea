"""Runs as their loggers left them: our `history.jsonl`, CSV, TensorBoard's event files, an MLflow store.

Each reader gives lines as `history.jsonl` has them: mappings by `kind`, with an epoch and values under their own names.
"""

import csv
import json
import os
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from legolas_metric.training.history import RunHistory

Line = Mapping[str, Any]
Points = Sequence[tuple[float | int, float | int]]
"""(step, value) of a logged value."""

_EVENTS = "events.out.tfevents*"
_STORES = (".db", ".sqlite", ".sqlite3")


def file_of(path: Path) -> Path | None:
    """What there is to read in a run's folder, or the file itself; None where there is nothing."""
    if path.is_file():
        return path
    for name in ("history.jsonl", "metrics.csv", "mlflow.db"):
        if (path / name).is_file():
            return path / name
    return path if next(path.glob(_EVENTS), None) is not None else None


def lines_of(path: Path, run: str = "") -> tuple[list[Line], list[str]]:
    """The lines of a file that `file_of` found, and what could not be read of it.

    Raises:
        ModuleNotFoundError: a store whose library is an extra that isn't installed.
        ValueError: a file that isn't what its name says.
    """
    if path.suffix == ".jsonl":
        return _own_lines(path)
    if path.is_dir() or "tfevents" in path.name:
        return _tensorboard_lines(path), []
    if path.suffix in _STORES:
        return mlflow_lines(f"sqlite:///{path.resolve()}", run), []
    return _csv_lines(path), []


def _own_lines(path: Path) -> tuple[list[Line], list[str]]:
    history = RunHistory(path)
    ended = [] if history.ended is None else [history.ended]
    lines: list[Line] = [*history.starts, *history.epochs.values(), *history.rounds, *history.events, *ended]
    broken = history.broken
    return lines, [f"{broken} lines of {path.name}, which are no lines of a history"] if broken else []


def _csv_lines(path: Path) -> list[Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        head = text.partition("\n")[0]
        between = max(",;\t", key=head.count)  # a comma where there is none
        rows = csv.DictReader(text.splitlines(), delimiter=between)
        return [{key: value for key, value in row.items() if key} for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV: {error}") from None


def _tensorboard_lines(path: Path) -> list[Line]:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.util.tensor_util import make_ndarray
    except ModuleNotFoundError:
        raise _absent("tensorboard", f"{path} holds TensorBoard's event files") from None
    events = EventAccumulator(os.fspath(path), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    held = events.Tags()
    values = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in held["scalars"]}
    for tag in held["tensors"]:  # scalars as TensorFlow 2 writes them; the plugin tells them from texts and curves
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            values[tag] = [(event.step, make_ndarray(event.tensor_proto).item()) for event in events.Tensors(tag)]
    return by_epoch(values)


def mlflow_lines(store: str, run: str = "") -> list[Line]:
    """Metrics and parameters of a run in an MLflow store.

    Args:
        store: its address, such as `sqlite:///mlflow.db`.
        run: id or name; may be empty where the store holds a single run.

    Raises:
        ValueError: no such run, or several to choose from.
    """
    try:
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError:
        raise _absent("mlflow", f"{store} is an MLflow store") from None
    client = MlflowClient(tracking_uri=store)
    held = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    asked = [each for each in held if run in ("", each.info.run_id, each.info.run_name)]
    if len(asked) != 1:
        names = ", ".join(f"{each.info.run_name} ({each.info.run_id})" for each in held[:10])
        raise ValueError(f"{store} holds {len(asked)} runs {run!r}: name one behind #, of {names or 'none'}")
    found = asked[0]
    metrics = {key: client.get_metric_history(found.info.run_id, key) for key in found.data.metrics}
    lines = by_epoch({key: [(point.step, point.value) for point in points] for key, points in metrics.items()})
    return [{"kind": "start", "settings": {k: _plain(v) for k, v in found.data.params.items()}}, *lines]


def by_epoch(values: Mapping[str, Points]) -> list[Line]:
    """Lines of epochs from values logged by step: the mean of those of an epoch.

    Lightning logs `epoch` beside them; without it the steps are the axis, as where a loop logs by epoch.
    """
    clock = sorted(values.get("epoch", ()))
    steps = [step for step, _ in clock]
    gathered: dict[float | int, dict[str, list[float | int]]] = {}
    for name, points in values.items():
        for step, value in points if name != "epoch" else ():
            place = bisect_left(steps, step)
            epoch = clock[min(place, len(clock) - 1)][1] if clock else step
            gathered.setdefault(epoch, {}).setdefault(name, []).append(value)
    axis = "epoch" if clock else "step"
    return [
        {
            "kind": "epoch",
            "axis": axis,
            "epoch": epoch,
            "values": {name: fmean(of_epoch) for name, of_epoch in named.items()},
        }
        for epoch, named in sorted(gathered.items())
    ]


def nested(folder: Path, names: Iterable[str] = ("*", "*/*", "*/*/*")) -> list[Path]:
    """Folders below a folder that hold a run."""
    below = sorted({place for name in names for place in folder.glob(name) if place.is_dir()})
    return [place for place in below if file_of(place) is not None]


def _plain(text: str) -> Any:
    """A parameter, which MLflow keeps as text."""
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _absent(package: str, why: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"{why}, which needs {package}, which is not installed: pip install 'legolas-metric[tracking]'"
    )
