"""Adapters between this library and pytorch-metric-learning, both ways; the only module that imports the latter.

It is imported on the first call, since that takes a second. What differs is settled here: PML knows positions, this
library ids; PML excludes self by the identity of objects, knows losses by their class name, and miners by their base.
"""

import os
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import UNLABELLED, ArrayLike, check_at_least
from legolas_metric.files import read_tensors, write_tensors
from legolas_metric.geometry import chunks, distance, pair_similarity
from legolas_metric.index.interface import NeighborIndex
from legolas_metric.losses import MultiSimilarityLoss, SupConLoss, TripletLoss
from legolas_metric.records import MiningStats, SearchStats, Triplets
from legolas_metric.rows import NO_ID, as_ids

PairLoss = SupConLoss | MultiSimilarityLoss | TripletLoss

_FORMAT = "legolas_metric.KnnFunc/1"

# By these names PML knows what it may wrap.
_PML_NAMES = {
    SupConLoss: "SupConLoss",
    MultiSimilarityLoss: "MultiSimilarityLoss",
    TripletLoss: "TripletMarginLoss",
}


def as_loss(loss: PairLoss) -> nn.Module:
    """One of our losses as a PML loss: for `CrossBatchMemory`, `DistributedLossWrapper`, trainers and testers.

    Args:
        loss: `SupConLoss`, `MultiSimilarityLoss` or `TripletLoss`.

    Returns:
        A `BaseMetricLossFunction` whose class bears the name by which PML knows that loss, and that holds `loss`.

    Raises:
        TypeError: another loss.

    Example:
        >>> import torch
        >>> from legolas_metric import SupConLoss
        >>> from legolas_metric.interop.pml import as_loss
        >>> from pytorch_metric_learning.losses import CrossBatchMemory
        >>> memory = CrossBatchMemory(as_loss(SupConLoss()), embedding_size=4, memory_size=8)
        >>> memory(torch.eye(4), torch.tensor([0, 0, 1, 1])).ndim
        0
    """
    if type(loss) not in _PML_NAMES:
        raise TypeError(f"as_loss takes one of {', '.join(kind.__name__ for kind in _PML_NAMES)}, got {type(loss)}")
    return _loss_class(_PML_NAMES[type(loss)])(loss)


def as_miner(miner: Any, *, chunk: int = 1024) -> Any:
    """Our miner as a PML miner, or a PML miner as ours.

    Ours becomes a `BaseMiner`, which `DistributedMinerWrapper`, `CrossBatchMemory` and trainers accept. PML's becomes
    what a `MiningSchedule` takes as a stage: `mine(bank)` hands it the whole bank as a batch or, where that has more
    than `chunk` rows, `chunk` anchors at a time with the bank as reference. It takes what is listed, leaves out
    unlabelled anchors, and counts the anchors that were left without a triplet. Against a reference PML can't tell a
    row from itself: pairs of a row with itself are dropped, and may have cost others their place (in `HDCMiner`,
    `DistanceWeightedMiner` and others that look at all pairs together, whose answer then depends on `chunk`). In a call
    by PML's convention, -1 is a class like others, as with PML.

    Args:
        miner: either kind.
        chunk: anchors at a time; PML holds [chunk, n] several times over, and some of its miners all their triplets.

    Raises:
        TypeError: neither kind.
        ValueError: when it mines, a bank of more than `chunk` rows by a miner that takes the nearest positive, which
            is the row itself there.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, HardMiner, MiningSchedule
        >>> from legolas_metric.interop.pml import as_miner
        >>> from pytorch_metric_learning.miners import BatchHardMiner
        >>> schedule = MiningSchedule([(0, as_miner(BatchHardMiner())), (1, HardMiner())])
        >>> len(schedule.advance(0).mine(EmbeddingBank(torch.eye(4), [0, 0, 1, 1])))
        4
    """
    from pytorch_metric_learning.miners import BaseMiner

    check_at_least("chunk", chunk, 1)
    if isinstance(miner, BaseMiner):
        return PmlMiner(miner, chunk)
    if isinstance(miner, type) or not callable(miner) or not hasattr(miner, "mine"):
        raise TypeError(f"as_miner takes a miner of this library or of PML, got {type(miner)}")
    return _miner_class()(miner)


def as_knn_func(index: NeighborIndex) -> "KnnFunc":
    """Our index as a PML `knn_func`: for `AccuracyCalculator` and `InferenceModel`.

    Args:
        index: a template that is not fitted; its metric decides what near means (PML's own default is "euclidean").

    Example:
        >>> import torch
        >>> from legolas_metric import ExactIndex
        >>> from legolas_metric.interop.pml import as_knn_func
        >>> knn = as_knn_func(ExactIndex(metric="euclidean"))
        >>> distances, rows = knn(torch.eye(3), 1, torch.eye(3), ref_includes_query=True)
        >>> distances[0].item(), rows[0].item()
        (1.4142135381698608, 1)
    """
    return KnnFunc(index)


class KnnFunc:
    """k nearest reference rows of each query, by PML's convention (`pytorch_metric_learning.utils.inference.FaissKNN`).

    Distances are d of the index's metric (Euclidean, where FAISS's `IndexFlatL2` squares them). With
    `ref_includes_query`, query i is reference row i and no neighbour of its own, also where others equal it.

    Args:
        index: an unfitted template.
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
        """Write the reference rows as safetensors."""
        if self.embeddings is None:
            raise ValueError("nothing to save: call train() first")
        write_tensors(filename, {"embeddings": self.embeddings}, {"format": _FORMAT})

    def load(self, filename: str | os.PathLike[str]) -> None:
        """Take the reference rows of a saved file."""
        tensors, metadata = read_tensors(filename)
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"{filename} is not a saved KnnFunc: expected format {_FORMAT!r} in its metadata")
        self.train(tensors["embeddings"])

    def reset(self) -> None:
        """Forget the reference rows."""
        self.embeddings = self._fitted = None


class PmlMiner:
    """A PML miner with the calls of ours; see `as_miner`."""

    def __init__(self, miner: Callable[..., tuple[Tensor, ...]], chunk: int) -> None:
        self.miner = miner
        self.chunk = chunk

    def __repr__(self) -> str:
        return f"PmlMiner({type(self.miner).__name__})"

    def mine(self, bank: EmbeddingBank, anchors: ArrayLike | None = None) -> Triplets:
        """Mine a whole bank, some anchors at a time."""
        started = time.perf_counter()
        rows = torch.arange(len(bank), device=bank.ids.device)
        if anchors is not None:
            rows = bank.rows(as_ids(anchors, len(anchors), of="anchors")).sort().values
        rows = rows[bank.labels[rows] != UNLABELLED]
        if len(bank) <= self.chunk:
            parts = [self._within(bank, rows)]
        else:
            self._check_positives(bank)
            parts = [self._against(bank, rows[part]) for part in chunks(len(rows), self.chunk)]
        a, p, n = (torch.cat([rows[:0], *(part[place] for part in parts)]) for place in range(3))
        x = bank.embeddings
        return Triplets(
            bank.ids[a],
            bank.ids[p],
            bank.ids[n],
            pair_similarity(x[a], x[p], bank.metric),
            pair_similarity(x[a], x[n], bank.metric),
            _stats(self.miner, bank, rows, a, time.perf_counter() - started),
        )

    def __call__(
        self,
        embeddings: ArrayLike,
        labels: ArrayLike,
        ref_emb: ArrayLike | None = None,
        ref_labels: ArrayLike | None = None,
    ) -> tuple[Int64[Tensor, " t"], Int64[Tensor, " t"], Int64[Tensor, " t"]]:
        """Mine a batch, as PML does."""
        from pytorch_metric_learning.utils.loss_and_miner_utils import convert_to_triplets

        given = [None if part is None else torch.as_tensor(part) for part in (embeddings, labels, ref_emb, ref_labels)]
        if ref_labels is labels:
            given[3] = given[1]  # PML knows a row for itself by the identity of the labels
        found = self.miner(*given)
        a, p, n = convert_to_triplets(found, given[1], given[3])
        return a, p, n

    def state_dict(self) -> dict[str, Any]:
        """Nothing: PML's miners keep no state between calls."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""

    def _within(self, bank: EmbeddingBank, rows: Int64[Tensor, " q"]) -> tuple[Tensor, Tensor, Tensor]:
        a, p, n = self(bank.embeddings, bank.labels)
        asked = torch.isin(a, rows)
        return a[asked], p[asked], n[asked]

    def _check_positives(self, bank: EmbeddingBank) -> None:
        if getattr(self.miner, "pos_strategy", None) == "easy":
            raise ValueError(
                f"{type(self.miner).__name__} takes the nearest positive, and against a bank of {len(bank)} rows PML "
                f"would take each row itself: pass as_miner(miner, chunk={len(bank)}), or use EasyPositiveMiner()"
            )

    def _against(self, bank: EmbeddingBank, rows: Int64[Tensor, " q"]) -> tuple[Tensor, Tensor, Tensor]:
        a, p, n = self(bank.embeddings[rows], bank.labels[rows], bank.embeddings, bank.labels)
        anchor = rows[a]
        proper = anchor != p
        return anchor[proper], p[proper], n[proper]


def _stats(miner: Any, bank: EmbeddingBank, rows: Tensor, served: Tensor, seconds: float) -> MiningStats:
    _, inverse, counts = bank.labels.unique(return_inverse=True, return_counts=True)
    of_class = counts[inverse[rows]]
    no_positive, no_negative = int((of_class == 1).sum()), int((of_class == len(bank)).sum())
    left = len(rows) - len(served.unique())
    return MiningStats(
        anchors=len(rows),
        no_positive=no_positive,
        no_negative=no_negative,
        outside_window=max(0, left - no_positive - no_negative),
        search=SearchStats(engine=f"pml:{type(miner).__name__}"),
        seconds=seconds,
        max_age=bank.max_age,
    )


@cache
def _loss_class(name: str) -> type[nn.Module]:
    from pytorch_metric_learning.losses import BaseMetricLossFunction

    class Adapted(BaseMetricLossFunction):
        def __init__(self, loss: PairLoss) -> None:
            super().__init__()
            self.loss = loss

        def __reduce__(self) -> tuple[Any, ...]:
            return as_loss, (self.loss,), self.__dict__  # a class made in a function has no name to be found by

        def compute_loss(
            self,
            embeddings: Tensor,
            labels: Tensor | None,
            indices_tuple: tuple[Tensor, ...] | None,
            ref_emb: Tensor,
            ref_labels: Tensor | None,
        ) -> dict[str, dict[str, Any]]:
            itself = ref_emb is embeddings and ref_labels is labels
            value = self.loss(embeddings, labels, indices_tuple, *((None, None) if itself else (ref_emb, ref_labels)))
            return {"loss": {"losses": value, "indices": None, "reduction_type": "already_reduced"}}

    Adapted.__name__ = Adapted.__qualname__ = name
    return Adapted


@cache
def _miner_class() -> type[nn.Module]:
    from pytorch_metric_learning.miners import BaseMiner

    class Adapted(BaseMiner):
        def __init__(self, miner: Any) -> None:
            super().__init__()
            self.miner = miner

        def mine(self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor) -> tuple[Tensor, ...]:
            return self.miner(embeddings, labels, ref_emb, ref_labels)

        def get_extra_state(self) -> dict[str, Any]:
            return self.miner.state_dict() if hasattr(self.miner, "state_dict") else {}

        def set_extra_state(self, state: Mapping[str, Any]) -> None:
            if hasattr(self.miner, "load_state_dict"):
                self.miner.load_state_dict(state)

        def __reduce__(self) -> tuple[Any, ...]:
            return as_miner, (self.miner,), self.__dict__

    return Adapted
