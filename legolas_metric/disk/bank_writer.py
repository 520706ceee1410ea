"""Writes a bank to disk block by block: old or new, never a mix, wherever the writing ends.

Letters: n rows, d dimensions, b rows of a block.
"""

import errno
import math
import mmap
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from legolas_metric.budgets import CACHE, rows_for
from legolas_metric.checks import ArrayLike, Metric, as_device, as_tensor, check_dimension
from legolas_metric.datasets.embedding import Encoder, PassSettings, embed_each, evened, input_loader
from legolas_metric.datasets.source import Inputs
from legolas_metric.disk.codes import DTYPES, Codes, Storage, kept
from legolas_metric.disk.container import Container, add_table, aligned, write_header
from legolas_metric.disk.disk_rows import MappedRows
from legolas_metric.geometry import chunks, one_direction, projected, tie_distance
from legolas_metric.outputs import whole_file
from legolas_metric.rows import Rows, as_prepared

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a bank on disk is.

    Attributes:
        metric: see `EmbeddingBank`.
        storage: what its rows are kept in.
        step: at which they were computed.
    """

    metric: Metric
    storage: Storage
    step: int


class BankWriter:
    """Takes the rows of a bank in order, and leaves the file whole with `finish`.

    Args:
        file: new, open for reading and writing.
        named: labels, ids and groups of all rows.
        kind: of the bank.
    """

    def __init__(self, file: BinaryIO, named: Rows, kind: Kind) -> None:
        self.file, self.named, self.kind = file, named, kind
        n = len(named)
        self.errors = torch.empty(n)
        self.steps = torch.full((n,), kind.step)
        self._scale = torch.empty(n) if kind.storage == "int8" and kind.metric != "cosine" else None
        self._place = torch.empty(n, 2, dtype=torch.float64)
        self._written, self._longest = 0, 0.0
        self._begin = aligned(file)
        self._like: Codes | None = None

    def add(self, rows: ArrayLike) -> Float32[Tensor, "b d"]:
        """Write the next rows; returns them prepared, as they were before they were rounded.

        Raises:
            TypeError, ValueError: what `EmbeddingBank` refuses; more rows than there are ids, another dimension, or
                numbers that the storage does not hold.
        """
        block = as_tensor(rows, name="embeddings")
        if block.ndim == 1:
            raise ValueError(f"rows come in blocks [b, d], got one of {len(block)} numbers: give blocks, or one array")
        ids = self.named.ids[self._written :][: len(block) if block.ndim else 0]
        if block.ndim and len(block) > len(ids):
            raise ValueError(f"there are {len(self.named)} ids, and more rows than that: give one id for each row")
        given = as_prepared(block, self.kind.metric, ids=ids).cpu()
        if self._like is None:
            self._check_room(given.shape[1])
        else:
            check_dimension(given, self._like.values, names=("a block of rows", "the first block"))
        for part in chunks(len(given), rows_for(CACHE, 24 * given.shape[1])):
            self._add(given[part])
        return given

    def _check_room(self, d: int) -> None:
        """Refuse, before the work, what the disk has no room for."""
        size = len(self.named) * (d * DTYPES[self.kind.storage].itemsize + 40)
        free = shutil.disk_usage(self.file.fileno()).free
        if size > free:
            why = f"it needs {size / 1e6:,.1f} MB beside the old file, {free / 1e6:,.1f} are free"
            raise OSError(errno.ENOSPC, why)

    def _add(self, rows: Float32[Tensor, "b d"]) -> None:
        at = slice(self._written, self._written + len(rows))
        codes = kept(rows, self.kind.storage, self.kind.metric)
        back = codes[:]
        self.errors[at] = at_least(torch.linalg.vector_norm(rows.double() - back.double(), dim=1))
        self._longest = max(self._longest, float(back.norm(dim=1, dtype=torch.float64).max()))
        if self.kind.metric == "cosine":
            self._place[at] = projected(back)
        if self._scale is not None and codes.scale is not None:
            self._scale[at] = codes.scale
        self.file.write(codes.values.flatten().view(torch.uint8).numpy().data)
        self._written, self._like = at.stop, codes

    def finish(self) -> None:
        """Merge the rows of one direction, and write what else belongs to the bank."""
        n, like = len(self.named), self._like
        if self._written < n or like is None:
            raise ValueError(f"there are {n} ids, and {self._written} rows came: give one row for each id")
        self.file.flush()
        shape, dtype = [n, like.shape[1]], like.values.dtype
        if self.kind.metric == "cosine":
            self._merge(shape, dtype)
        tables = {"rows": (dtype, shape, self._begin)}
        named = {"labels": self.named.labels, "ids": self.named.ids, "groups": self.named.groups}
        for name, values in {**named, "steps": self.steps, "errors": self.errors, "scale": self._scale}.items():
            if values is not None:
                tables[name] = add_table(self.file, values)
        write_header(self.file, tables, self._notes())

    def _merge(self, shape: list[int], dtype: torch.dtype) -> None:
        """As `geometry.merge_directions`, on the file: so that no search must see all rows together for it."""
        size = self._begin + math.prod(shape) * dtype.itemsize
        with mmap.mmap(self.file.fileno(), size) as opened:
            values = torch.frombuffer(opened, dtype=dtype, count=math.prod(shape), offset=self._begin).view(shape)
            rows = MappedRows(Codes(values, None, self.kind.metric), opened)
            for others, first in one_direction(rows, self._place):
                for part in rows.parts(len(others)):
                    new = values[first[part]]
                    differs = (values[others[part]] != new).any(1)
                    moved = others[part][differs]
                    values[moved] = new[differs]
                    self.errors[moved] = at_least(self.errors[moved].double() + tie_distance(torch.float32))
            del rows, values

    def _notes(self) -> Mapping[str, Any]:
        kind, named = self.kind, self.named
        return {
            "format": FORMAT,
            "metric": kind.metric,
            "storage": kind.storage,
            "label_names": named.label_names,
            "group_names": named.group_names,
            "step": int(self.steps.max()),
            "oldest": int(self.steps.min()),
            "longest": self._longest,
            "error": float(self.errors.max()),
            "mean_error": float(self.errors.double().mean()),
        }


def written(path: str | os.PathLike[str], named: Rows, kind: Kind, fill: Callable[[BankWriter], object]) -> Container:
    """The file that `fill` has written, open, whoever else may write there.

    It takes its name when all rows are in it and on the disk; until then the old one stays.
    """
    if not len(named):
        raise ValueError("there are no rows: a bank on disk has at least one")
    with whole_file(path) as temporary, temporary.open("w+b") as file:
        writer = BankWriter(file, named, kind)
        fill(writer)
        writer.finish()
        return Container(path, file)


def encoded(
    path: str | os.PathLike[str],
    named: Rows,
    kind: Kind,
    encoder: Encoder,
    source: Inputs,
    settings: PassSettings,
    device: torch.device | str | None,
    seen: Callable[[int, Tensor], None],
) -> Container:
    """Write an encoder's rows as they come; `seen` is told of each batch of them."""
    loader = input_loader(source, evened(len(source), settings))
    where = None if device is None else as_device(device)

    def fill(writer: BankWriter) -> None:
        def take(begin: int, rows: Tensor) -> None:
            seen(begin, writer.add(rows))

        embed_each(encoder, loader, take, device=where, progress=settings.progress)

    return written(path, named, kind, fill)


def at_least(values: Float64[Tensor, " n"]) -> Float32[Tensor, " n"]:
    """Rounded up to float32."""
    near = values.float()
    return torch.where(near < values, near.nextafter(torch.tensor(torch.inf)), near)
