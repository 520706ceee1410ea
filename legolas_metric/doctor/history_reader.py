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
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.fold_results import folds_of, is_fold, pooled
from legolas_metric.doctor.log_readers import Line, file_of, lines_of, mlflow_lines, nested
from legolas_metric.doctor.logged_columns import OF_TRAINING, by_epoch, columns, drop_empty_start
from legolas_metric.doctor.value_names import SETTINGS, canonical
from legolas_metric.training.history import RunHistory

HistoryLike = RunHistory | str | os.PathLike[str] | Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]

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
        stages: epochs in which another miner, or strategy, took over from the one before.
        parts: of a folder of folds or seeds, each one's history; the curves are then their means.
        result: of a fold, what it came to by name, as `run_folds` wrote it; of all folds, the means.
        pooled: of all folds, name -> the mean over their queries, and its 95 % interval over identities.
        unread: what could not be read.
        remarks: how columns were read, where that isn't plain: names that clash, cells that are no numbers, percent.
    """

    curves: Mapping[str, Curve]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rounds: Mapping[str, Curve] = field(default_factory=dict)
    events: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0
    stages: frozenset[float] = frozenset()
    parts: Mapping[str, "History"] = field(default_factory=dict)
    result: Mapping[str, float] = field(default_factory=dict)
    pooled: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

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

    A value that a run is stopped by has our name of it.

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
    watched = {name: canonical(flat[name]) for name in ("monitor", "stopped_on") if isinstance(flat.get(name), str)}
    return {**known, **flat, **watched}


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
    below = [each for each in sorted(path.iterdir()) if each.is_dir() and (is_fold(each) or _holds_run(each))]
    parts = [each for each in below if _PART.search(each.name)]
    if parts == below and (len(parts) > 1 or any(map(is_fold, parts))):
        return _joined(path, parts)
    if len(below) == 1:
        return _of_place(os.fspath(below[0]))
    found = f"; it holds several runs, pass one of them: {', '.join(map(str, below[:5]))}" if below else ""
    raise FileNotFoundError(f"no history.jsonl or metrics.csv in {path}{found}")


def _holds_run(folder: Path) -> bool:
    return file_of(folder) is not None or bool(nested(folder))


def _joined(path: Path, parts: Sequence[Path]) -> History:
    """Folds or seeds together: the means of their curves, and what the folds that are done came to."""
    results = folds_of(path)
    held: dict[str, History] = {}
    for part in sorted(parts, key=lambda part: (len(part.name), part.name)):
        own = _of_place(os.fspath(part)) if _holds_run(part) else History({})
        result = results.get(part.name)
        if result is not None:
            shared = {f"shared_{what}": count for what, count in result.shared.items()}
            values = {canonical(name): value for name, value in result.values.items()}
            own = replace(own, result=values, settings={**own.settings, **shared})
        elif results:
            own = replace(own, unread=(*own.unread, "its result, as it isn't done"))
        held[part.name] = own
    settings, why = _settings_beside(path)
    found = _mean(held)
    return _some(
        replace(
            found,
            settings={**found.settings, **settings},
            unread=(*found.unread, *why),
            pooled=pooled(results.values()),
        ),
        str(path),
    )


def _read(file: Path, run: str) -> History:
    settings, why = _settings_beside(file if file.is_dir() else file.parent)
    lines, unread = lines_of(file, run)
    return _some(replace(_collect(lines, settings), unread=(*unread, *why)), str(file))


def _settings_beside(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Settings that lie in a run's folder, and why some could not be read."""
    settings: dict[str, Any] = {}
    why: list[str] = []
    for name in ("settings.json", "settings.toml"):
        try:
            settings |= read_settings(folder / name) if (folder / name).is_file() else {}
        except ValueError:
            why.append(f"{name}, which holds no settings")
    if not (folder / "hparams.yaml").is_file():
        return settings, why
    of_lightning, unread = _hparams(folder / "hparams.yaml")
    return {**of_lightning, **settings}, [*why, *unread]


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
    if not found.curves and not found.rounds and not found.result:
        raise ValueError(f"{source} holds no values: expected lines of kind 'epoch', or columns such as train_loss")
    return found


def _mean(parts: dict[str, History]) -> History:
    """Means over folds or seeds, of the epochs that all of them have; an unfinished fold beside finished ones waits."""
    first, *others = parts.values()
    finished = [part for part in parts.values() if part.result] or list(parts.values())
    curves = {}
    for name in finished[0].curves:
        held = [dict(zip(part.curves[name].epochs, part.curves[name].values)) for part in finished if part.get(name)]
        shared = sorted(set.intersection(*map(set, held))) if len(held) == len(finished) else []
        if shared:
            curves[name] = Curve(name, tuple(shared), tuple(fmean(of[epoch] for of in held) for epoch in shared))
    settings = {
        name: value
        for name, value in first.settings.items()
        if all(part.settings.get(name) == value for part in others)
    }
    done = [part.result for part in parts.values() if part.result]
    names = [name for name in (done[0] if done else ()) if all(name in result for result in done)]
    return History(
        curves,
        settings=settings,
        epochs=min(part.epochs for part in finished),
        parts=parts,
        result={name: fmean(result[name] for result in done) for name in names},
        unread=tuple(f"{name}: {what}" for name, part in parts.items() for what in part.unread),
        remarks=tuple(dict.fromkeys(what for part in parts.values() for what in part.remarks)),
    )


def _collect(lines: Sequence[Line], settings: Mapping[str, Any]) -> History:
    by_step = any(line.get("axis") == "step" for line in lines)
    for line in lines:
        if line.get("kind") == "start":
            settings = {**line.get("settings", {}), **settings}
    epochs, told = by_epoch(lines, "epoch")
    rounds, of_rounds = by_epoch(lines, "round")
    drop_empty_start(epochs)
    if any(name in epochs.get(0, ()) for name in OF_TRAINING):  # a logger that counts its epochs from 0
        epochs = {epoch + 1: values for epoch, values in epochs.items()}
    curves, words, why = columns(epochs)
    mined, said, _ = columns(rounds)
    return History(
        curves=curves,
        words={**said, **words},
        rounds=mined,
        events=tuple(line for line in lines if line.get("kind") in ("event", "end")),
        settings=settings,
        epochs=len(epochs) - (0 in epochs) if by_step else math.ceil(max(epochs, default=0)),
        stages=_stages(epochs, rounds),
        remarks=(*told, *of_rounds, *why),
    )


def _stages(epochs: Mapping[float, Mapping[str, Any]], rounds: Mapping[float, Mapping[str, Any]]) -> frozenset[float]:
    """Epochs that mined otherwise than those before, by what an epoch says, or the round that it began with."""
    told = {epoch: str(values["strategy"]) for epoch, values in epochs.items() if "strategy" in values}
    # Rounds count epochs from 0, their ends from 1.
    told = told or {epoch + 1: str(values["strategy"]) for epoch, values in rounds.items() if "strategy" in values}
    order = sorted(told)
    return frozenset(later for earlier, later in pairwise(order) if told[earlier] != told[later])
