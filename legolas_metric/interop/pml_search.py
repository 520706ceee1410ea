"""Our index as PML's `knn_func`."""

import os

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike
from legolas_metric.files import read_tensors, write_tensors
from legolas_metric.geometry import distance
from legolas_metric.index.interface import NeighborIndex
from legolas_metric.rows import NO_ID
from legolas_metric.signatures import typed

_FORMAT = "legolas_metric.KnnFunc/1"


@typed
def as_knn_func(index: NeighborIndex) -> "KnnFunc":
    """Our index as a PML `knn_func`: for `AccuracyCalculator` and `InferenceModel`.

    Args:
        index: a template that is not fitted; its metric decides what near means (PML's own default is "euclidean").

    Raises:
        TypeError: no index.

    Example:
        >>> import torch
        >>> from legolas_metric import ExactIndex
        >>> from legolas_metric.interop.pml import as_knn_func
        >>> knn = as_knn_func(ExactIndex(metric="euclidean"))
        >>> distances, rows = knn(torch.eye(3), 1, torch.eye(3), ref_includes_query=True)
        >>> distances[0].item(), rows[0].item()
        (1.4142135381698608, 1)

    Source: ours.
    """
    return KnnFunc(index)


class KnnFunc:
    """k nearest reference rows of each query, by PML's convention (`pytorch_metric_learning.utils.inference.FaissKNN`).

    Distances are d of the index's metric (Euclidean, where FAISS's `IndexFlatL2` squares them). With
    `ref_includes_query`, query i is reference row i and no neighbour of its own, also where others equal it.

    Args:
        index: an unfitted template.

    Example:
        >>> import torch
        >>> from legolas_metric import ExactIndex
        >>> from legolas_metric.interop.pml import KnnFunc
        >>> knn = KnnFunc(ExactIndex(metric="euclidean"))
        >>> knn.train(torch.eye(3))
        >>> knn(torch.eye(3)[:1], 1)[1].tolist()
        [[0]]

    Source: ours.
    """

    def __init__(self, index: NeighborIndex) -> None:
        self.template = index
        self.embeddings: Tensor | None = None
        self._fitted: NeighborIndex | None = None

    def __call__(
        self, query: Tensor, k: int, reference: Tensor | None = None, ref_includes_query: bool = False
    ) -> tuple[Float32[Tensor, "q k"], Int64[Tensor, "q k"]]:
        """(distances, row numbers), nearest first.

        Raises:
            ValueError: nothing to search, or fewer than k rows.
        """
        if reference is None and self._fitted is None:
            raise ValueError("nothing to search: pass reference, or call train() first")
        index = self._fitted if reference is None else self.template.clone().fit(reference)
        assert index is not None
        found = index.search(query, k, ids=torch.arange(len(query)) if ref_includes_query else None)
        if bool((found.ids == NO_ID).any()):
            raise ValueError(f"k={k} is more than there are rows to find: lower k, or add rows")
        return distance(found.similarities, index.metric), found.ids

    def train(self, embeddings: ArrayLike) -> None:
        """Take reference rows, in place of any before; named by their row numbers."""
        self.embeddings = torch.as_tensor(embeddings)
        self._fitted = self.template.clone().fit(self.embeddings)

    def add(self, embeddings: ArrayLike) -> None:
        """Add reference rows to those that are there."""
        rows = torch.as_tensor(embeddings)
        self.train(rows if self.embeddings is None else torch.cat([self.embeddings, rows]))

    def save(self, filename: str | os.PathLike[str]) -> None:
        """Write the reference rows as safetensors.

        Raises:
            ValueError: nothing to save.
        """
        if self.embeddings is None:
            raise ValueError("nothing to save: call train() first")
        write_tensors(filename, {"embeddings": self.embeddings}, {"format": _FORMAT})

    def load(self, filename: str | os.PathLike[str]) -> None:
        """Take the reference rows of a saved file.

        Raises:
            ValueError: a file of something else.
        """
        tensors, metadata = read_tensors(filename)
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"{filename} is not a saved KnnFunc: expected format {_FORMAT!r} in its metadata")
        self.train(tensors["embeddings"])

    def reset(self) -> None:
        """Forget the reference rows."""
        self.embeddings = self._fitted = None
