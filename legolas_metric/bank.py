"""Embeddings of the whole data set, with labels, groups, ids, and the step at which each row was written."""

import json
import os
from typing import get_args

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.budgets import CACHE, rows_for
from legolas_metric.checks import (
    ArrayLike,
    Metric,
    as_device,
    as_integers,
    as_tensor,
    check_dimension,
    check_metric,
    check_whole,
)
from legolas_metric.datasets.embedding import Collate, Encoder, PassSettings, embed_rows, evened, input_loader
from legolas_metric.datasets.source import Inputs, Source
from legolas_metric.files import read_tensors, write_tensors
from legolas_metric.geometry import chunks, merge_directions
from legolas_metric.rows import Rows, as_groups, as_ids, as_labels, as_prepared, fitted_rows, named_rows, places_of
from legolas_metric.signatures import typed

_FORMAT = "legolas_metric.EmbeddingBank/1"


class EmbeddingBank:
    """Embeddings of a whole data set: what global miners, probes and rankings look at.

    Under metric "cosine" the rows are kept normalised. Everything lies on the embeddings' device.

    Args:
        embeddings: [n, d], finite; float32 inside.
        labels: [n] integers, -1 for unlabelled; or names, which are numbered in ascending order (`label_names`).
        ids: [n] unique, >= 0: names of the examples, stable across epochs (default: row numbers).
        groups: [n] integers or names: session, camera, recording.
        metric: "cosine", "dot" or "euclidean".
        step: encoder step at which these embeddings were computed.

    Raises:
        TypeError: integer embeddings, or labels that are neither integers nor names.
        ValueError: NaN or inf, zero rows under cosine, lengths that differ, ids that repeat, empty input.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank
        >>> bank = EmbeddingBank(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), [0, 1])
        >>> bank.embeddings
        tensor([[0.6000, 0.8000],
                [0.0000, 1.0000]])

    Source: ours.
    """

    @typed
    def __init__(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike,
        *,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        metric: Metric = "cosine",
        step: int = 0,
    ) -> None:
        check_metric(metric)
        check_whole("step", step, 0)
        # copies: the bank is written in place; the caller's tensor must not be
        if labels is None:
            raise TypeError("labels must be given: one for each row, -1 where there is none")
        self._hold(fitted_rows(embeddings, labels, ids=ids, groups=groups, metric=metric), metric, step)

    @classmethod
    def of_own(
        cls,
        rows: Float32[Tensor, "n d"],
        labels: ArrayLike,
        *,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        metric: Metric = "cosine",
        step: int = 0,
    ) -> "EmbeddingBank":
        """A bank of prepared rows that it owns from now on, without a second copy of them.

        There may be none: of a process that takes part in `mine(world=...)` without rows of its own.
        """
        bank = cls.__new__(cls)
        if metric == "cosine" and len(rows):
            merge_directions(rows)
        bank._hold(named_rows(rows, labels, ids=ids, groups=groups), metric, step)
        return bank

    def _hold(self, held: Rows, metric: Metric, step: int) -> None:
        assert held.labels is not None
        self.metric: Metric = metric
        self.embeddings: Float32[Tensor, "n d"] = held.embeddings
        self.labels: Int64[Tensor, " n"] = held.labels
        self.ids: Int64[Tensor, " n"] = held.ids
        self.groups: Int64[Tensor, " n"] | None = held.groups
        self.label_names, self.group_names = held.label_names, held.group_names
        self.steps: Int64[Tensor, " n"] = torch.full_like(self.ids, step)
        self.drift: float | None = None  # of the last update

    @property
    def table(self) -> Rows:
        """The rows with their labels, ids and groups, as every part of the library takes them; no copies."""
        return Rows(self.embeddings, self.labels, self.ids, self.groups, self.label_names, self.group_names)

    def __len__(self) -> int:
        return len(self.embeddings)

    def __repr__(self) -> str:
        n, d = self.embeddings.shape
        return f"EmbeddingBank({n} rows, d={d}, metric={self.metric!r}, step={self.step}, max_age={self.max_age})"

    @property
    def step(self) -> int:
        """The newest step at which a row was written."""
        return int(self.steps.max()) if len(self.steps) else 0

    @property
    def max_age(self) -> int:
        """Steps between the oldest row and the newest."""
        return self.step - int(self.steps.min()) if len(self.steps) else 0

    @classmethod
    @typed
    def encode(
        cls,
        encoder: Encoder,
        dataset: Source,
        *,
        labels: ArrayLike,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        metric: Metric = "cosine",
        batch_size: int = 512,
        collate_fn: Collate | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        device: torch.device | str | None = None,
        step: int = 0,
        progress: bool = True,
    ) -> "EmbeddingBank":
        """Embed a data set in evaluation mode, without gradients, and leave the encoder as it was.

        A tuple of inputs, ((a, b), y), reaches the encoder as positional arguments, a dict or whatever else
        `collate_fn` makes of a batch as one argument. All tensors in it are moved to the device, and floating ones are
        given the encoder's dtype. Memory: the rows, n * d * 4 bytes, and one batch.

        Args:
            encoder: maps a batch of inputs to [b, d]. A module is put into evaluation mode, and each of its parts back
                into its own mode afterwards, also after an error.
            dataset: an array, or any object with `len` and `[]`: its items, or the first part of items such as (x, y).
            labels, ids, groups, metric, step: see `EmbeddingBank`.
            batch_size: examples a forward pass, at most: workers get equal shares.
            collate_fn: makes a batch of a list of inputs (default: stacks them); labels and ids are not passed to it.
            num_workers, pin_memory: of the `DataLoader`.
            device: where to encode and keep the rows (default: the encoder's own).
            progress: show a progress bar, unless another one has the screen.

        Raises:
            TypeError, ValueError: as `EmbeddingBank`; lengths are compared before the first forward pass, and rows that
                are not finite are told of at the first batch that has them.
        """
        check_metric(metric)
        settings = PassSettings(
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            progress=progress,
        )
        source = Inputs(dataset)
        n = len(source)
        as_labels(labels, n, of="the data set")
        names = as_ids(ids, n, of="the data set")
        as_groups(groups, n, of="the data set")
        where = None if device is None else as_device(device)
        loader = input_loader(source, evened(n, settings))
        rows = embed_rows(encoder, loader, names, metric=metric, device=where, progress=progress)
        return cls.of_own(rows, labels, ids=ids, groups=groups, metric=metric, step=step)

    def rows(self, ids: ArrayLike) -> Int64[Tensor, " m"]:
        """Row numbers of ids.

        Raises:
            ValueError: an id that the bank does not hold.
        """
        return places_of(ids, self.ids)

    @typed
    def update(self, ids: ArrayLike, embeddings: ArrayLike, *, step: int) -> float:
        """Write new embeddings of some ids; nothing is written if any of them is refused.

        Returns:
            Drift: mean cosine between the rows and their rewrites (1 = unchanged).

        Raises:
            ValueError: unknown or repeated ids, rows that the bank refuses, another dimension, or an earlier step
                than the bank's.
        """
        given = as_tensor(embeddings, name="embeddings")
        n = len(given) if given.ndim else 0
        names = as_ids(ids if n else None, n)  # where there are no rows, that is what to say first
        new = as_prepared(given, self.metric, ids=names).to(self.embeddings.device)
        check_dimension(new, self.embeddings, names=("embeddings", "the bank"))
        where = self.rows(names)
        if step < int(self.steps[where].max()):
            raise ValueError(f"step {step} is before the step at which these rows were written: steps only grow")
        alike = [
            float(torch.cosine_similarity(self.embeddings[where[part]].double(), new[part].double()).sum())
            for part in chunks(n, rows_for(CACHE, 48 * new.shape[1]))
        ]
        self.drift = sum(alike) / n
        self.embeddings[where] = new
        self.steps[where] = step
        return self.drift

    @typed
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, beside and renamed: whole or not at all."""
        tensors = {"embeddings": self.embeddings, "labels": self.labels, "ids": self.ids, "steps": self.steps}
        if self.groups is not None:
            tensors["groups"] = self.groups
        named = {"label_names": self.label_names, "group_names": self.group_names}
        texts = {key: json.dumps(names) for key, names in named.items() if names is not None}
        write_tensors(path, tensors, {"format": _FORMAT, "metric": self.metric, **texts})

    @classmethod
    @typed
    def load(cls, path: str | os.PathLike[str]) -> "EmbeddingBank":
        """Read what `save` wrote, with the step of every row.

        Raises:
            FileNotFoundError: no such file.
            ValueError: corrupt, cut short, or not a bank.
        """
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"{path} is not a saved EmbeddingBank: expected format {_FORMAT!r} in its metadata")
        missing = [name for name in ("embeddings", "labels", "ids", "steps") if name not in tensors]
        if missing or metadata.get("metric") not in get_args(Metric):
            what = ", ".join(missing) or f"a metric (it says {metadata.get('metric')!r})"
            raise ValueError(f"{path} is no whole EmbeddingBank, it lacks {what}: write it again with bank.save(path)")
        try:
            bank = cls(
                tensors["embeddings"],
                tensors["labels"],
                ids=tensors["ids"],
                groups=tensors.get("groups"),
                metric=metadata["metric"],  # pyright: ignore[reportArgumentType]  (checked above)
            )
            steps = as_integers(tensors["steps"], len(bank), name="steps", of="the bank")
            bank.label_names, bank.group_names = (
                tuple(json.loads(metadata[key])) if key in metadata else None for key in ("label_names", "group_names")
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is no whole EmbeddingBank: {error}") from error
        bank.steps.copy_(steps)
        return bank
