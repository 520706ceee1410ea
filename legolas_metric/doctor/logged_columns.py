"""Lines of a history as columns over epochs: whose epoch a line is of, what a column is called, what a cell holds."""

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from legolas_metric.doctor.curves import Curve
from legolas_metric.doctor.log_readers import Line
from legolas_metric.doctor.value_names import is_share, named

Epochs = dict[float, dict[str, Any]]
"""Epoch -> the value of each name."""

OF_TRAINING = ("train_loss", "train_loss_step", "train_accuracy")
_MOST = 500  # values of a curve
_AS_PEOPLE_WRITE = re.compile(r"([+-]?\d+)(?:[.,](\d+))?\s*(%?)")
_UNMEASURED = ("-", "--", "n/a", "na", "none", "null", "?")


def by_epoch(lines: Sequence[Line], kind: str) -> tuple[Epochs, list[str]]:
    """The values of each epoch, or round, under our names, and what was done where that isn't plain.

    A line without an epoch, as Lightning logs a rate, is of the epoch that its step lies in; one that holds nothing but
    values of the test set, measured once all is trained, is of the last epoch.
    """
    asked = [line for line in lines if line.get("kind", "epoch") == kind]
    flat = [_flat(line) for line in asked]
    ours, told = named(values for values in flat)
    rows = [{ours[key]: value for key, value in values.items() if key in ours} for values in flat]
    whose = _epochs_of(rows)
    lost = whose.count(None)
    told += [f"{lost} lines without an epoch, or a step that tells it, are left out"] if lost else []
    table: Epochs = {}
    for line, row, when in zip(asked, rows, whose):
        if when is not None:
            held = table.setdefault(when, {})
            # Of an epoch that was run again the later line counts; loggers spread one epoch over several lines, whose
            # empty cells are NaN where pandas read them.
            held |= {
                name: value for name, value in row.items() if "values" in line or name not in held or not _nan(value)
            }
    if len(table) < len(rows) - lost and not any("values" in line for line in asked):
        _drop_unmeasured(table)
    return _tests_last(table), told


def _drop_unmeasured(table: Epochs) -> None:
    """In lines of which several tell an epoch a NaN is an empty cell, but of a loss that never was finite again."""
    measured: set[str] = set()
    for epoch in sorted(table, reverse=True):
        row = table[epoch]
        for name in [name for name, value in row.items() if _nan(value) and ("loss" not in name or name in measured)]:
            del row[name]
        measured |= {name for name, value in row.items() if not _nan(value)}


def _flat(line: Line) -> dict[str, Any]:
    """Values of a line that hold something, its epoch among them."""
    # Our histories write null where a value wasn't finite; elsewhere an empty cell was not measured.
    measured = {key: math.nan if value is None else value for key, value in line.get("values", {}).items()}
    values = {**{key: value for key, value in line.items() if key not in ("kind", "axis", "values")}, **measured}
    return {key: value for key, value in values.items() if value not in (None, "")}


def _epochs_of(rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """The epoch of each line; its place where none is told anywhere, None where that of a single one can't be known."""
    told = [_finite(row.get("epoch")) for row in rows]
    if not any(epoch is not None for epoch in told):
        return [float(number) for number in range(1, len(rows) + 1)]
    steps = [_finite(row.get("step")) for row in rows]
    clock = sorted({(step, epoch) for step, epoch in zip(steps, told) if step is not None and epoch is not None})
    ends = [step for step, _ in clock]

    def by_step(step: float | None) -> float | None:
        return clock[min(bisect_left(ends, step), len(clock) - 1)][1] if clock and step is not None else None

    return [by_step(step) if epoch is None else epoch for epoch, step in zip(told, steps)]


def _finite(cell: Any) -> float | None:
    value = number(cell)
    return value if value is not None and math.isfinite(value) else None


def _tests_last(table: Epochs) -> Epochs:
    """Epochs, without one of its own for a test at the end."""
    last = max((epoch for epoch, values in table.items() if not _of_test(values)), default=math.inf)
    for epoch in sorted(epoch for epoch in table if epoch > last):
        table[last] = {**table.pop(epoch), **table[last]}
    return table


def _of_test(values: Mapping[str, Any]) -> bool:
    held = {name for name in values.keys() - {"epoch", "step", "time"} if not _nan(values[name])}
    return bool(held) and all(name.startswith("test_") for name in held)


def drop_empty_start(epochs: Epochs) -> None:
    """In tables a NaN stands for the training loss that the untrained encoder has none of, if later ones are finite."""
    for name in OF_TRAINING:
        values = {epoch: number(held[name]) for epoch, held in epochs.items() if name in held}
        finite = {epoch for epoch, value in values.items() if value is not None and math.isfinite(value)}
        if 0 in values and 0 not in finite and finite == values.keys() - {0}:
            del epochs[0][name]


def columns(table: Epochs) -> tuple[dict[str, Curve], dict[str, tuple[str, ...]], list[str]]:
    """Curves of numbers, columns of words, and what was done with cells where that isn't plain."""
    curves, words, told = {}, {}, []
    for name in dict.fromkeys(name for values in table.values() for name in values):
        if name in ("epoch", "step", "time"):
            continue
        cells = [(epoch, table[epoch][name]) for epoch in sorted(table) if name in table[epoch]]
        numbers = [(epoch, number(cell)) for epoch, cell in cells]
        known = [(epoch, value) for epoch, value in numbers if value is not None]
        if len(known) <= len(cells) / 2:
            words[name] = tuple(str(cell) for _, cell in cells)
            told += [f"{name} is left out, as {len(cells) - len(known)} of its cells are no numbers"] if known else []
            continue
        odd = [cell for (_, cell), (_, value) in zip(cells, numbers) if value is None and not _unmeasured(cell)]
        if odd:
            told.append(f"{len(odd)} of the {len(cells)} cells of {name} is no number, such as {odd[0]!r}")
        finite = _thinned([(epoch, value) for epoch, value in known if math.isfinite(value)])
        scale, why = _scale(name, [value for _, value in finite])
        told += why
        curves[name] = Curve(
            name,
            tuple(epoch for epoch, _ in finite),
            tuple(value / scale for _, value in finite),
            tuple(epoch for epoch, value in known if not math.isfinite(value)),
        )
    return curves, words, told


def _scale(name: str, values: Sequence[float]) -> tuple[int, list[str]]:
    """By what a share must be divided, 100 where it was logged in percent, and that it was."""
    if not values or not is_share(name):
        return 1, []
    least, most = min(values), round(max(values), 3)  # a sum of floats may exceed 1
    scale = 1 if most <= 1 else 100
    if least >= 0 and scale == 1:
        return 1, []
    if least >= 0 and most / scale <= 1:
        return scale, [f"{name}, up to {most:g}, is read as percent"]
    return 1, [f"{name} lies between {least:g} and {most:g}, and is to be a share of 1, or percent"]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of very many values, such as one a step, the first and means over stretches, each told at its end."""
    if len(points) <= _MOST:
        return points
    edges = [1 + (len(points) - 1) * part // (_MOST - 1) for part in range(_MOST)]
    parts = [points[start:end] for start, end in pairwise(edges)]
    return [points[0], *((part[-1][0], fmean(value for _, value in part)) for part in parts)]


def number(cell: Any) -> float | None:
    """A number, also with a percent sign or a decimal comma, or None for a text."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        if not isinstance(cell, str) or not (found := _AS_PEOPLE_WRITE.fullmatch(cell.strip())):
            return None
        return float(f"{found[1]}.{found[2] or 0}") / (100 if found[3] else 1)


def _unmeasured(cell: Any) -> bool:
    return isinstance(cell, str) and cell.strip().lower() in _UNMEASURED


def _nan(cell: Any) -> bool:
    value = number(cell)
    return value is not None and math.isnan(value)
