"""The fused pool: a batch's choices from float32 or int16 products, each rule in one compiled pass over a block.

The choices are those of `ScreenedPool`, which makes them by calls of torch. A call costs ten microseconds whatever it
does, and small batches need a hundred.

Letters: q anchors, n rows, m pairs or positives, k negatives, s positive and t negative pairs.
"""

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.compiled.jit import arrays
from legolas_metric.compiled.panels import PANELS
from legolas_metric.index.exact.precision import has_int16
from legolas_metric.miners.by_label import Classes
from legolas_metric.miners.dense import DensePool, PairTuple
from legolas_metric.miners.pool import Ranked, Window
from legolas_metric.miners.screened import OverExact, product
from legolas_metric.rows import Rows


class FusedPool(OverExact):
    """A block of anchors on the processor, whose scores may be off by `error` where that changes no choice.

    Similarities that it gives are those that are reported.
    """

    screened = False

    def __init__(self, exact: DensePool, error: float) -> None:
        from legolas_metric.miners import kernels

        super().__init__(exact, error)
        self._passes = kernels
        (own,) = arrays(exact.anchors.embeddings)
        self._sides = (own, own) if exact.anchors is exact.rows else (own, *arrays(exact.rows.embeddings))
        self._parts: tuple[np.ndarray, ...] | None = None

    def positives(self, k: int, *, farthest: bool) -> Ranked:
        """See `Pool`."""
        if k > 1:
            return self.exact.positives(k, farthest=farthest)
        _, row, kept = self._split()
        return _tensors(self._passes.extreme_positive(row, kept, *self._sides, self.error, -1 if farthest else 1))

    def negatives(self, anchor: Int64[Tensor, " m"] | None, k: int, window: Window | None) -> Ranked:
        """See `Pool`."""
        if k > 1:
            return self.exact.negatives(anchor, k, window)
        score = self._split()[0]
        asked = np.arange(len(score)) if anchor is None else arrays(anchor)[0]
        bounds = (_UNBOUND, _UNBOUND) if window is None else arrays(*window)
        return _tensors(self._passes.nearest_negative(score, asked, *bounds, *self._sides, self.error))

    def informative(self, epsilon: float) -> PairTuple:
        """See `DensePool`."""
        nearest, farthest = self.negatives(None, 1, None)[1], self.positives(1, farthest=True)[1]
        parts, extremes = self._split(), arrays(nearest, farthest)
        q = len(self.anchors)
        bounds = np.empty(q, np.float32), np.empty(q, np.float32)
        positives, negatives = np.empty(q, np.int64), np.empty(q, np.int64)
        self._passes.settle(*parts, *self._sides, *extremes, epsilon, self.error, *bounds, positives, negatives)
        s, t = int(positives.sum()), int(negatives.sum())
        a1, p, a2, n = (torch.empty(count + 1, dtype=torch.int64) for count in (s, s, t, t))
        self._passes.informative(*parts, *bounds, *arrays(a1, p, a2, n))
        return a1[:s], p[:s], a2[:t], n[:t]

    def _split(self) -> tuple[np.ndarray, ...]:
        """Scores, -inf but for the negatives; and the positives: rows (-1 for none), scores."""
        if self._parts is None:
            if isinstance(self.relations, Classes):
                own = self.anchors is self.rows and fits_gram(self.rows, self.metric)
                score = self._gram() if own else self._product()
                self._parts = score, *self.relations.split_array(score)
            else:
                score = self._product()
                self._parts = score, *arrays(*self.relations.split_(torch.from_numpy(score)))
        return self._parts

    def _gram(self) -> np.ndarray:
        """Products of the rows with each other, half of them computed, and further columns of -inf."""
        score = gram_room(len(self.rows))
        error = self._passes.gram(self._sides[1], score)
        if error == np.inf:
            return self._product()
        self.error = error
        return score[: len(self.rows)]

    def _product(self) -> np.ndarray:
        return product(self.anchors.embeddings, self.rows.embeddings).numpy()


def fits_gram(rows: Rows, metric: Metric) -> bool:
    """Whether half the products of rows, in int16 and one thread, take less time than all in float32 and threads."""
    n, d = rows.embeddings.shape
    few = n * n * d * torch.get_num_threads() <= _IN_ONE_THREAD
    return few and metric == "cosine" and has_int16(rows.embeddings.device)


def gram_room(n: int) -> np.ndarray:
    """Room for the products of n rows with each other, as the compiled loops fill it."""
    side = (-(-n // PANELS[1]) + 1) * PANELS[1]
    return np.empty((side, side), np.float32)


def plain_triplets(
    rows: Rows, *, farthest: bool, semi_hard: bool, margin: float
) -> tuple[Int64[Tensor, " t"], Int64[Tensor, " t"], Int64[Tensor, " t"]] | None:
    """What `select` chooses for rows that `fits_gram`, in one call; None where some have no label, or all are alike."""
    from legolas_metric.miners import kernels

    assert rows.labels is not None
    sides = arrays(rows.embeddings, rows.labels)
    done, *found = kernels.plain(*sides, -1 if farthest else 1, semi_hard, float(margin), gram_room(len(rows)))
    a, p, n = map(torch.from_numpy, found)
    return (a, p, n) if done else None


_UNBOUND = np.empty(0)
_IN_ONE_THREAD = 1 << 28  # factors and threads, up to which half the products in int16 take one thread less time


def _tensors(found: tuple[np.ndarray, np.ndarray]) -> Ranked:
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])
