"""A run's history, read from where it lies: `history.jsonl`, a CSV, or tables in memory; one name for each value.

What is missing is missing: nothing is guessed. Names of other loggers are known by a table of aliases.
"""

import csv
import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from legolas_metric.doctor.curves import Curve

HistoryLike = str | os.PathLike[str] | Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]

# Our name, and what it is called elsewhere; in lower case with underscores.
ALIASES: dict[str, tuple[str, ...]] = {
    "epoch": ("epoch", "epochs"),
    "step": ("step", "global_step"),
    "train_loss": ("train_loss", "loss", "training_loss", "loss_train"),
    "val_loss": ("val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss", "loss_val"),
    "train_accuracy": ("train_accuracy", "train_acc", "accuracy_train", "acc"),
    "val_accuracy": ("val_accuracy", "val_acc", "valid_accuracy", "eval_accuracy", "accuracy", "accuracy_val"),
    "train_f1": ("train_f1", "train_macro_f1", "train_f1_macro"),
    "val_f1": ("val_f1", "eval_f1", "f1"),
    "val_f1_macro": ("val_f1_macro", "val_macro_f1", "macro_f1", "f1_macro"),
    "train_rank_at_1": ("train_rank_at_1", "train_rank1", "train_precision_at_1"),
    "rank_at_1": ("rank_at_1", "val_rank_at_1", "rank1", "val_rank1", "rank_1", "precision_at_1", "recall_at_1", "r_1"),
    "map_at_r": ("map_at_r", "val_map_at_r", "mean_average_precision_at_r"),
    "auc": ("auc", "val_auc", "roc_auc", "val_roc_auc"),
    "eer": ("eer", "val_eer"),
    "intra": ("intra", "train_intra", "intra_distance", "pos_distance"),
    "inter": ("inter", "train_inter", "inter_distance", "neg_distance"),
    "davies_bouldin": ("davies_bouldin", "val_db", "db", "val_davies_bouldin"),
    "calinski_harabasz": ("calinski_harabasz", "val_ch", "ch", "val_calinski_harabasz"),
    "lr": ("lr", "learning_rate", "lr_adam", "lr_adamw", "lr_sgd"),
    "attention_entropy": ("attention_entropy", "attn_entropy"),
    "auxiliary_loss": ("auxiliary_loss", "aux_loss", "train_auxiliary_loss", "train_aux_loss"),
    "main_loss": ("main_loss", "train_main_loss"),
    "strategy": ("strategy", "mining_strategy", "stage", "miner"),
    "negatives_from": ("negatives_from",),
    "effective_rank": ("effective_rank", "val_effective_rank"),
    "mean_cosine": ("mean_cosine", "val_mean_cosine"),
    "resultant_length": ("resultant_length", "val_resultant_length"),
    "hubness": ("hubness", "val_hubness"),
    "active": ("active", "active_share", "fraction_active", "train_active"),
}
_NAMES = {alias: name for name, aliases in ALIASES.items() for alias in aliases}


@dataclass(frozen=True, slots=True)
class History:
    """Values by name over epochs, what the mining rounds told, and what happened.

    Attributes:
        curves: of numbers.
        words: of texts, such as the strategy of each epoch.
        rounds: of numbers of mining, by name.
        events: lines of kind "event" and "end", as they are.
        settings: of the run's "start" line or folder; empty where there are none.
        epochs: how many epochs were trained.
    """

    curves: Mapping[str, Curve]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rounds: Mapping[str, Curve] = field(default_factory=dict)
    events: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0

    def get(self, name: str) -> Curve | None:
        """A curve with a value at least, or None."""
        curve = self.curves.get(name)
        return curve if curve is not None and len(curve) else None


def read_history(history: HistoryLike) -> History:
    """Read a run.

    Args:
        history: a run's folder (`history.jsonl`, `settings.toml`, or Lightning's `metrics.csv`), one of these files, a
            mapping from names to columns, or one mapping for each epoch.

    Raises:
        FileNotFoundError: no such file, or a folder without a history.
        ValueError: a file that isn't a history, or one without a single value.
    """
    settings: Mapping[str, Any] = {}
    lines: Iterable[Mapping[str, Any]]
    if isinstance(history, str | os.PathLike):
        path = _file_of(Path(history))
        if (path.parent / "settings.toml").is_file():
            settings = tomllib.loads((path.parent / "settings.toml").read_text(encoding="utf-8"))
        lines = _json_lines(path) if path.suffix == ".jsonl" else _csv_lines(path)
        source = str(path)
    elif isinstance(history, Mapping):
        names, source = list(history), "history"
        lines = [dict(zip(names, row)) for row in zip(*history.values(), strict=True)]
    else:
        lines, source = history, "history"
    found = _collect(list(lines), settings)
    if not found.curves:
        raise ValueError(f"{source} holds no values: expected lines of kind 'epoch', or columns such as train_loss")
    return found


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
    return {**inner, **settings}


def canonical(name: str) -> str:
    """Our name of a value: lower case, underscores, Lightning's "_epoch" taken off, and the alias resolved.

    Example:
        >>> canonical("val/Rank@1"), canonical("lr-Adam"), canonical("train_loss_epoch")
        ('rank_at_1', 'lr', 'train_loss')
    """
    plain = (
        re.sub(r"[^a-z0-9]+", "_", name.strip().lower().replace("@", "_at_")).strip("_").removesuffix("_epoch") or name
    )
    return _NAMES.get(plain, plain)


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"no history at {path}: pass a run's folder, its history.jsonl, or a CSV")
        return path
    for name in ("history.jsonl", "metrics.csv"):
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"no history.jsonl or metrics.csv in {path}")


def _json_lines(path: Path) -> list[Mapping[str, Any]]:
    """Lines of our history; a last line that was cut off by a kill is left out."""
    texts = [text for text in path.read_text(encoding="utf-8").splitlines() if text.strip()]
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError:
            if number == len(texts):
                break
            raise ValueError(f"{path}, line {number}: not JSON") from None
        if not isinstance(line, Mapping):
            raise ValueError(f"{path}, line {number}: expected an object")
        lines.append(line)
    return lines


def _csv_lines(path: Path) -> list[Mapping[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [{key: value for key, value in row.items() if key} for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV: {error}") from None


def _collect(lines: list[Mapping[str, Any]], settings: Mapping[str, Any]) -> History:
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
            values = {**{k: v for k, v in line.items() if k not in ("kind", "values")}, **line.get("values", {})}
            named = {canonical(key): value for key, value in values.items() if value not in (None, "")}
            when = _number(named.pop("epoch", number))
            # Of an epoch that was run again the later line counts; loggers spread one epoch over several lines.
            (epochs if kind == "epoch" else rounds).setdefault(when if when is not None else number, {}).update(named)
    curves, words = _columns(epochs)
    return History(
        curves=curves,
        words=words,
        rounds=_columns(rounds)[0],
        events=tuple(events),
        settings=settings,
        epochs=sum(epoch > 0 for epoch in epochs) if 0 in epochs else len(epochs),
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
