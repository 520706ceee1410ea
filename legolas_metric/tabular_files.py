"""Embeddings in tables as people keep them: CSV, TSV, JSON lines, Parquet; and whatever standard input holds."""

import csv
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from legolas_metric.checks import ArrayLike

TABULAR = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
_STARTS = {b"PK\x03\x04": ".npz", b"\x93NUMPY": ".npy", b"PAR1": ".parquet"}


def read_columns(path: Path, wanted: Sequence[str]) -> dict[str, ArrayLike]:
    """The wanted columns of a table, the first of which are the embeddings where they are asked for.

    A column may leave out the s (`label` is `labels`). Embeddings are one column of lists, or all columns of numbers
    that have no name of their own; a table without names is all embeddings or, one column wide, all that was wanted.

    Args:
        path: .csv, .tsv or .txt, with or without names in the first line, of commas, tabs or semicolons (then with
            decimal commas too), .txt also of blanks; .jsonl, an object a line; .parquet.
        wanted: names of columns, the first of which is required.

    Raises:
        ValueError: a row of another width, a line that is no object, entries that are no numbers.
        ModuleNotFoundError: .parquet without pyarrow.
    """
    try:
        if path.suffix == ".parquet":
            columns: Mapping[str, Any] = _parquet(path)
        elif path.suffix == ".jsonl":
            columns = _json_lines(path)
        else:
            columns = _delimited(path, wanted)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no {path.suffix} file of UTF-8 text: write it again") from error
    columns = {name: column for name, column in columns.items() if not _is_index(name, column)}
    plural = {name.removesuffix("s"): name for name in wanted}
    named = {plural.get(name, name): column for name, column in columns.items()}
    found: dict[str, Any] = {name: named[name] for name in wanted if name in named}
    first = wanted[0]
    others = {name: column for name, column in named.items() if name not in wanted}
    if first not in found and len(wanted) > 2 and others:
        found[first] = np.stack([_numbers(column, f"{path}: column {name!r}") for name, column in others.items()], 1)
    elif first in found and len(wanted) > 2 and any(str(one).startswith("[") for one in found[first][:1]):
        found[first] = _rows([_listed(one) for one in found[first]], f"{path}: {first}")
    elif first in found and any(isinstance(one, list | tuple | np.ndarray) for one in found[first]):
        found[first] = _rows(found[first], f"{path}: {first}")
    return {name: _plain(column) for name, column in found.items()}


def _is_index(name: str, column: Sequence[Any]) -> bool:
    """Whether a column is what pandas writes beside the columns: the numbers of the rows, under no name."""
    unnamed = not name or name == "__index_level_0__" or name.startswith("Unnamed: ")
    return unnamed and [str(one) for one in column] == [str(row) for row in range(len(column))]


def _listed(entry: Any) -> Any:
    """The numbers of a list that stands in one cell as text, with commas or blanks."""
    return re.split(r"[\s,]+", entry.strip("[] \n")) if isinstance(entry, str) and entry.startswith("[") else entry


def _rows(column: Sequence[Any], where: str) -> np.ndarray:
    width = next(len(row) for row in column if isinstance(row, list | tuple | np.ndarray))
    for number, row in enumerate(column, 1):
        if not isinstance(row, list | tuple | np.ndarray) or len(row) != width:
            told = f"length {len(row)}" if isinstance(row, list | tuple | np.ndarray) else repr(row)
            raise ValueError(f"{where}: row {number} has {told}, where others have length {width}: leave that row out")
    return _numbers(column, where)


def _numbers(column: Any, where: str) -> np.ndarray:
    try:
        return np.asarray(column, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError) as error:
        row, entry = next(((row, one) for row, one in enumerate(column, 1) if not _is_number(one)), (0, ""))
        told = f"no number in row {row} ({entry!r})" if row else "what is no number"
        raise ValueError(f"{where} holds {told}: call it label, id or group, or leave it out") from error


def _plain(column: Any) -> ArrayLike:
    """Integers where all entries are, else as they are; missing names stay missing."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "fiu":
        return column
    entries: list[Any] = [None if entry in ("", None) else entry for entry in column]
    if entries and all(_is_integer(one) for one in entries):
        return np.array([int(str(one)) for one in entries], dtype=np.int64)
    out = np.empty(len(entries), dtype=object)
    out[:] = entries
    return out


def _is_integer(entry: Any) -> bool:
    """Whether it is an integer, as written: 007 is a name, and so is what int64 can't hold."""
    if isinstance(entry, str):
        return re.fullmatch(r"0|-?[1-9][0-9]{0,17}", entry) is not None
    return isinstance(entry, int) and not isinstance(entry, bool) and abs(entry) < 2**63


def _delimited(path: Path, wanted: Sequence[str]) -> dict[str, list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        mark = _mark(path.suffix, first)
        if mark is None:
            lines = [line.split() for line in file if line.strip()]
        else:
            lines = [line for line in csv.reader(file, delimiter=mark) if line]
    if mark == ";":  # as spreadsheets write where a comma is the decimal point
        lines = [[_with_point(entry) for entry in line] for line in lines]
    if not lines:
        raise ValueError(f"{path} is empty")
    width = len(lines[0])
    for number, line in enumerate(lines, 1):
        if len(line) != width:
            raise ValueError(f"{path}, row {number}: {len(line)} entries, where the first row has {width}")
    known = {*wanted, *(name.removesuffix("s") for name in wanted)}
    head = [entry.strip() for entry in lines[0]]
    if known & set(head) or not all(_is_number(entry) for entry in head):
        if width == 1 and len(wanted) <= 2 and not known & set(head):
            return {wanted[0]: [line[0] for line in lines]}  # a file of names alone
        twice = sorted({name for name in head if head.count(name) > 1})
        if twice:
            raise ValueError(f"{path}: {head.count(twice[0])} columns are called {twice[0]!r}: give each its own name")
        if len(lines) == 1:
            raise ValueError(f"{path} has names of columns, and no row below them")
        return {name: [line[place] for line in lines[1:]] for place, name in enumerate(head)}
    if width == 1 and len(wanted) <= 2:
        return {wanted[0]: [line[0] for line in lines]}
    return {f"column {place}": [line[place] for line in lines] for place in range(width)}


def _mark(suffix: str, first: str) -> str | None:
    """What stands between the entries of a file whose first line is given; None for blanks."""
    if suffix == ".tsv" or "\t" in first:
        return "\t"
    if ";" in first and "," not in first.split(";")[0]:
        return ";"
    if suffix == ".txt" and "," not in first and all(_is_number(entry) for entry in first.split()):
        return None
    return ","


def _with_point(entry: str) -> str:
    pointed = entry.replace(",", ".", 1)
    return pointed if "," in entry and _is_number(pointed) else entry


def _is_number(entry: Any) -> bool:
    try:
        np.asarray(entry, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return True


def _json_lines(path: Path) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    count = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error.msg}") from error
        if not isinstance(record, dict):
            raise ValueError(f'{path}, line {number}: expected an object such as {{"embedding": [0.1], "label": "a"}}')
        for name in {*columns, *record}:
            columns.setdefault(name, [None] * count).append(record.get(name))
        count += 1
    if not count:
        raise ValueError(f"{path} is empty")
    return columns


def _parquet(path: Path) -> dict[str, Any]:
    try:
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path}: Parquet needs pyarrow: pip install 'legolas-metric[parquet]'", name="pyarrow"
        ) from error
    try:
        table = parquet.read_table(path)
    except Exception as error:  # pyarrow raises its own kinds on a broken file
        raise ValueError(f"{path} is not a whole Parquet file ({type(error).__name__}): write it again") from error
    return {name: table.column(name).to_pylist() for name in table.column_names}


@contextmanager
def held_input() -> Iterator[Path]:
    """What standard input holds, as a file whose extension is that of its kind."""
    held = sys.stdin.buffer.read()
    if not held:
        raise ValueError("standard input is empty: nothing was piped in, or `-` is named twice")
    suffix = next((suffix for start, suffix in _STARTS.items() if held.startswith(start)), None)
    if suffix is None:
        if held.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
            raise ValueError("standard input is compressed: unpack it first, as `gunzip -c FILE | ... -` does")
        first = held.lstrip().split(b"\n", 1)[0]
        suffix = ".jsonl" if first.startswith(b"{") else ".tsv" if b"\t" in first else ".csv"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"standard_input{suffix}"
        path.write_bytes(held)
        yield path
