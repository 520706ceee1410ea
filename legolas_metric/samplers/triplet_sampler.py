"""Batches in which mined triplets lie whole, each row once."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt64
from torch import Tensor

from legolas_metric.checks import ArrayLike, check_whole
from legolas_metric.lookup import lookup
from legolas_metric.records import Triplets
from legolas_metric.rows import as_ids
from legolas_metric.samplers.draws import TRIPLETS, fingerprint, random_bits, random_order, stable_order
from legolas_metric.samplers.epochs import PlannedSampler, checked_place
from legolas_metric.signatures import typed

_LEVELS = 3  # of families; each brings fewer triplets together than the one before
_MOST_ROWS = 2**31  # larger numbers are no rows of a data set


def plan_epoch(
    rows: Int64[np.ndarray, "t 3"], batch_size: int, *, epoch: int = 0, seed: int = 0
) -> tuple[Int64[Tensor, " b"], ...]:
    """Row numbers of an epoch's batches: triplets that share rows side by side, else in random order, cut into batches.

    A batch takes triplets while the rows that they add fit. Side by side, triplets need a shared row once, so that more
    of them fit; the neighbourhoods that stand side by side are small and drawn anew each epoch.

    Args:
        rows: [t, 3], the rows of each triplet, numbered from 0 without gaps: memory grows with the largest number.
        batch_size: most rows of a batch, at least 3.
        epoch, seed: of the order.
    """
    ordered = rows[_sharing_order(rows, epoch, seed)]
    before = _previous(ordered)
    bounds = _cuts(before, batch_size)
    begin = np.repeat(bounds[:-1], np.diff(bounds))
    first = before < begin[:, None]  # the first time that the row occurs in its batch
    sizes = np.add.reduceat(first.sum(1), bounds[:-1])
    return torch.from_numpy(ordered[first]).split(sizes.tolist())


def filled(batches: Sequence[Tensor], batch_size: int) -> list[Tensor]:
    """The same batches, with rows of those that come next in the places that are left; the first follow the last."""
    full = []
    for place, batch in enumerate(batches):
        for later in range(1, len(batches)):
            if len(batch) == batch_size:
                break
            other = batches[(place + later) % len(batches)]
            batch = torch.cat([batch, other[~torch.isin(other, batch)][: batch_size - len(batch)]])
        full.append(batch)
    return full


class TripletSampler(PlannedSampler):
    """Batches that hold anchor, positive and negative of every mined triplet, so that all three get gradients.

    An epoch holds each triplet whole in at least one batch. A batch holds a row once, and at most `batch_size` rows;
    `triplets.locate(ids of the batch)` finds all triplets that lie in it.

    Args:
        triplets: mined triplets, by id.
        batch_size: most rows of a batch, at least 3.
        ids: [n], ids[i] names row i of the data set (default: an id is the row number). A triplet with an id that is
            not among them is left out, and counted in `dropped`.
        seed: of the order.
        fill: fill the places that a batch has left with rows of the batches that come next, so that all have
            `batch_size` rows; fewer only where the triplets have fewer altogether.
        rank, world_size: this process, and how many there are: rank r hands out batches r, r + world_size, ... of the
            same epoch; where the last round is not full, the epoch's first batches fill it.

    Behaviour in corner cases:
        - Triplets that share rows need those rows once, so a batch holds at least floor(batch_size / 3) triplets
          (the last one may hold fewer), and the length of an epoch depends on its order: `len` is that of the current
          epoch, exactly.
        - Each iteration hands out the next epoch, unless `set_epoch` is used, as Lightning does.
        - A triplet may lie by chance in further batches; `locate` finds it there too.
        - Rows of no triplet are never drawn. Without `fill` a batch may have fewer than `batch_size` rows, where the
          next triplet would add more than the rows that are left.

    Raises:
        TypeError: triplets that are none.
        ValueError: batch_size below 3, no triplets, repeated ids, none of the triplets in the data set, or ids that
            cannot be row numbers where none are given.

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

    Source: ours.
    """

    @typed
    def __init__(
        self,
        triplets: Triplets,
        batch_size: int,
        *,
        ids: ArrayLike | None = None,
        seed: int = 0,
        fill: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        rank, world_size, seed = checked_place(rank, world_size, seed)
        super().__init__(rank, world_size)
        if not isinstance(triplets, Triplets):
            raise TypeError(f"triplets must be Triplets, as a miner's mine() returns, got {type(triplets).__name__}")
        batch_size = check_whole("batch_size", batch_size, 3)
        if len(triplets) == 0:
            raise ValueError("no triplets: the miner found none, see triplets.stats for the reasons")
        names = torch.stack([triplets.anchor, triplets.positive, triplets.negative], 1).cpu().numpy()
        rows = names if ids is None else _rows_of(names, ids)
        if len(rows) == 0:
            raise ValueError("none of the triplets lies in the data set: pass the ids under which the rows were mined")
        self.batch_size, self.seed, self.fill = batch_size, seed, fill
        self._dropped = len(names) - len(rows)
        if rows.max() >= _MOST_ROWS:
            raise ValueError(f"ids up to {rows.max()} were taken for row numbers: pass ids, the id of each row")
        # Planned by numbers of their own, 0, 1, ..., so that memory follows the triplets and not the row numbers.
        self._names, numbers = np.unique(rows, return_inverse=True)
        self._rows = numbers.reshape(rows.shape)
        self._fingerprint = fingerprint(rows.ravel())
        self._planned: tuple[int, Sequence[Tensor]] | None = None

    def __repr__(self) -> str:
        return f"TripletSampler({len(self._rows)} triplets, batch_size={self.batch_size}, {self.dropped} dropped)"

    def _steps(self) -> int:
        return len(self.plan())

    @property
    def dropped(self) -> int:
        """Triplets left out because the data set lacks one of their rows: an id that is not among `ids`."""
        return self._dropped

    def plan(self) -> Sequence[Int64[Tensor, " b"]]:
        """This rank's batches of the current epoch."""
        if self._planned is None or self._planned[0] != self.epoch:
            numbered = plan_epoch(self._rows, self.batch_size, epoch=self.epoch, seed=self.seed)
            numbered = filled(numbered, self.batch_size) if self.fill else numbered
            names = torch.from_numpy(self._names)
            batches = [names[batch] for batch in numbered]
            places = range(self.rank, -(-len(batches) // self.world_size) * self.world_size, self.world_size)
            self._planned = (self.epoch, [batches[place % len(batches)] for place in places])
        return self._planned[1]

    def settings(self) -> dict[str, int]:
        """What a saved state must agree with."""
        own = {"batch_size": self.batch_size, "seed": self.seed, "world_size": self.world_size}
        return own | {"fill": int(self.fill), "data": self._fingerprint}


def _rows_of(names: Int64[np.ndarray, "t 3"], ids: ArrayLike) -> Int64[np.ndarray, "u 3"]:
    """Row numbers of the triplets that lie in the data set."""
    known = as_ids(ids, None).cpu()
    rows, found = lookup(torch.from_numpy(names).flatten(), known)
    return rows.view(-1, 3)[found.view(-1, 3).all(1)].numpy()


def _sharing_order(rows: Int64[np.ndarray, "t 3"], epoch: int, seed: int) -> Int64[np.ndarray, " t"]:
    """Triplets in an order that is random, but for families that share rows and stand side by side.

    Min-wise hashing (Broder 1997): a triplet joins the family of that row of its own with the least random number, so
    triplets meet the more likely, the more rows they share. Rows of many triplets draw lower numbers. Then families
    join families in the same way, by the rows that more than one of them uses.
    """
    rows_flat, uses = rows.ravel(), np.bincount(rows.ravel())
    family = np.arange(len(rows))
    levels = []
    for level in range(_LEVELS):
        member = np.repeat(family, 3)
        first, last = np.full(len(uses), len(rows)), np.full(len(uses), -1)
        np.minimum.at(first, rows_flat, member)
        np.maximum.at(last, rows_flat, member)
        draw = _exponential(random_bits(seed, TRIPLETS, epoch, level, np.arange(len(uses)))) / np.maximum(uses, 1)
        draw[first == last] = np.inf  # no other family to meet
        family = _numbered(_joined(rows, draw, family))
        levels.append(family)
    place = random_order(seed, TRIPLETS, epoch, _LEVELS, np.arange(len(rows)))
    order = np.arange(len(rows))
    for key in (*levels[:-1], place[family]):
        order = order[stable_order(key[order])]
    return order


def _joined(
    rows: Int64[np.ndarray, "t 3"], draw: Float64[np.ndarray, " u"], family: Int64[np.ndarray, " t"]
) -> Int64[np.ndarray, " t"]:
    """For each triplet, the row with the least draw of its family; a number of its own where that is infinite."""
    own = [draw[column] for column in rows.T]
    least = np.minimum(np.minimum(own[0], own[1]), own[2])
    chosen = np.where(own[0] == least, rows[:, 0], np.where(own[1] == least, rows[:, 1], rows[:, 2]))
    best = np.full(len(rows), np.inf)
    np.minimum.at(best, family, least)
    home = len(draw) + np.arange(len(rows))
    found = np.isfinite(least) & (least == best[family])
    home[family[found]] = chosen[found]
    return home[family]


def _numbered(values: Int64[np.ndarray, " t"]) -> Int64[np.ndarray, " t"]:
    """The same partition, numbered 0, 1, ..."""
    used = np.zeros(int(values.max()) + 1, bool)
    used[values] = True
    return (np.cumsum(used) - 1)[values]


def _exponential(bits: UInt64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return -np.log(((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)


def _previous(rows: Int64[np.ndarray, "t 3"]) -> Int64[np.ndarray, "t 3"]:
    """The triplet in which each row occurred last (possibly the same one), -1 where none did."""
    flat = rows.ravel()
    order = stable_order(flat)
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
