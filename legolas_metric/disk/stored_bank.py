"""A bank on disk: larger than memory, in half or a quarter of the bytes, and read as far as it is asked for."""

import os
from collections.abc import Callable, Iterable
from typing import Any, get_args

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, Metric, as_device, check_choice, check_metric, check_whole
from legolas_metric.datasets.embedding import Collate, Encoder, PassSettings, embed_each, evened, input_loader
from legolas_metric.datasets.source import Inputs, Source
from legolas_metric.disk.bank_writer import FORMAT, Kind, bank_writer
from legolas_metric.disk.codes import Codes, Storage
from legolas_metric.disk.container import Container
from legolas_metric.disk.disk_rows import DiskRows, StoredTable, unread
from legolas_metric.geometry import chunks
from legolas_metric.rows import Rows, named_rows, places_of
from legolas_metric.signatures import typed


class StoredBank:
    """A bank in a file, of which no more is in memory than is being read.

    Written by `write` (of a bank, or of blocks of rows), by `encode` (an encoder's rows go straight to disk) and by
    `refresh`. A file is written beside the old one and renamed: old or new, never a mix, also where the writer is
    killed. Each 4 MiB of it are checked (CRC-32) before they are first read.

    What is exact: miners and searches answer for the rows *as they are stored*, bit for bit as they would for
    `load()`, the same rows in memory. float32 stores the bank itself; of other storages `error` is the largest distance
    between a row and what is stored of it, measured when it was written: a similarity of unit rows moves by at most
    2 error + error^2.

    Memory: 128 bytes a row for labels, ids, groups and what is sorted by them, and blocks of rows, within `memory_mb`.

    Args:
        path: of the file.
        memory_mb: what searches and refreshes may take, in MiB, above what the process takes otherwise.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no stored bank, cut short, damaged, or too little memory.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from legolas_metric import EmbeddingBank, FullHardMiner, StoredBank
        >>> bank = EmbeddingBank(torch.randn(100, 16), torch.arange(100) // 4)
        >>> with TemporaryDirectory() as folder:
        ...     stored = StoredBank.write(Path(folder) / "bank", bank, storage="int8")
        ...     mined = FullHardMiner().mine(stored, anchors=range(20))
        >>> len(mined), stored.error < 0.02
        (20, True)

    Source: ours.
    """

    @typed
    def __init__(self, path: str | os.PathLike[str], *, memory_mb: int = 1024) -> None:
        check_whole("memory_mb", memory_mb, 1)
        self.memory_mb = memory_mb
        self._container = Container(path)
        notes = self._container.notes
        if notes.get("format") != FORMAT:
            raise ValueError(
                f"{path} has the format {notes.get('format')!r}, this version reads {FORMAT}: write it anew"
            )
        self.path = self._container.path
        self.metric: Metric = notes["metric"]
        self.storage: Storage = notes["storage"]
        self.step: int = notes["step"]
        self.error: float = notes["error"]
        self.mean_error: float = notes["mean_error"]
        self.drift: float | None = None  # of the refresh that wrote it
        codes = Codes(self._container.table("rows"), self._scale(), self.metric)
        self._table = DiskRows(
            StoredTable(self._container, codes), self._named(codes.shape), notes["longest"], memory_mb
        )

    def _scale(self) -> Float32[Tensor, " n"] | None:
        return self._container.read("scale") if "scale" in self._container else None

    def _named(self, shape: torch.Size) -> Rows:
        read, notes = self._container.read, self._container.notes
        names = (None if notes[name] is None else tuple(notes[name]) for name in ("label_names", "group_names"))
        groups = read("groups") if "groups" in self._container else None
        return Rows(unread(*shape), read("labels"), read("ids"), groups, *names)

    def __repr__(self) -> str:
        n, d = self._table.embeddings.shape
        return f"StoredBank({n} rows, d={d}, metric={self.metric!r}, storage={self.storage!r}, error={self.error:.2g})"

    def __len__(self) -> int:
        return len(self._table)

    @property
    def table(self) -> DiskRows:
        """The rows, as miners and searches take them."""
        return self._table

    @property
    def embeddings(self) -> StoredTable:
        """[n, d] on disk: `embeddings[rows]` is a float32 tensor."""
        return self._table.embeddings

    @property
    def labels(self) -> Int64[Tensor, " n"]:
        """Of the rows; -1 for unlabelled."""
        assert self._table.labels is not None
        return self._table.labels

    @property
    def ids(self) -> Int64[Tensor, " n"]:
        """Of the rows."""
        return self._table.ids

    @property
    def groups(self) -> Int64[Tensor, " n"] | None:
        """Of the rows, where there are any."""
        return self._table.groups

    @property
    def errors(self) -> Float32[Tensor, " n"]:
        """The distance of each row from what is stored of it, rounded up."""
        return self._container.read("errors")

    @property
    def max_age(self) -> int:
        """Steps between the oldest row and the newest."""
        return self.step - self._container.notes["oldest"]

    def rows(self, ids: ArrayLike) -> Int64[Tensor, " m"]:
        """Row numbers of ids.

        Raises:
            ValueError: an id that the bank does not hold.
        """
        return places_of(ids, self.ids)

    @typed
    def load(self) -> EmbeddingBank:
        """The stored rows as a bank in memory, 4 n d bytes."""
        every = self._table[:]
        bank = EmbeddingBank(
            every.embeddings, self.labels, ids=self.ids, groups=self.groups, metric=self.metric, step=self.step
        )
        bank.label_names, bank.group_names = every.label_names, every.group_names
        bank.steps.copy_(self._container.read("steps"))
        return bank

    def verify(self) -> None:
        """Check every byte of the file, as it is now.

        Raises:
            ValueError: one is not as it was written; the text names file and place.
        """
        self._container.check_all()

    @classmethod
    @typed
    def write(
        cls,
        path: str | os.PathLike[str],
        rows: Any,
        labels: ArrayLike | None = None,
        *,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        metric: Metric = "cosine",
        storage: Storage = "float32",
        step: int = 0,
        memory_mb: int = 1024,
    ) -> "StoredBank":
        """Write a bank, or rows that come in blocks, and open what was written.

        Args:
            path: of the file; what is there stays until the new one is whole.
            rows: an `EmbeddingBank`, which brings labels, ids, groups, metric and step with it; or blocks [b, d] in
                turn, such as a generator gives.
            labels, ids, groups, metric, step: of rows that come in blocks, see `EmbeddingBank`.
            storage: "float32"; "float16" or "bfloat16", half of that; "int8", a quarter.
            memory_mb: of the bank that is returned.

        Raises:
            TypeError, ValueError: what `EmbeddingBank` refuses; rows that are not as many as labels; numbers that
                float16 does not hold.
            OSError: the file cannot be written, or the disk is full; what was there before is as it was.
        """
        if isinstance(rows, EmbeddingBank):
            named, kind = rows.table, Kind(metric=rows.metric, storage=storage, step=rows.step)
            whole = rows.embeddings
            blocks: Iterable[ArrayLike] = (whole[part] for part in chunks(len(whole), 1 << 14))
        else:
            named, kind = _named(labels, ids, groups), Kind(metric=metric, storage=storage, step=step)
            blocks = [rows] if isinstance(rows, Tensor) or hasattr(rows, "__array__") else rows
        _check_kind(kind)
        with bank_writer(path, named, kind) as writer:
            for block in blocks:
                writer.add(block)
            if isinstance(rows, EmbeddingBank):
                writer.steps.copy_(rows.steps)
        return cls(path, memory_mb=memory_mb)

    @classmethod
    @typed
    def encode(
        cls,
        path: str | os.PathLike[str],
        encoder: Encoder,
        dataset: Source,
        *,
        labels: ArrayLike,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        metric: Metric = "cosine",
        storage: Storage = "float32",
        batch_size: int = 512,
        collate_fn: Collate | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        device: torch.device | str | None = None,
        step: int = 0,
        progress: bool = True,
        memory_mb: int = 1024,
    ) -> "StoredBank":
        """Embed a data set straight to disk: `EmbeddingBank.encode` with one batch in memory.

        Args:
            path, storage, memory_mb: see `write`.
            encoder, dataset, labels, ids, groups, metric: see `EmbeddingBank.encode`, as are all others.

        Raises:
            TypeError, ValueError, OSError: as `write`, and `EmbeddingBank.encode`.
        """
        source = Inputs(dataset)
        named = _named(labels, ids, groups, len(source))
        kind = Kind(metric=metric, storage=storage, step=step)
        _check_kind(kind)
        settings = PassSettings(
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            progress=progress,
        )
        _embed(path, named, kind, encoder, source, settings, device, lambda begin, rows: None)
        return cls(path, memory_mb=memory_mb)

    @typed
    def refresh(
        self,
        encoder: Encoder,
        dataset: Source,
        *,
        step: int,
        batch_size: int = 512,
        collate_fn: Collate | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        device: torch.device | str | None = None,
        progress: bool = True,
    ) -> "StoredBank":
        """Embed the data set again, straight to disk, in place of this bank's file.

        Args:
            encoder, dataset: the rows come in the order of this bank's.
            step: not before this bank's.
            batch_size, collate_fn, num_workers, pin_memory, device, progress: see `EmbeddingBank.encode`.

        Returns:
            The new bank, with the mean cosine between old rows and new ones as its `drift`. This one goes on with the
            old rows.

        Raises:
            TypeError, ValueError, OSError: as `encode`; or an earlier step.
        """
        if step < self.step:
            raise ValueError(f"step {step} is before the step {self.step} of these rows: steps only grow")
        source = Inputs(dataset)
        if len(source) != len(self):
            raise ValueError(f"the data set has {len(source)} examples, the bank {len(self)} rows: they must be equal")
        kind = Kind(metric=self.metric, storage=self.storage, step=step)
        settings = PassSettings(
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            progress=progress,
        )
        alike = 0.0

        def compare(begin: int, rows: Tensor) -> None:
            nonlocal alike
            old = self.embeddings[begin : begin + len(rows)]
            alike += float(torch.cosine_similarity(old.double(), rows.double()).sum())

        _embed(self.path, self.table.named, kind, encoder, source, settings, device, compare)
        new = StoredBank(self.path, memory_mb=self.memory_mb)
        new.drift = alike / len(self)
        return new


def _embed(
    path: str | os.PathLike[str],
    named: Rows,
    kind: Kind,
    encoder: Encoder,
    source: Inputs,
    settings: PassSettings,
    device: torch.device | str | None,
    seen: Callable[[int, Tensor], None],
) -> None:
    """Write an encoder's rows as they come; `seen` is told of each batch of them."""
    loader = input_loader(source, evened(len(source), settings))
    where = None if device is None else as_device(device)
    with bank_writer(path, named, kind) as writer:

        def take(begin: int, rows: Tensor) -> None:
            seen(begin, writer.add(rows))

        embed_each(encoder, loader, take, device=where, progress=settings.progress)


def _named(labels: ArrayLike | None, ids: ArrayLike | None, groups: ArrayLike | None, n: int | None = None) -> Rows:
    """What names the rows, checked before there are any."""
    if labels is None:
        raise TypeError("labels must be given: one for each row, -1 where there is none")
    count = n if n is not None else len(labels) if hasattr(labels, "__len__") else 0  # pyright: ignore[reportArgumentType]
    return named_rows(unread(count, 1), labels, ids=ids, groups=groups)


def _check_kind(kind: Kind) -> None:
    check_metric(kind.metric)
    check_choice("storage", kind.storage, get_args(Storage))
    check_whole("step", kind.step, 0)
