"""Embeddings of the whole data set, with labels, groups, ids, and the step at which each row was written."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from legolas_metric.checks import (
    ArrayLike,
    Metric,
    as_integers,
    as_tensor,
    check_at_least,
    check_dimension,
    check_metric,
    check_whole,
)
from legolas_metric.datasets.source import Inputs
from legolas_metric.files import read_tensors, write_tensors
from legolas_metric.lookup import lookup
from legolas_metric.rows import Rows, as_groups, as_ids, as_labels, as_prepared, fitted_rows

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
    """

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
        held = fitted_rows(embeddings, labels, ids=ids, groups=groups, metric=metric)
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
        return int(self.steps.max())

    @property
    def max_age(self) -> int:
        """Steps between the oldest row and the newest."""
        return self.step - int(self.steps.min())

    @classmethod
    def encode(
        cls,
        encoder: Callable[[Tensor], Tensor],
        dataset: Dataset | ArrayLike,
        *,
        labels: ArrayLike,
        ids: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        metric: Metric = "cosine",
        batch_size: int = 512,
        num_workers: int = 0,
        device: torch.device | str | None = None,
        step: int = 0,
        progress: bool = True,
    ) -> "EmbeddingBank":
        """Embed a data set in evaluation mode, without gradients, and leave the encoder as it was.

        Args:
            encoder: maps a batch of inputs to [b, d]. A module is put into evaluation mode, and each of its parts back
                into its own mode afterwards, also after an error.
            dataset: any map-style `Dataset` (its items, or the first part of items such as (x, y)), or an array.
            labels, ids, groups, metric, step: see `EmbeddingBank`.
            batch_size: examples a forward pass.
            num_workers: of the `DataLoader`.
            device: where to encode and keep the rows (default: the encoder's own).
            progress: show a progress bar.

        Raises:
            TypeError, ValueError: as `EmbeddingBank`; lengths are compared before the first forward pass.
        """
        check_metric(metric)
        check_at_least("batch_size", batch_size, 1)
        source = Inputs(dataset)
        n = len(source)
        as_labels(labels, n, of="the data set")
        as_ids(ids, n, of="the data set")
        as_groups(groups, n, of="the data set")
        where = torch.device(device) if device is not None else _device_of(encoder)
        # A loader draws a seed even where nothing is random: from its own generator, so that training's stays as it is.
        loader = DataLoader(source, batch_size=batch_size, num_workers=num_workers, generator=torch.Generator())
        bar = tqdm(loader, desc="encode", unit="batch", disable=not progress, leave=False)
        with evaluating(encoder), torch.inference_mode(), bar as batches:  # closed before an error is told
            rows = torch.cat([_encode_batch(encoder, batch.to(where)) for batch in batches])
        return cls(rows.clone(), labels, ids=ids, groups=groups, metric=metric, step=step)

    def rows(self, ids: ArrayLike) -> Int64[Tensor, " m"]:
        """Row numbers of ids.

        Raises:
            ValueError: an id that the bank does not hold.
        """
        names = as_integers(ids, None, name="ids").to(self.ids.device)
        place, found = lookup(names, self.ids)
        if not bool(found.all()):
            unknown = names[~found]
            raise ValueError(f"{len(unknown)} ids are not in the bank (first: {unknown[:5].tolist()})")
        return place

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
        self.drift = float(torch.cosine_similarity(self.embeddings[where].double(), new.double()).mean())
        self.embeddings[where] = new
        self.steps[where] = step
        return self.drift

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, beside and renamed: whole or not at all."""
        tensors = {"embeddings": self.embeddings, "labels": self.labels, "ids": self.ids, "steps": self.steps}
        if self.groups is not None:
            tensors["groups"] = self.groups
        named = {"label_names": self.label_names, "group_names": self.group_names}
        texts = {key: json.dumps(names) for key, names in named.items() if names is not None}
        write_tensors(path, tensors, {"format": _FORMAT, "metric": self.metric, **texts})

    @classmethod
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


@contextmanager
def evaluating(encoder: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Evaluation mode for the block; every part of the module gets its own mode back, also after an error."""
    modules = list(encoder.modules()) if isinstance(encoder, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        if isinstance(encoder, nn.Module):
            encoder.eval()
        yield
    finally:
        for module, mode in zip(modules, modes):
            module.training = mode


def _device_of(encoder: Callable[[Tensor], Tensor]) -> torch.device:
    parameters = encoder.parameters() if isinstance(encoder, nn.Module) else iter(())
    first = next(parameters, None)
    return torch.device("cpu") if first is None else first.device


def _encode_batch(encoder: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    rows = encoder(batch)
    if not isinstance(rows, Tensor) or rows.ndim != 2 or len(rows) != len(batch):
        shape = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(f"the encoder must map {len(batch)} inputs to [{len(batch)}, d], got {shape}")
    return rows.float()
