"""Confidence intervals of means, by the bootstrap over identities, groups, or both (Efron 1979, Owen 2007).

Legend: q queries, m measures, c cells (identities, groups, or pairs of both), u and v what is drawn, b resamples.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import check_choice, check_whole
from legolas_metric.geometry import chunks

FEW_IDENTITIES = 10
"""Below this many an interval says little, and a warning says so."""

Over = Literal["identities", "groups", "both"]
Drawn = tuple[Int64[Tensor, " q"], Int64[Tensor, " q"] | None]
"""The identity and, where there are groups, the group of each query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far two encoders lie apart on the same queries, or the same pairs.

    Attributes:
        value: figure of the one less figure of the other; above 0 is better (below, of an EER).
        low, high: its interval.
        identities: how many were drawn from (groups, where those are drawn; the fewer of both).
        shown: whether the interval leaves out 0.

    Example:
        >>> import torch
        >>> from legolas_metric import evaluate_ranking
        >>> y = torch.arange(80) // 4
        >>> x = torch.eye(20)[y] + torch.randn(80, 20, generator=torch.Generator().manual_seed(0))
        >>> report = evaluate_ranking(torch.eye(20)[y], y, baseline=x)
        >>> found = report.difference()
        >>> found.value > 0, found.shown, found.identities
        (True, True, 20)
        >>> print(found)
        +0.925 [+0.850, +1.000] over 20 identities: shown

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap; over identities, Bolle et al. (2004).
    """

    value: float
    low: float
    high: float
    identities: int
    shown: bool

    def __str__(self) -> str:
        shown = "shown" if self.shown else "not shown"
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}] over {self.identities} identities: {shown}"


def intervals(
    columns: Mapping[str, Float64[Tensor, " q"]],
    drawn: Drawn,
    *,
    over: Over = "identities",
    level: float,
    resamples: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of column means when whole identities (or groups) are drawn with replacement.

    Raises:
        ValueError: a level outside (0, 1), no resamples, or an unknown `over`.
    """
    low, high, _ = _percentiles(torch.stack(list(columns.values()), 1), drawn, over, level, resamples, seed)
    return {name: (low[i], high[i]) for i, name in enumerate(columns)}


def paired_difference(
    change: Float64[Tensor, " q"], drawn: Drawn, *, over: Over, level: float, resamples: int, seed: int
) -> Difference:
    """The mean change of each query with its interval, as `intervals` has it."""
    (low,), (high,), units = _percentiles(change[:, None], drawn, over, level, resamples, seed)
    shown = low > 0 or high < 0
    return Difference(value=float(change.mean()), low=low, high=high, identities=units, shown=shown)


def _percentiles(
    values: Float64[Tensor, "q m"], drawn: Drawn, over: Over, level: float, resamples: int, seed: int
) -> tuple[list[float], list[float], int]:
    """(low, high) of each column's mean, and how many identities (or groups) were drawn from."""
    check_choice("over", over, get_args(Over))
    check_level(level)
    resamples = check_whole("resamples", resamples, 1)
    identities, groups = drawn
    factors = [identities] if over == "identities" else [groups] if over == "groups" else [identities, groups]
    names = torch.stack([factor.cpu() for factor in factors if factor is not None], 1)
    places = [column.unique(return_inverse=True)[1] for column in names.unbind(1)]
    units = [int(place.max()) + 1 for place in places]
    fewest = min(units)
    if fewest < FEW_IDENTITIES:
        what = "groups" if over == "groups" or (over == "both" and units[1] == fewest) else "identities"
        warnings.warn(f"an interval over {fewest} {what} says little: ten or more are needed", stacklevel=4)
    if fewest < 2:
        return [math.nan] * values.shape[1], [math.nan] * values.shape[1], fewest
    cells, which, count = torch.stack(places, 1).unique(dim=0, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(cells), values.shape[1], dtype=torch.float64).index_add_(0, which, values.cpu())
    generator = torch.Generator().manual_seed(seed)
    means = []
    for part in chunks(resamples, rows_for(BLOCK, 16 * (sum(units) + len(cells)))):
        weight = torch.ones(part.stop - part.start, len(cells), dtype=torch.float64)
        for place, unit in zip(cells.unbind(1), units):
            weight *= draws(part.stop - part.start, unit, generator)[:, place]
        means.append((weight @ sums) / (weight @ count.double())[:, None])
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    # Groups and identities drawn at once may miss each other, where few of the pairs exist: such a draw has no mean.
    low, high = torch.cat(means).nanquantile(tail, dim=0)
    return low.tolist(), high.tolist(), fewest


def check_level(level: float) -> None:
    """Refuse a level that is no share of the draws."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")


def draws(resamples: int, units: int, generator: torch.Generator) -> Float64[Tensor, "b u"]:
    """How often each of `units` is drawn, of as many draws with replacement."""
    drawn = torch.randint(units, (resamples, units), generator=generator)
    return torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape).double())
