"""How far apart rows of one class lie, and rows of different classes: over all pairs, from class sums."""

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.budgets import CACHE, rows_for
from legolas_metric.checks import UNLABELLED
from legolas_metric.geometry import chunks


def mean_squared_distances(rows: Float32[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> tuple[float, float]:
    """Mean |x - y|^2 over all pairs of one class (intra), and over all pairs of different labels (inter).

    For a class of m rows with sum S, the sum over its pairs is m sum |x|^2 - |S|^2; the pairs of different labels are
    all pairs, less those of one class, less those of two unlabelled rows, whose relation is unknown. For unit rows
    |x - y|^2 = d^2 = 2 - 2 s. O(n d) in float64.

    Returns:
        (intra, inter); NaN where there is no such pair.
    """
    classes, place, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(classes), rows.shape[1], dtype=torch.float64, device=rows.device)
    squares = torch.zeros(len(classes), dtype=torch.float64, device=rows.device)
    # |x - y|^2 does not change when all rows are shifted: centred rows lose fewer digits.
    centre = rows.mean(0, dtype=torch.float64)
    for part in chunks(len(rows), rows_for(CACHE, 16 * rows.shape[1])):
        wide = rows[part].double() - centre
        sums.index_add_(0, place[part], wide)
        squares.index_add_(0, place[part], wide.square().sum(1))
    within = counts * squares - sums.square().sum(1)
    pairs = counts * (counts - 1) // 2
    everything = len(rows) * squares.sum() - sums.sum(0).square().sum()
    labelled = classes != UNLABELLED
    intra, intra_pairs = within[labelled].sum(), int(pairs[labelled].sum())
    inter_pairs = len(rows) * (len(rows) - 1) // 2 - int(pairs.sum())
    return _mean(intra, intra_pairs), _mean(everything - within.sum(), inter_pairs)


def _mean(total: Tensor, pairs: int) -> float:
    return max(0.0, float(total)) / pairs if pairs else float("nan")
