"""ROC measures, exact, from where the genuine scores lie among the impostors; accepted is s >= threshold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

FEWEST_ERRORS = 30
"""Below this many impostor errors a false accept rate is not measured, only guessed."""

SLACK = 1e-12  # 3e-4 * 1e5 is a little less than 30


@dataclass(frozen=True, slots=True)
class RocCounts:
    """Counts at each level, ascending: each distinct genuine score, or each cell of a grid.

    Attributes:
        levels: the scores.
        genuine: genuine pairs with this score.
        above: impostor pairs with a greater score.
        tied: impostor pairs with this score.
        impostors: all impostor pairs.
    """

    levels: Float64[Tensor, " m"]
    genuine: Int64[Tensor, " m"]
    above: Int64[Tensor, " m"]
    tied: Int64[Tensor, " m"]
    impostors: int


def area(counts: RocCounts) -> float:
    """AUC = P(genuine > impostor) + P(genuine = impostor) / 2."""
    below = counts.impostors - counts.above - counts.tied
    wins = counts.genuine.double() @ (below.double() + counts.tied.double() / 2)
    return float(wins) / (float(counts.genuine.sum()) * counts.impostors)


def area_error(counts: RocCounts) -> float:
    """By how much the AUC may err where scores of a level are only known to lie in one cell."""
    ties = counts.genuine.double() @ counts.tied.double()
    return float(ties) / 2 / (float(counts.genuine.sum()) * counts.impostors)


def histogram(counts: RocCounts, edges: Float64[Tensor, " b1"]) -> tuple[Int64[Tensor, " b"], Int64[Tensor, " b"]]:
    """Genuine and impostor pairs in each bin [edge, next edge); the outer bins are open. Edges are levels."""
    place = torch.searchsorted(counts.levels, edges[1:-1])
    genuine = counts.genuine.sum() - counts.genuine.cumsum(0) + counts.genuine
    both = []
    for least, total in ((genuine, int(counts.genuine.sum())), (counts.above + counts.tied, counts.impostors)):
        # Past the last level nothing is left.
        inner = torch.cat([least, least.new_zeros(1)])[place]
        both.append(-torch.cat([inner.new_tensor([total]), inner, inner.new_zeros(1)]).diff())
    return both[0], both[1]


def curve(counts: RocCounts) -> tuple[Float64[Tensor, " v"], Float64[Tensor, " v"]]:
    """Corners of the ROC curve from (0, 0) to (1, 1): false accept rates and true accept rates."""
    accepted = counts.genuine.flip(0).cumsum(0).double() / float(counts.genuine.sum())
    before = torch.cat([accepted.new_zeros(1), accepted[:-1]])
    above, tied = counts.above.flip(0).double(), counts.tied.flip(0).double()
    far = torch.stack([above, above + tied], 1).flatten() / counts.impostors
    tar = torch.stack([before, accepted], 1).flatten()
    return torch.cat([far, far.new_ones(1)]), torch.cat([tar, tar.new_ones(1)])


def corners(far: Float64[Tensor, " v"], tar: Float64[Tensor, " v"], most: int) -> Int64[Tensor, " s"]:
    """A choice of at most `most` corners for a plot, even in log FAR and in TAR."""
    if len(far) <= most:
        return torch.arange(len(far), device=far.device)
    least = float(far[far > 0].min()) if bool((far > 0).any()) else 1.0
    grid = torch.logspace(math.log10(least), 0, most // 2 - 2, dtype=torch.float64, device=far.device)
    rise = torch.linspace(0, 1, most // 2 - 2, dtype=torch.float64, device=far.device)
    chosen = torch.cat([torch.searchsorted(far, grid), torch.searchsorted(tar, rise), grid.new_tensor([0]).long()])
    return torch.cat([chosen.clamp_max(len(far) - 1), chosen.new_tensor([len(far) - 1])]).unique()


def equal_error_rate(counts: RocCounts) -> float:
    """EER: where FAR = 1 - TAR on the curve, linear between its corners."""
    far, tar = curve(counts)
    excess = far + tar - 1  # ascends from -1 or more to 1
    after = int((excess >= 0).nonzero()[0])
    if after == 0 or float(excess[after]) == 0:
        return float(far[after] + 1 - tar[after]) / 2
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(far[after - 1] + share * (far[after] - far[after - 1]))


def true_accept_rates(counts: RocCounts, fars: Sequence[float]) -> Mapping[float, float]:
    """far -> the greatest TAR of any threshold whose share of accepted impostors is at most far."""
    errors = (counts.above + counts.tied).double()
    accepted = counts.genuine.flip(0).cumsum(0).flip(0).double() / float(counts.genuine.sum())
    rates = {}
    for far in fars:
        within = errors <= far * counts.impostors * (1 + SLACK)
        rates[far] = float(accepted[within].max()) if bool(within.any()) else 0.0
    return rates


def too_few_errors(fars: Sequence[float], impostors: int) -> tuple[float, ...]:
    """False accept rates that stand for fewer than 30 impostor pairs."""
    return tuple(far for far in fars if far * impostors < FEWEST_ERRORS * (1 - SLACK))
