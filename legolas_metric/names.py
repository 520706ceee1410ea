"""Names in the place of integers: labels and groups as people have them, numbered, and the names kept.

Names are strings, bytes, dates or categories, in a list, a NumPy array or a column of pandas. They are numbered in
ascending order. None, NaN, NaT and <NA> are a missing name, -1; so is a masked entry.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Number
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, as_integers

Names = tuple[str, ...]
Known = Names | Literal["integers"] | None
"""How rows that others are compared with are numbered: by names, by the user's own integers, or there are none."""


@dataclass(frozen=True, slots=True)
class Named:
    """Integers, and what they stand for.

    Attributes:
        codes: int64 [n]; -1 where a name is missing.
        names: `names[code]` is what a code stands for; None where the codes are the user's own integers.
    """

    codes: Int64[Tensor, " n"]
    names: Names | None


def as_named(values: ArrayLike, n: int | None, *, name: str, of: str = "embeddings", known: Known = None) -> Named:
    """Integers as they are, or names numbered.

    Args:
        values: [n] integers, or names.
        n: how many there must be (None: any number).
        name: what the caller calls this argument, for the error text.
        of: what its rows are rows of.
        known: names that are numbered already; others are numbered after them. See `known_by`.

    Raises:
        TypeError: floats, booleans, or names and integers side by side, also where the one is compared with the other.
        ValueError: wrong length, or not 1-D.

    Example:
        >>> found = as_named(["bob", "ann", None, "bob"], 4, name="labels")
        >>> found.codes.tolist(), found.names
        ([1, 0, -1, 1], ('ann', 'bob'))
    """
    given = None if isinstance(values, Tensor) else _as_array(values)
    if given is None or given.dtype.kind not in "OUSMm":
        plain = given.filled(UNLABELLED) if isinstance(given, np.ma.MaskedArray) else values
        codes = as_integers(plain, n, name=name, of=of)
        return _beside(Named(codes, None), known, name)
    if given.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got shape {given.shape}: one name for each row")
    if n is not None and len(given) != n:
        raise ValueError(f"{name} has {len(given)} entries for {n} rows of {of}: give one for each row")
    missing = np.ma.getmaskarray(given) | _is_missing(np.ma.getdata(given))
    entries = np.ma.getdata(given)[~missing]
    if given.dtype.kind == "O" and _all_integers(entries, name):
        codes = torch.full((len(given),), UNLABELLED)
        codes[torch.from_numpy(~missing)] = as_integers([int(entry) for entry in entries], None, name=name)
        return _beside(Named(codes, None), known, name)
    if known == "integers" and len(entries):
        raise TypeError(
            f"{name} are names (first: {str(entries[0])!r}), where those that they are compared with are integers: "
            "give names on both sides, or integers"
        )
    return _numbered(entries, missing, None if known == "integers" else known)


def known_by(names: Names | None) -> Known:
    """How rows are numbered that others are to be compared with, from their `Named.names`."""
    return "integers" if names is None else names


def name_of(code: int, names: Names) -> str:
    """What a number stands for; -1 stands for no name.

    Example:
        >>> name_of(1, ("ann", "bob")), name_of(-1, ("ann", "bob"))
        ('bob', '(none)')
    """
    return names[code] if code >= 0 else "(none)"


def _as_array(values: ArrayLike) -> np.ndarray | None:
    """A list, or a column of pandas, as an array; None where the entries are numbers, or no names."""
    if isinstance(values, np.ndarray):
        return values
    if hasattr(values, "isna") and hasattr(values, "to_numpy"):  # pandas, whose own arrays NumPy turns into floats
        column: Any = values
        array = np.array(column, dtype=object)
        array[np.asarray(column.isna(), dtype=bool)] = None
        return array if array.ndim == 1 else np.asarray(values)
    if isinstance(values, Sequence) and not isinstance(values, str):
        if all(
            isinstance(entry, Number | Tensor | np.generic | list | tuple) and not _is_na(entry) for entry in values
        ):
            return None
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array
    return np.asarray(values)


def _is_na(entry: Any) -> bool:
    """Whether this is a missing value: not equal to itself, as NaN and NaT are, or <NA>, which isn't sure."""
    if entry is None or type(entry).__name__ == "NAType":
        return True
    return isinstance(entry, float | np.floating | np.datetime64 | np.timedelta64) and bool(entry != entry)


def _is_missing(entries: np.ndarray) -> np.ndarray:
    if entries.dtype.kind in "Mm":
        return np.isnat(entries)
    if entries.dtype.kind != "O":
        return np.zeros(len(entries), dtype=bool)
    return np.fromiter((_is_na(entry) or type(entry).__name__ == "NaTType" for entry in entries), bool, len(entries))


def _all_integers(entries: np.ndarray, name: str) -> bool:
    """Whether the entries are integers, rather than names; raise where they are neither, or some of each."""
    whole = [isinstance(entry, Integral) and not isinstance(entry, bool | np.bool_) for entry in entries]
    numbers = [isinstance(entry, int | float | complex | np.generic) and not isinstance(entry, np.str_ | np.bytes_)
               for entry in entries]  # fmt: skip
    if all(whole):
        return True
    if any(numbers):
        kinds = ", ".join(sorted({type(entry).__name__ for entry in entries}))
        raise TypeError(
            f"{name} must be integers or names, got {kinds}: [str(v) for v in values] makes names of them, "
            "[int(v) for v in values] integers"
        )
    return False


def _numbered(entries: np.ndarray, missing: np.ndarray, known: Names | None) -> Named:
    plain = entries.astype(str) if entries.dtype.kind in "Mm" else entries  # of dates, NumPy's lists hold nanoseconds
    texts = [entry.decode() if isinstance(entry, bytes) else str(entry) for entry in plain.tolist()]
    held = () if known is None else known
    names = (*held, *sorted(set(texts).difference(held)))
    number = {text: code for code, text in enumerate(names)}
    codes = torch.full((len(missing),), UNLABELLED)
    codes[torch.from_numpy(~missing)] = torch.tensor([number[text] for text in texts], dtype=torch.int64)
    return Named(codes, names)


def _beside(given: Named, known: Known, name: str) -> Named:
    """Integers beside what they are compared with; where all are missing they go with names, too."""
    if known is None or known == "integers":
        return given
    if bool((given.codes != UNLABELLED).any()):
        raise TypeError(
            f"{name} are integers, where those that they are compared with are names (first: {known[:3]}): "
            "give names on both sides"
        )
    return Named(given.codes, known)
