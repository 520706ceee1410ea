"""Collapse probes: over a whole table, or over batches as they come."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float64
from torch import Tensor

from legolas_metric.checks import ArrayLike, as_embeddings, as_labels
from legolas_metric.numerics import chunks
from legolas_metric.probes.iid import iid_eigenvalues
from legolas_metric.probes.report import CollapseReport
from legolas_metric.probes.spectrum import effective_rank, eigenvalues, participation_ratio, top_share
from legolas_metric.probes.verdict import judge

_CHUNK_ELEMENTS = 1 << 20


class CollapseProbe:
    """Collapse measures of rows that come in batches, in O(d^2) memory and float64.

    The result does not depend on how the rows were cut into batches (to 1e-9).

    Example:
        >>> import torch
        >>> probe = CollapseProbe()
        >>> for _ in range(4):
        ...     probe = probe.update(torch.randn(100, 8))
        >>> probe.compute().n
        400
    """

    def __init__(self) -> None:
        self._n = 0
        self._first: Float64[Tensor, " d"] | None = None
        self._second: Float64[Tensor, "d d"] | None = None
        self._norms = torch.zeros(2, dtype=torch.float64)

    def update(self, embeddings: ArrayLike, labels: ArrayLike | None = None) -> "CollapseProbe":
        """Take the rows of a batch; returns self.

        Args:
            embeddings: [b, d], any float width; made unit here.
            labels: [b] integers, -1 for unlabelled.

        Raises:
            TypeError: embeddings that are not floating point, labels that are not integers.
            ValueError: NaN or inf, zero rows, lengths that differ, or another d than before.
        """
        rows = as_embeddings(embeddings, metric="cosine")
        if labels is not None:
            as_labels(labels, len(rows))
        d = rows.shape[1]
        if self._first is None or self._second is None:
            self._first = rows.new_zeros(d, dtype=torch.float64)
            self._second = rows.new_zeros(d, d, dtype=torch.float64)
        if len(self._first) != d:
            raise ValueError(
                f"embeddings has {d} dimensions, the rows before had {len(self._first)}: they must be equal"
            )
        for part in chunks(len(rows), max(1, _CHUNK_ELEMENTS // d)):
            wide = rows[part].double()
            norm = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
            unit = wide / norm
            self._first += unit.sum(0)
            self._second.addmm_(unit.T, unit)
            self._norms += torch.stack([norm.sum(), norm.square().sum()]).cpu()
        self._n += len(rows)
        return self

    def compute(self) -> CollapseReport:
        """The report on all rows so far; more may follow.

        Raises:
            ValueError: no rows yet.
        """
        if self._first is None or self._second is None:
            raise ValueError("a CollapseProbe needs rows before compute(): call update(embeddings) first")
        n, d = self._n, len(self._first)
        mean, second = self._first / n, self._second / n
        uncentred = eigenvalues(second, min(n, d), 1.0)
        centred = eigenvalues(second - mean[:, None] * mean, min(n - 1, d), 1.0)
        norm_mean, norm_square = (self._norms / n).tolist()
        report = replace(
            _report(n, d, min(float(mean @ mean), 1.0), centred, uncentred),
            norm_mean=norm_mean,
            norm_std=math.sqrt(max(norm_square - norm_mean**2, 0.0)),
            baseline=iid_report(n, d),
        )
        verdict, evidence, remedy = judge(report)
        return replace(report, verdict=verdict, evidence=evidence, remedy=remedy)


def probe_embeddings(embeddings: ArrayLike, labels: ArrayLike | None = None) -> CollapseReport:
    """Collapse measures of a whole table of embeddings, beside those of iid rows, with a verdict.

    Looks at unit rows, x / |x|; the norms of the rows as given are reported beside.

    Args:
        embeddings: [n, d], any float width.
        labels: [n] integers, -1 for unlabelled.

    Returns:
        A `CollapseReport`; its `baseline` holds the same measures of iid rows at the same n and d.

    Raises:
        TypeError: embeddings that are not floating point, labels that are not integers.
        ValueError: empty, NaN or inf, zero rows, or lengths that differ.

    Example:
        >>> import torch
        >>> line = torch.linspace(-1, 1, 50)[:, None] * torch.tensor([[3.0, 4.0]])
        >>> report = probe_embeddings(line)
        >>> round(report.top1_variance, 3), round(report.effective_rank, 3)
        (1.0, 1.0)
    """
    return CollapseProbe().update(embeddings, labels).compute()


def iid_report(n: int, d: int) -> CollapseReport:
    """Expected measures of n iid rows, uniform on the unit sphere in d dimensions, by the Marchenko-Pastur law."""
    return _report(n, d, 1 / n, iid_eigenvalues(n, d, centred=True), iid_eigenvalues(n, d, centred=False))


def _report(
    n: int, d: int, square: float, centred: Float64[Tensor, " r"], uncentred: Float64[Tensor, " q"]
) -> CollapseReport:
    return CollapseReport(
        n=n,
        d=d,
        mean_cosine=(n * square - 1) / (n - 1) if n > 1 else 1.0,
        resultant_length=math.sqrt(square),
        effective_rank=effective_rank(centred),
        effective_rank_uncentred=effective_rank(uncentred),
        top1_variance=top_share(centred),
        participation_ratio=participation_ratio(centred),
        spectrum=(n * centred).sqrt(),
        norm_mean=None,
        norm_std=None,
        baseline=None,
        verdict="healthy",
        evidence=(),
        remedy="",
    )
