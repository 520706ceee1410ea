"""Batches in which mined triplets lie whole, each row once."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike, as_ids, check_at_least
from legolas_metric.records import Triplets
from legolas_metric.samplers.draws import TRIPLETS, random_order
from legolas_metric.samplers.epochs import PlannedSampler, fingerprint


def plan_epoch(
    rows: Int64[np.ndarray, "t 3"], batch_size: int, *, epoch: int = 0, seed: int = 0
) -> tuple[Int64[Tensor, " b"], ...]:
    """Row numbers of an epoch's batches: triplets in random order, cut where the next one would pass the row budget.

    Args:
        rows: [t, 3], the rows of each triplet.
        batch_size: most rows of a batch, at least 3.
        epoch, seed: of the order.
    """
    ordered = rows[random_order(seed, TRIPLETS, epoch, np.arange(len(rows)))]
    before = _previous(ordered)
    bounds = _cuts(before, batch_size)
    begin = np.repeat(bounds[:-1], np.diff(bounds))
    first = before < begin[:, None]  # the first time that the row occurs in its batch
    sizes = np.add.reduceat(first.sum(1), bounds[:-1])
    return torch.from_numpy(ordered[first]).split(sizes.tolist())


class TripletSampler(PlannedSampler):
    """Batches that hold anchor, positive and negative of every mined triplet, so that all three get gradients.

    An epoch holds each triplet whole in at least one batch. A batch holds a row once, and at most `batch_size` rows;
    `triplets.locate(ids of the batch)` finds all triplets that lie in it.

    Args:
        triplets: mined triplets, by id.
        batch_size: most rows of a batch, at least 3.
        ids: [n], ids[i] names row i of the data set (default: an id is the row number).
        seed: of the order.

    Attributes:
        dropped: triplets left out because the data set lacks one of their rows (an id that is not among `ids`).

    Behaviour in corner cases:
        - Triplets that share rows need those rows once, so a batch holds at least floor(batch_size / 3) triplets
          (the last one may hold fewer), and the length of an epoch depends on its order: `len` is that of the current
          epoch, exactly.
        - Rows of no triplet are never drawn.

    Raises:
        ValueError: batch_size below 3, no triplets, repeated ids, or none of the triplets in the data set.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, HardMiner, TripletSampler
        >>> bank = EmbeddingBank(torch.randn(60, 8), torch.arange(60) // 5)
        >>> triplets = HardMiner().mine(bank)
        >>> sampler = TripletSampler(triplets, batch_size=12)
        >>> batch = next(iter(sampler))
        >>> a, p, n = triplets.locate(torch.tensor(batch))
        >>> len(batch) <= 12, len(a) >= 4
        (True, True)
    """

    def __init__(self, triplets: Triplets, batch_size: int, *, ids: ArrayLike | None = None, seed: int = 0) -> None:
        super().__init__()
        check_at_least("batch_size", batch_size, 3)
        if len(triplets) == 0:
            raise ValueError("no triplets: the miner found none, see triplets.stats for the reasons")
        names = torch.stack([triplets.anchor, triplets.positive, triplets.negative], 1).cpu().numpy()
        rows, inside = (names, np.ones(len(names), bool)) if ids is None else _rows_of(names, ids)
        if not inside.any():
            raise ValueError("none of the triplets lies in the data set: pass the ids under which the rows were mined")
        self.batch_size, self.seed = batch_size, seed
        self.dropped = int((~inside).sum())
        self._rows = rows[inside]
        self._fingerprint = fingerprint(self._rows.ravel())
        self._planned: tuple[int, Sequence[Tensor]] | None = None

    def __repr__(self) -> str:
        return f"TripletSampler({len(self._rows)} triplets, batch_size={self.batch_size}, {self.dropped} dropped)"

    def __len__(self) -> int:
        return len(self.plan())

    def plan(self) -> Sequence[Int64[Tensor, " b"]]:
        """The batches of the current epoch."""
        if self._planned is None or self._planned[0] != self.epoch:
            self._planned = (self.epoch, plan_epoch(self._rows, self.batch_size, epoch=self.epoch, seed=self.seed))
        return self._planned[1]

    def settings(self) -> dict[str, int]:
        """What a saved state must agree with."""
        return {"batch_size": self.batch_size, "seed": self.seed, "data": self._fingerprint}


def _rows_of(names: Int64[np.ndarray, "t 3"], ids: ArrayLike) -> tuple[Int64[np.ndarray, "t 3"], np.ndarray]:
    known = as_ids(ids, len(ids), of="the data set").cpu().numpy()
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known[order], names).clip(max=len(known) - 1)
    return order[place], (known[order[place]] == names).all(1)


def _previous(rows: Int64[np.ndarray, "t 3"]) -> Int64[np.ndarray, "t 3"]:
    """The triplet in which each row occurred last (possibly the same one), -1 where none did."""
    flat = rows.ravel()
    order = np.argsort(flat, kind="stable")
    again = flat[order[1:]] == flat[order[:-1]]
    before = np.full(len(flat), -1)
    before[order[1:][again]] = order[:-1][again] // 3
    return before.reshape(-1, 3)


def _cuts(before: Int64[np.ndarray, "t 3"], batch_size: int) -> Int64[np.ndarray, " b1"]:
    """Where batches begin, and where the last one ends: each takes triplets while their new rows fit."""
    cuts, look = [0], batch_size
    while cuts[-1] < len(before):
        begin = cuts[-1]
        used = (before[begin : begin + look] < begin).sum(1).cumsum()
        fitting = int(np.searchsorted(used, batch_size, side="right"))
        if fitting == look:
            look *= 2  # all that was looked at fits, so more may
        else:
            cuts.append(begin + fitting)
    return np.array(cuts)
