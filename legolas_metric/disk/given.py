"""What is to be written to disk, checked before anything is: a bank, an array, or blocks of rows, and their names."""

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from torch import Tensor

from legolas_metric.checks import ArrayLike, check_choice, check_metric, check_whole, shown
from legolas_metric.disk.bank_writer import Kind
from legolas_metric.disk.codes import Storage
from legolas_metric.disk.disk_rows import StoredTable, unread
from legolas_metric.geometry import chunks
from legolas_metric.rows import Rows, named_rows

_AT_ONCE = 1 << 14  # rows that are written together


def refuse_beside(given: Mapping[str, object]) -> None:
    """A bank has its own labels, and what else may be given of other rows."""
    beside = [name for name, value in given.items() if value is not None]
    if beside:
        what = ", ".join(beside)
        raise ValueError(
            f"{what} cannot be given beside a bank, which has its own: leave {what} out, or give bank.embeddings"
        )


def blocks_of(rows: Any) -> Iterable[ArrayLike]:
    """The blocks of an array, of rows on disk, or as they come."""
    if isinstance(rows, Tensor) or hasattr(rows, "__array__"):
        return [rows]
    if isinstance(rows, StoredTable):
        return (rows[part] for part in chunks(len(rows), _AT_ONCE))
    if not isinstance(rows, Iterable):
        raise TypeError(f"rows must be a bank, an array [n, d], or blocks [b, d] in turn, got {shown(rows)}")
    return rows


def names_of(labels: ArrayLike | None, ids: ArrayLike | None, groups: ArrayLike | None, n: int | None = None) -> Rows:
    """What names the rows, checked before there are any."""
    if labels is None:
        raise TypeError("labels must be given: one for each row, -1 where there is none")
    if n is None:
        n = len(labels) if hasattr(labels, "__len__") and getattr(labels, "ndim", 1) else 0  # pyright: ignore[reportArgumentType]
    return named_rows(unread(n, 1), labels, ids=ids, groups=groups)


def check_kind(kind: Kind) -> None:
    """Refuse another metric or storage, or a step below 0."""
    check_metric(kind.metric)
    check_choice("storage", kind.storage, get_args(Storage))
    check_whole("step", kind.step, 0)
