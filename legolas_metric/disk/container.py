"""One file with several tables of numbers, every byte of it behind a checksum, read through a memory map.

It begins with a preamble, which says where the header stands; the header, JSON at the end of the file, says what tables
there are and where, and has a checksum of each 4 MiB of them: CRC-32, which finds any one changed byte, and all but
2^-32 of larger damage. The preamble is written last, so that a file that was cut short is none.
"""

import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from legolas_metric.budgets import CACHE

_MAGIC = b"legolas_metric bank 1\n"
_PREAMBLE = struct.Struct("<22sQQI82xI")  # magic, where the header begins, its length and checksum, that of all before
_ALIGNED = 64  # tables begin at multiples of this; what lies between them belongs to the one before


def write_header(file: BinaryIO, tables: Mapping[str, tuple[torch.dtype, list[int], int]], notes: object) -> None:
    """End a file whose tables are written: (dtype, shape, where it begins) by name, and further notes as JSON."""
    begin = file.truncate(aligned(file))
    known = {
        name: {
            "dtype": str(dtype).removeprefix("torch."),
            "shape": shape,
            "begin": first,
            "checks": _checksums(file, first, _bytes(dtype, shape)),
        }
        for name, (dtype, shape, first) in tables.items()
    }
    header = json.dumps({"tables": known, "notes": notes}).encode()
    file.seek(begin)
    file.write(header)
    first = _PREAMBLE.pack(_MAGIC, begin, len(header), zlib.crc32(header), 0)[:-4]
    file.seek(0)
    file.write(first + struct.pack("<I", zlib.crc32(first)))
    file.flush()


def add_table(file: BinaryIO, values: Tensor) -> tuple[torch.dtype, list[int], int]:
    """Write a table at the end of a file."""
    begin = aligned(file)
    file.write(values.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return values.dtype, list(values.shape), begin


def aligned(file: BinaryIO) -> int:
    """Go to the end of a file, or on to where a table may begin."""
    begin = max(_PREAMBLE.size, file.seek(0, os.SEEK_END))
    return file.seek(-(-begin // _ALIGNED) * _ALIGNED)


class Container:
    """A file of tables, open for reading. The tables are views of a memory map, so that only what is read takes memory.

    Each 4 MiB of a table is checked before it is first read, and again by `check_all`. A pickled one is its path, which
    another process opens again: if the file has been replaced by then, it is refused.

    Attributes:
        opened: its memory map.

    Args:
        path: of the file.
        file: itself, where it is open already and has not got its name yet.
        check: of the header; a file with another one is refused.

    Raises:
        FileNotFoundError: no such file.
        OSError: it can't be read.
        ValueError: no such container, cut short, or damaged; the text names the file.
    """

    def __init__(self, path: str | os.PathLike[str], file: BinaryIO | None = None, *, check: int | None = None) -> None:
        self.path = Path(path).absolute()  # whoever opens it again may work in another folder
        with nullcontext(file) if file else self.path.open("rb") as opened:
            if os.fstat(opened.fileno()).st_size < _PREAMBLE.size:
                raise self._foreign()
            # Private, so that torch may take it for its own; nothing is ever written into it.
            self.opened = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
        header = self._header()
        if check not in (None, self._check):
            raise ValueError(f"{self.path} has been replaced since it was opened: open it anew, StoredBank(path)")
        self._tables = header["tables"]
        self.notes: dict[str, Any] = header["notes"]
        self._seen = {name: np.zeros(len(table["checks"]), bool) for name, table in self._tables.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Container, self.path, check=self._check), ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Container":
        return self  # nothing changes it

    def _header(self) -> dict[str, Any]:
        preamble = self.opened[: _PREAMBLE.size]
        if not preamble.startswith(_MAGIC):
            raise self._foreign()
        _, begin, length, check, own = _PREAMBLE.unpack(preamble)
        if zlib.crc32(preamble[:-4]) != own:
            raise self._damaged("its preamble")
        if begin + length != len(self.opened):
            raise ValueError(f"{self.path} has {len(self.opened):,} bytes of {begin + length:,}: write it again")
        header = self.opened[begin:]
        if zlib.crc32(header) != check:
            raise self._damaged("its header")
        self._check: int = check
        return json.loads(header)

    def _foreign(self) -> ValueError:
        return ValueError(f"{self.path} is no stored bank: write one with StoredBank.write(path, bank)")

    def _damaged(self, what: str) -> ValueError:
        return ValueError(f"{self.path} is damaged: {what} is not as it was written. Write it again, or take a copy")

    def __contains__(self, name: str) -> bool:
        return name in self._tables

    def table(self, name: str) -> Shaped[Tensor, "*s"]:
        """A table as a view of the map: `check` what is read of it, and `release` it afterwards."""
        entry = self._tables[name]
        dtype, shape = getattr(torch, entry["dtype"]), entry["shape"]
        count = int(np.prod(shape, dtype=np.int64))
        return torch.frombuffer(self.opened, dtype=dtype, count=count, offset=entry["begin"]).view(shape)

    def read(self, name: str) -> Shaped[Tensor, "*s"]:
        """A checked copy of a table."""
        self.check(name, np.arange(len(self._seen[name])))
        values = self.table(name).clone()
        self.release()
        return values

    def check(self, name: str, blocks: np.ndarray) -> None:
        """Check those of some blocks of a table that were not read before."""
        seen, entry = self._seen[name], self._tables[name]
        first, checks = entry["begin"], entry["checks"]
        size = _bytes(getattr(torch, entry["dtype"]), entry["shape"])
        for block in blocks[~seen[blocks]].tolist():
            begin = first + block * CACHE
            if zlib.crc32(memoryview(self.opened)[begin : min(begin + CACHE, first + size)]) != checks[block]:
                raise self._damaged(f"the table of {name} in the bytes from {begin:,} on")
            seen[block] = True
            self.release()

    def check_all(self) -> None:
        """Check the whole file as it is now."""
        self._header()
        for name, seen in self._seen.items():
            seen[:] = False
            self.check(name, np.arange(len(seen)))

    def release(self) -> None:
        """Let the pages that were read leave this process."""
        release(self.opened)


def release(opened: mmap.mmap) -> None:
    """Let the pages of a map leave this process; the system keeps those that it has room for, or that are written."""
    if hasattr(mmap, "MADV_DONTNEED"):
        opened.madvise(mmap.MADV_DONTNEED)


def _bytes(dtype: torch.dtype, shape: list[int]) -> int:
    """Of a table, with what lies between it and the next."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return -(-size // _ALIGNED) * _ALIGNED


def _checksums(file: BinaryIO, begin: int, size: int) -> list[int]:
    file.seek(begin)
    return [zlib.crc32(file.read(min(CACHE, size - start))) for start in range(0, size, CACHE)]
