"""Our miners as PML's, and PML's as ours."""

import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import UNLABELLED, ArrayLike, check_at_least
from legolas_metric.datasets.labels import class_sizes
from legolas_metric.geometry import chunks, pair_similarity
from legolas_metric.lookup import lookup
from legolas_metric.records import MiningStats, SearchStats, Triplets
from legolas_metric.rows import as_ids

# Settings of a miner that PML's record keeper writes down.
_RECORDS = ("margin", "epsilon", "per_anchor")


def as_miner(miner: Any, *, chunk: int = 1024) -> Any:
    """Our miner as a PML miner, or a PML miner as ours.

    Ours becomes a `BaseMiner`, which `DistributedMinerWrapper`, `CrossBatchMemory` and trainers accept, with PML's
    `num_triplets`, and a class that bears our miner's name, as PML's tables of records do. PML's becomes
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

    Source: ours.
    """
    from pytorch_metric_learning.miners import BaseMiner

    check_at_least("chunk", chunk, 1)
    if isinstance(miner, BaseMiner):
        return PmlMiner(miner, chunk)
    if isinstance(miner, type) or not callable(miner) or not hasattr(miner, "mine"):
        raise TypeError(f"as_miner takes a miner of this library or of PML, got {type(miner)}")
    records = tuple(name for name in _RECORDS if isinstance(getattr(miner, name, None), int | float))
    return _miner_class(type(miner).__name__, records)(miner)


class PmlMiner:
    """A PML miner with the calls of ours; see `as_miner`.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank
        >>> from legolas_metric.interop.pml import as_miner
        >>> from pytorch_metric_learning.miners import BatchHardMiner
        >>> bank = EmbeddingBank(torch.eye(4), [0, 0, 1, 1])
        >>> len(as_miner(BatchHardMiner()).mine(bank)), as_miner(BatchHardMiner()).chunk
        (4, 1024)

    Source: ours.
    """

    def __init__(self, miner: nn.Module, chunk: int) -> None:
        self.miner = miner
        self.chunk = chunk
        self.num_triplets = 0  # of the last call, as PML's miners count them

    def to(self, device: torch.device | str) -> "PmlMiner":
        """Move the miner's tensors, where it has any."""
        self.miner.to(device)
        return self

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
        self.num_triplets = len(a)
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
    classes, sizes = class_sizes(bank.labels)
    of_class = sizes[lookup(bank.labels[rows], classes)[0]]
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
def _miner_class(name: str, records: tuple[str, ...]) -> type[nn.Module]:
    from pytorch_metric_learning.miners import BaseMiner

    class Adapted(BaseMiner):
        def __init__(self, miner: Any) -> None:
            super().__init__()
            self.miner = miner
            self.add_to_recordable_attributes(list_of_names=list(records), is_stat=False)

        def mine(self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor) -> tuple[Tensor, ...]:
            return self.miner(embeddings, labels, ref_emb, ref_labels)

        def get_extra_state(self) -> dict[str, Any]:
            return self.miner.state_dict() if hasattr(self.miner, "state_dict") else {}

        def set_extra_state(self, state: Mapping[str, Any]) -> None:
            if hasattr(self.miner, "load_state_dict"):
                self.miner.load_state_dict(state)

        def __reduce__(self) -> tuple[Any, ...]:
            return as_miner, (self.miner,), self.__dict__

    for record in records:
        setattr(Adapted, record, property(lambda adapted, record=record: getattr(adapted.miner, record)))
    Adapted.__name__ = Adapted.__qualname__ = name  # by which PML's tables of records are called
    return Adapted
