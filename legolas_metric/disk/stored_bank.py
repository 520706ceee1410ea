"""A bank on disk: larger than memory, in half or a quarter of the bytes, and read as far as it is asked for."""

import os
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, Metric, check_dimension, check_whole
from legolas_metric.datasets.embedding import Collate, Encoder, PassSettings
from legolas_metric.datasets.source import Inputs, Source
from legolas_metric.disk.bank_writer import FORMAT, BankWriter, Kind, encoded, written
from legolas_metric.disk.codes import Storage
from legolas_metric.disk.container import Container
from legolas_metric.disk.disk_rows import DiskRows, StoredTable, unread
from legolas_metric.disk.given import blocks_of, check_kind, names_of, refuse_beside
from legolas_metric.names import Names
from legolas_metric.rows import Rows, places_of
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
    Pickled, it is its path and names: the process that gets it opens the file, and refuses one that was replaced.

    Args:
        path: of the file.
        memory_mb: what searches may take, in MiB, above what the process takes otherwise, and beside the queries that
            are given and the answer.

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
        self._hold(Container(path), memory_mb)

    @classmethod
    def _of(cls, container: Container, memory_mb: int) -> "StoredBank":
        bank = cls.__new__(cls)
        bank._hold(container, memory_mb)
        return bank

    def _hold(self, container: Container, memory_mb: int) -> None:
        self.path, self.memory_mb = container.path, memory_mb
        self._container, notes = container, container.notes
        if notes.get("format") != FORMAT:
            raise ValueError(
                f"{self.path} has the format {notes.get('format')!r}, this version reads {FORMAT}: write it anew"
            )
        self.metric: Metric = notes["metric"]
        self.storage: Storage = notes["storage"]
        self.step: int = notes["step"]
        self.error: float = notes["error"]
        self.mean_error: float = notes["mean_error"]
        self.drift: float | None = None  # of the refresh that wrote it
        table = StoredTable.of(container, self.metric)
        self._table = DiskRows(table, self._named(table.shape), notes["longest"], memory_mb)

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
    def label_names(self) -> Names | None:
        """What the labels stand for, where they came as names."""
        return self._table.named.label_names

    @property
    def group_names(self) -> Names | None:
        """What the groups stand for, where they came as names."""
        return self._table.named.group_names

    @property
    def steps(self) -> Int64[Tensor, " n"]:
        """The step at which each row was computed."""
        return self._container.read("steps")

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
        bank = EmbeddingBank.of_own(
            self.embeddings[:], self.labels, ids=self.ids, groups=self.groups, metric=self.metric
        )
        bank.label_names, bank.group_names = self.label_names, self.group_names
        bank.steps.copy_(self.steps)
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
            rows: an `EmbeddingBank` or `StoredBank`, which brings labels, ids, groups, metric and steps with it; or
                an array [n, d]; or blocks [b, d] in turn, such as a generator gives.
            labels, ids, groups, metric, step: of rows that are no bank, see `EmbeddingBank`.
            storage: "float32"; "float16" or "bfloat16", half of that; "int8", a quarter.
            memory_mb: of the bank that is returned.

        Raises:
            TypeError, ValueError: what `EmbeddingBank` refuses; rows that are not as many as labels; numbers that
                float16 does not hold; labels and the like beside a bank, which has its own.
            OSError: the file cannot be written, or the disk is full; what was there before is as it was.
        """
        check_whole("memory_mb", memory_mb, 1)
        if isinstance(rows, EmbeddingBank | StoredBank):
            beside = {"labels": labels, "ids": ids, "groups": groups, "step": step or None}
            refuse_beside({**beside, "metric": None if metric in ("cosine", rows.metric) else metric})
            named = rows.table if isinstance(rows, EmbeddingBank) else rows.table.named
            kind = Kind(metric=rows.metric, storage=storage, step=rows.step)
            blocks = blocks_of(rows.embeddings)
        else:
            blocks = blocks_of(rows)
            named, kind = names_of(labels, ids, groups), Kind(metric=metric, storage=storage, step=step)
        check_kind(kind)

        def fill(writer: BankWriter) -> None:
            for block in blocks:
                writer.add(block)
            if isinstance(rows, EmbeddingBank | StoredBank):
                writer.steps.copy_(rows.steps)

        return cls._of(written(path, named, kind, fill), memory_mb)

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
        check_whole("memory_mb", memory_mb, 1)
        source = Inputs(dataset)
        named = names_of(labels, ids, groups, len(source))
        kind = Kind(metric=metric, storage=storage, step=step)
        check_kind(kind)
        settings = PassSettings(
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            progress=progress,
        )
        done = encoded(path, named, kind, encoder, source, settings, device, lambda begin, rows: None)
        return cls._of(done, memory_mb)

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
        """Embed the data set again, straight to disk, in place of this bank's file, whoever wrote there since.

        Args:
            encoder, dataset: the rows come in the order of this bank's.
            step: not before this bank's.
            batch_size, collate_fn, num_workers, pin_memory, device, progress: see `EmbeddingBank.encode`.

        Returns:
            The new bank, with the mean cosine between old rows and new ones as its `drift`. This one goes on with the
            old rows.

        Raises:
            TypeError, ValueError, OSError: as `encode`; an earlier step, or rows of another dimension.
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
            check_dimension(rows, self.embeddings, names=("what the encoder gives", "the bank"))
            old = self.embeddings[begin : begin + len(rows)]
            alike += float(torch.cosine_similarity(old.double(), rows.double()).sum())

        done = encoded(self.path, self.table.named, kind, encoder, source, settings, device, compare)
        new = StoredBank._of(done, self.memory_mb)
        new.drift = alike / len(self)
        return new
