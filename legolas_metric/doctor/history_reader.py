"""A run's history, read from where it lies or from tables in memory; one name for each value.

What is missing is missing: nothing is guessed.
"""

import json
import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.log_readers import Line, file_of, lines_of, mlflow_lines, nested
from legolas_metric.doctor.value_names import SETTINGS, canonical
from legolas_metric.training.history import RunHistory

HistoryLike = RunHistory | str | os.PathLike[str] | Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]

_OF_TRAINING = ("train_loss", "train_loss_step", "train_accuracy")
_PART = re.compile(r"(fold|seed|run|repeat)[_\-]?\d+$")


@dataclass(frozen=True, slots=True)
class History:
    """Values by name over epochs, what the mining rounds told, and what happened.

    Attributes:
        curves: of numbers.
        words: of texts, such as the strategy of each epoch.
        rounds: of numbers of mining, by name.
        events: what happened, and how it ended.
        settings: of the run.
        epochs: how many were trained.
        parts: of a folder of folds or seeds, each one's history; the curves are then their means.
        unread: what could not be read.
    """

    curves: Mapping[str, Curve]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rounds: Mapping[str, Curve] = field(default_factory=dict)
    events: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0
    parts: Mapping[str, "History"] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    def get(self, name: str) -> Curve | None:
        """A curve with a value at least, or None."""
        curve = self.curves.get(name)
        return curve if curve is not None and len(curve) else None

    def happened(self, what: str) -> list[Mapping[str, Any]]:
        """Events of one sort."""
        return [event for event in self.events if event.get("what") == what]


def read_history(history: HistoryLike) -> History:
    """Read a run.

    Args:
        history: a `RunHistory`; a run's folder (`history.jsonl`, Lightning's `metrics.csv`, TensorBoard's event files,
            `mlflow.db`), or one of these files; the address of an MLflow store; both MLflow's with `#run` behind where
            they hold several; a folder of folds or seeds; a mapping from names to columns, or one mapping for each
            epoch.

    Raises:
        FileNotFoundError: no such file, or a folder without a history.
        ValueError: a file that isn't a history, or one without a single value.
    """
    if isinstance(history, RunHistory):
        history = history.path
    if isinstance(history, str | os.PathLike):
        return _of_place(os.fspath(history))
    if isinstance(history, Mapping):
        lines = [dict(zip(history, row)) for row in zip(*history.values(), strict=True)]
    else:
        lines = list(history)
    return _some(_collect(lines, {}), "history")


def read_settings(settings: Mapping[str, Any] | str | os.PathLike[str] | None) -> dict[str, Any]:
    """Settings as a flat mapping, of a mapping, a JSON or a TOML file; tables within are kept under their names too.

    Raises:
        FileNotFoundError, ValueError: no such file, or neither JSON nor TOML.
    """
    if settings is None:
        return {}
    if not isinstance(settings, Mapping):
        path = Path(settings)
        text = path.read_text(encoding="utf-8")
        try:
            settings = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} is neither JSON nor TOML settings: {error}") from None
        if not isinstance(settings, Mapping):
            raise ValueError(f"{path} holds no table of settings: expected names and values")
    inner = {key: value for table in settings.values() if isinstance(table, Mapping) for key, value in table.items()}
    flat = {**inner, **settings}
    known = {name: flat[alias] for name, aliases in SETTINGS.items() for alias in reversed(aliases) if alias in flat}
    return {**known, **flat}


def _of_place(place: str) -> History:
    """A run on disk, or in a store."""
    address, _, run = place.partition("#")
    if "://" in address:
        return _some(_collect(mlflow_lines(address, run), {}), place)
    path = Path(place) if Path(place).exists() else Path(address)
    if not path.exists():
        raise FileNotFoundError(
            f"no history at {path}: pass a run's folder, its history.jsonl, a CSV, event files, or an MLflow store"
        )
    file = file_of(path)
    if file is not None:
        return _read(file, run)
    below = nested(path)
    parts = [each for each in below if _PART.search(each.name)]
    if len(below) == 1:
        return _of_place(os.fspath(below[0]))
    if len(parts) < 2 or len(parts) < len(below):
        found = f"; it holds several runs, pass one of them: {', '.join(map(str, below[:5]))}" if below else ""
        raise FileNotFoundError(f"no history.jsonl or metrics.csv in {path}{found}")
    return _mean({each.relative_to(path).as_posix(): _of_place(os.fspath(each)) for each in parts})


def _read(file: Path, run: str) -> History:
    folder, settings = file if file.is_dir() else file.parent, {}
    for name in ("settings.json", "settings.toml"):
        if (folder / name).is_file():
            settings |= read_settings(folder / name)
    lines, unread = lines_of(file, run)
    if (folder / "hparams.yaml").is_file():
        of_lightning, why = _hparams(folder / "hparams.yaml")
        settings, unread = {**of_lightning, **settings}, [*unread, *why]
    return _some(replace(_collect(lines, settings), unread=tuple(unread)), str(file))


def _hparams(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Settings as Lightning's loggers write them, and why they could not be read."""
    try:
        import yaml
    except ModuleNotFoundError:
        return {}, [f"{path.name}, which needs PyYAML: pip install 'legolas-metric[tracking]'"]
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError):  # objects of Python are tags that safe_load refuses
        return {}, [f"{path.name}, which holds more than plain YAML: pass these settings by --settings"]
    if not isinstance(held, Mapping):
        return {}, [f"{path.name}, which holds no table of settings"]
    return read_settings(held), []


def _some(found: History, source: str) -> History:
    if not found.curves and not found.rounds:
        raise ValueError(f"{source} holds no values: expected lines of kind 'epoch', or columns such as train_loss")
    return found


def _mean(parts: dict[str, History]) -> History:
    """Means over folds or seeds, of the epochs that all of them have."""
    first, *others = parts.values()
    curves = {}
    for name in first.curves:
        held = [
            dict(zip(part.curves[name].epochs, part.curves[name].values)) for part in parts.values() if part.get(name)
        ]
        shared = sorted(set.intersection(*map(set, held))) if len(held) == len(parts) else []
        if shared:
            curves[name] = Curve(name, tuple(shared), tuple(fmean(of[epoch] for of in held) for epoch in shared))
    settings = {
        name: value
        for name, value in first.settings.items()
        if all(part.settings.get(name) == value for part in others)
    }
    unread = tuple(f"{name}: {what}" for name, part in parts.items() for what in part.unread)
    epochs = min(part.epochs for part in parts.values())
    return History(curves, settings=settings, epochs=epochs, parts=parts, unread=unread)


def _collect(lines: Sequence[Line], settings: Mapping[str, Any]) -> History:
    epochs: dict[float, dict[str, Any]] = {}
    rounds: dict[float, dict[str, Any]] = {}
    events = []
    for number, line in enumerate(lines, 1):
        kind = line.get("kind", "epoch")
        if kind == "start":
            settings = {**line.get("settings", {}), **settings}
        elif kind in ("event", "end"):
            events.append(line)
        elif kind in ("epoch", "round"):
            # Our histories write null where a value wasn't finite; elsewhere an empty cell was not measured.
            measured = {key: math.nan if value is None else value for key, value in line.get("values", {}).items()}
            values = {**{k: v for k, v in line.items() if k not in ("kind", "values")}, **measured}
            named = {canonical(key): value for key, value in values.items() if value not in (None, "")}
            when = _number(named.pop("epoch", number))
            # Of an epoch that was run again the later line counts; loggers spread one epoch over several lines.
            (epochs if kind == "epoch" else rounds).setdefault(when if when is not None else number, {}).update(named)
    if any(name in epochs.get(0, ()) for name in _OF_TRAINING):  # a logger that counts its epochs from 0
        epochs = {epoch + 1: values for epoch, values in epochs.items()}
    curves, words = _columns(epochs)
    mined, of_rounds = _columns(rounds)
    return History(
        curves=curves,
        words={**of_rounds, **words},
        rounds=mined,
        events=tuple(events),
        settings=settings,
        epochs=sum(epoch > 0 for epoch in epochs),
    )


def _columns(table: Mapping[float, Mapping[str, Any]]) -> tuple[dict[str, Curve], dict[str, tuple[str, ...]]]:
    curves, words = {}, {}
    for name in dict.fromkeys(name for values in table.values() for name in values):
        if name in ("step", "time"):
            continue
        cells = [(epoch, table[epoch][name]) for epoch in sorted(table) if name in table[epoch]]
        numbers = [(epoch, _number(cell)) for epoch, cell in cells]
        known = [(epoch, number) for epoch, number in numbers if number is not None]
        if len(known) < len(cells):
            words[name] = tuple(str(cell) for _, cell in cells)
            continue
        finite = [(epoch, number) for epoch, number in known if math.isfinite(number)]
        curves[name] = Curve(
            name,
            tuple(epoch for epoch, _ in finite),
            tuple(number for _, number in finite),
            tuple(epoch for epoch, number in known if not math.isfinite(number)),
        )
    return curves, words


def _number(cell: Any) -> float | None:
    """A number, or None for a text."""
    if isinstance(cell, bool):
        return float(cell)
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None
