"""Intervals of AUC, EER and TAR, and of their paired differences, by the bootstrap over identities.

Letters: b draws.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from legolas_metric.evaluation.bootstrap import Difference, check_level
from legolas_metric.evaluation.identity_pairs import Pairs, PairsGiven, drawn_rates, percentiles
from legolas_metric.evaluation.operating import OperatingPoints

_BORDERS = 1024
_NOTHING = (math.nan, math.nan)


@dataclass(frozen=True, slots=True, eq=False)
class IdentifiedPairs:
    """Pairs that know their identities, and what one encoder's verification of them came to."""

    pairs: Pairs
    points: OperatingPoints
    auc: float
    eer: float
    tar_at_far: Mapping[float, float]

    def figures(self) -> dict[str, float]:
        """The measures that have intervals, by name."""
        return {"auc": self.auc, "eer": self.eer} | {f"tar_at_far_{far:g}": tar for far, tar in self.tar_at_far.items()}

    def drawn(self, *, resamples: int, seed: int) -> dict[str, Float64[Tensor, " b"]] | None:
        """The measures in each draw, on at most 1,024 of the known similarities; None of one identity."""
        rates = drawn_rates(self.pairs, self.points.some_levels(_BORDERS), resamples=resamples, seed=seed)
        if rates is None:
            return None
        far, tar = rates[0], 1 - rates[1]
        ends = far.new_ones(len(far), 1)
        x, y = torch.cat([ends, far, 0 * ends], 1), torch.cat([ends, tar, 0 * ends], 1)
        area = ((x[:, :-1] - x[:, 1:]) * (y[:, :-1] + y[:, 1:])).sum(1) / 2
        crossing = (far + tar - 1).abs().argmin(1, keepdim=True)
        equal = ((far + 1 - tar) / 2).gather(1, crossing)[:, 0]
        accepted = {f"tar_at_far_{rate:g}": tar.masked_fill(far > rate, 0.0).amax(1) for rate in self.tar_at_far}
        return {"auc": area, "eer": equal, **accepted}

    def intervals(self, *, level: float, resamples: int, seed: int) -> dict[str, tuple[float, float]]:
        """Intervals of all measures."""
        check_level(level)
        drawn = self.drawn(resamples=resamples, seed=seed)
        if drawn is None:
            return dict.fromkeys(self.figures(), _NOTHING)
        return {name: percentiles(values, level) for name, values in drawn.items()}


def paired_differences(
    own: IdentifiedPairs,
    other: IdentifiedPairs,
    measures: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Own less other, both in the same draws of identities; of all measures that both hold, unless some are named.

    Raises:
        ValueError: an unknown measure, other pairs, or a level outside (0, 1).
    """
    check_level(level)
    then = other.figures()
    change = {name: value - then[name] for name, value in own.figures().items() if name in then}
    for measure in measures or ():
        if measure not in change:
            raise ValueError(f"measure must be one of {', '.join(change)}, got {measure!r}")
    if not _same(own.pairs, other.pairs):
        raise ValueError("the baseline is of other pairs: evaluate both on the same rows, labels and groups")
    after = own.drawn(resamples=resamples, seed=seed)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of few identities, once is enough
        before = other.drawn(resamples=resamples, seed=seed)
    found = {}
    for name in change if measures is None else measures:
        low, high = _NOTHING if after is None or before is None else percentiles(after[name] - before[name], level)
        shown, identities = low > 0 or high < 0, own.pairs.identities
        found[name] = Difference(value=change[name], low=low, high=high, identities=identities, shown=shown)
    return found


def _same(first: Pairs, second: Pairs) -> bool:
    """Whether pairs are of the same identities, row by row."""
    if isinstance(first, PairsGiven) and isinstance(second, PairsGiven):
        return torch.equal(first.who, second.who) and torch.equal(first.genuine, second.genuine)
    if isinstance(first, PairsGiven) or isinstance(second, PairsGiven):
        return False
    mine, theirs = first.rows, second.rows
    columns = ((mine.labels, theirs.labels), (mine.groups, theirs.groups))
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in columns)
