"""The rows of a bank on disk as the miners and the indexes take them: what names them in memory, the rest on demand."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.budgets import CACHE, PAGES, rows_for
from legolas_metric.checks import Metric
from legolas_metric.disk.codes import Codes
from legolas_metric.disk.container import Container, release
from legolas_metric.geometry import chunks
from legolas_metric.rows import Rows

_NAMED = 128  # bytes a row in memory: label, id, group, and what is sorted and looked up by them
_SHARE = 8  # of the memory, an eighth is for anchors that are mined together, the rest for what searches them


class MappedRows:
    """Rows of a memory map, which come by number, so few at a time that their pages never fill memory.

    Args:
        codes: views of the map.
        opened: the map.
    """

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, codes: Codes, opened: mmap.mmap) -> None:
        self.codes, self.opened, self.shape = codes, opened, codes.shape

    def __len__(self) -> int:
        return self.shape[0]

    def parts(self, count: int) -> Iterator[slice]:
        """Of so many numbers, those that are read together."""
        for part in chunks(count, rows_for(CACHE, max(PAGES, 16 * self.shape[1]))):
            yield part
            release(self.opened)

    def __getitem__(self, number: Int64[Tensor, " m"]) -> Float32[Tensor, "m d"]:
        out = torch.empty(len(number), self.shape[1])
        for part in self.parts(len(number)):
            out[part] = self.codes[number[part]]
        return out


class StoredTable:
    """Embeddings on disk, which come by number: `table[rows]` is a float32 tensor, as `tensor[rows]` would be.

    Args:
        container: the file.
        codes: of its rows, views of the file's map.
        place: which of the rows, in this order; None: all.
    """

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, container: Container, codes: Codes, place: Int64[Tensor, " m"] | None = None) -> None:
        self._container, self._codes, self._place = container, codes, place
        self.shape = torch.Size((len(codes) if place is None else len(place), codes.shape[1]))

    @classmethod
    def of(cls, container: Container, metric: Metric, place: Int64[Tensor, " m"] | None = None) -> "StoredTable":
        """The rows of a file."""
        scale = container.read("scale") if "scale" in container else None
        return cls(container, Codes(container.table("rows"), scale, metric), place)

    def __reduce__(self) -> tuple[Any, ...]:  # without the rows themselves
        return StoredTable.of, (self._container, self._codes.metric, self._place)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: Any) -> Float32[Tensor, "*b d"]:
        if isinstance(part, slice) and self._place is None and part.step in (None, 1):
            return self._ranged(*part.indices(len(self))[:2])
        number = self._numbers(part)
        flat = number.flatten()
        self._check(flat.numpy())
        return MappedRows(self._codes, self._container.opened)[flat].view(*number.shape, self.shape[1])

    def _numbers(self, part: Any) -> Int64[Tensor, "*b"]:
        """Numbers of rows of the file, by whatever a tensor is indexed with."""
        if self._place is not None:
            return self._place[part]
        if isinstance(part, int | np.integer) and not isinstance(part, bool) and -len(self) <= part < len(self):
            part = torch.tensor(part % len(self))
        if isinstance(part, Tensor) and part.dtype == torch.int64 and (not part.numel() or int(part.min()) >= 0):
            return part
        return torch.arange(len(self))[part]

    def _ranged(self, begin: int, end: int) -> Float32[Tensor, "m d"]:
        out = torch.empty(max(0, end - begin), self.shape[1])
        for some in chunks(len(out), rows_for(CACHE, 16 * self.shape[1])):
            at = slice(begin + some.start, begin + some.stop)
            self._check(np.array([at.start]), len(out[some]))
            out[some] = self._codes[at]
            self._container.release()
        return out

    def view(self, place: Int64[Tensor, " m"]) -> "StoredTable":
        """Some of the rows, still on disk."""
        return StoredTable(self._container, self._codes, place if self._place is None else self._place[place])

    def _check(self, rows: np.ndarray, run: int = 1) -> None:
        """Check the blocks of some rows, and of those that follow each of them in a run."""
        if not len(rows):
            return
        width = self._codes.values.dtype.itemsize * self.shape[1]
        first, last = rows * width // CACHE, ((rows + run) * width - 1) // CACHE
        steps = range(int((last - first).max()) + 1)
        self._container.check("rows", np.unique(np.concatenate([np.minimum(first + step, last) for step in steps])))


@dataclass(frozen=True, slots=True)
class DiskRows:
    """The rows of a bank on disk, all or some: `Rows` whose embeddings come when they are asked for.

    Attributes:
        embeddings: on disk; rows of it are tensors.
        named: labels, ids and groups; its embeddings are zeros that take no memory.
        longest: at least the largest norm.
        memory_mb: what a search may take, in MiB.
    """

    embeddings: StoredTable
    named: Rows
    longest: float
    memory_mb: int

    @property
    def labels(self) -> Int64[Tensor, " n"] | None:
        """Of the rows."""
        return self.named.labels

    @property
    def ids(self) -> Int64[Tensor, " n"]:
        """Of the rows."""
        return self.named.ids

    @property
    def groups(self) -> Int64[Tensor, " n"] | None:
        """Of the rows."""
        return self.named.groups

    def __len__(self) -> int:
        return len(self.named)

    def __getitem__(self, part: slice | Int64[Tensor, " m"]) -> Rows:
        """Some of the rows, in memory."""
        return replace(self._named(part), embeddings=self.embeddings[part])

    def view(self, place: Int64[Tensor, " m"]) -> "DiskRows":
        """Some of the rows, still on disk."""
        return DiskRows(self.embeddings.view(place), self._named(place), self.longest, self.memory_mb)

    def _named(self, part: slice | Int64[Tensor, " m"]) -> Rows:
        labels, ids, groups = (None if of is None else of[part] for of in (self.labels, self.ids, self.groups))
        assert ids is not None
        names = self.named.label_names, self.named.group_names
        return Rows(unread(len(ids), self.embeddings.shape[1]), labels, ids, groups, *names)

    def within(self, memory_mb: int) -> int:
        """Bytes that a ceiling leaves for blocks of rows, and for what is found of them, beside names and anchors."""
        return ((memory_mb << 20) - _NAMED * len(self)) * (_SHARE - 1) // _SHARE

    @property
    def at_once(self) -> int:
        """How many anchors are mined together."""
        return rows_for(max(0, self.within(self.memory_mb)) // (_SHARE - 1), 8 * self.embeddings.shape[1] + 600)


AnyRows = Rows | DiskRows
"""Rows in memory, or on disk: both give `Rows` by number."""


def some_of(rows: Any, place: Int64[Tensor, " m"]) -> Any:
    """Some of the rows, where they are: in memory, or on disk."""
    return rows.view(place) if isinstance(rows, DiskRows) else rows[place]


def unread(n: int, d: int) -> Float32[Tensor, "n d"]:
    """Zeros that stand for rows which are not in memory, and take none."""
    return torch.zeros(1, 1).expand(n, d)
