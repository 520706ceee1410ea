"""Confidence intervals of means, by the bootstrap over identities (Efron 1979)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.checks import check_at_least
from legolas_metric.geometry import chunks

_CHUNK_ELEMENTS = 1 << 22


def intervals(
    columns: Mapping[str, Float64[Tensor, " q"]],
    identities: Int64[Tensor, " q"],
    *,
    level: float,
    resamples: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of column means when whole identities are drawn with replacement.

    Raises:
        ValueError: a level outside (0, 1), or no resamples.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    check_at_least("resamples", resamples, 1)
    unique, place, count = identities.cpu().unique(return_inverse=True, return_counts=True)
    values = torch.stack([column.cpu() for column in columns.values()], 1)
    sums = torch.zeros(len(unique), len(columns), dtype=torch.float64).index_add_(0, place, values)
    generator = torch.Generator().manual_seed(seed)
    means = []
    for part in chunks(resamples, max(1, _CHUNK_ELEMENTS // len(unique))):
        drawn = torch.randint(len(unique), (part.stop - part.start, len(unique)), generator=generator)
        weight = torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape).double())
        means.append((weight @ sums) / (weight @ count.double())[:, None])
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(means).quantile(tail, dim=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(columns)}
