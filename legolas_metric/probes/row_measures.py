"""What no sum can tell, because it looks at the rows themselves: uniformity, nearest class mean, rank within a class.

Each looks at rows drawn by a seed, so that its cost does not grow with the table; with `sample=None`, at all of them.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from legolas_metric.geometry import chunks, normalise
from legolas_metric.probes.iid import iid_eigenvalues
from legolas_metric.probes.moments import Moments
from legolas_metric.probes.spectrum import effective_rank, eigenvalues, noise_floor

_BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMeasures:
    """Measures of single rows; None where there is nothing to measure.

    Attributes:
        uniformity: log mean exp(-2 d^2) over pairs (Wang and Isola, 2020, t = 2); in [-8, 0], 0 for one point.
        nc4: share of the labelled rows whose nearest class mean is that of their own class (Papyan et al., 2020).
        class_effective_rank: mean of the (centred) effective rank of each class of at least two rows.
        class_ranks: the single ranks: label -> effective rank, of the classes that were drawn.
    """

    uniformity: float | None = None
    nc4: float | None = None
    class_effective_rank: float | None = None
    class_ranks: dict[int, float] | None = None


def row_measures(
    rows: Float32[Tensor, "n d"],
    labels: Int64[Tensor, " n"] | None,
    classes: Int64[Tensor, " c"],
    means: Float64[Tensor, "c d"],
    *,
    sample: int | None,
    seed: int,
) -> RowMeasures:
    """Measures of rows as they were given (made unit here), and of their classes' means."""
    generator = torch.Generator().manual_seed(seed)
    drawn = _draw(len(rows), sample, generator).to(rows.device)
    unit = normalise(rows[drawn])
    spread = uniformity(unit) if len(unit) > 1 else None
    if labels is None or len(classes) == 0:
        return RowMeasures(uniformity=spread)
    labelled = labels[drawn] >= 0
    own = torch.searchsorted(classes, labels[drawn][labelled])
    ranks = _class_ranks(rows, labels, classes, sample, generator)
    return RowMeasures(
        uniformity=spread,
        nc4=nearest_mean_share(unit[labelled], own, means) if len(own) else None,
        class_effective_rank=sum(ranks.values()) / len(ranks) if ranks else None,
        class_ranks=ranks,
    )


def iid_row_measures(d: int, counts: Float64[Tensor, " c"], *, n: int) -> RowMeasures:
    """Expected measures of iid rows, uniform on the unit sphere, with labels that say nothing.

    Uniformity is exact: E exp(4 t - 4) of the cosine t of two such rows is exp(-4) 0F1(d/2; 4). NC4 is above chance,
    for each row is part of its own class's mean.
    """
    term, total, k = 1.0, 1.0, 0
    while term > 1e-17 * total:
        term *= 4 / ((k + 1) * (d / 2 + k))
        total, k = total + term, k + 1
    spread = math.log(total) - 4 if n > 1 else None
    if len(counts) == 0:
        return RowMeasures(uniformity=spread)
    size = float(counts.mean())
    # Own mean beats C - 1 others: E Phi(z + sqrt(D / n_c))^(C - 1) over z ~ N(0, 1).
    z = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    density = torch.exp(-z.square() / 2)
    wins = torch.special.ndtr(z + math.sqrt(d / size)).pow(len(counts) - 1)
    larger = counts[counts > 1]
    rank = effective_rank(iid_eigenvalues(round(float(larger.mean())), d, centred=True)) if len(larger) else None
    return RowMeasures(uniformity=spread, nc4=float((density * wins).sum() / density.sum()), class_effective_rank=rank)


def uniformity(unit: Float32[Tensor, "m d"]) -> float:
    """log mean exp(-2 d^2) over all pairs of unit rows, blockwise."""
    m, total = len(unit), 0.0
    for part in chunks(m, max(1, _BLOCK_ELEMENTS // m)):
        # exp(4 s - 4), with s = 1 on the diagonal: its m terms are taken off below.
        total += float((unit[part] @ unit.T).mul_(4).sub_(4).exp_().sum(1).double().sum())
    return math.log(max(total - m, torch.finfo(torch.float32).tiny) / (m * (m - 1)))


def nearest_mean_share(unit: Float32[Tensor, "m d"], own: Int64[Tensor, " m"], means: Float64[Tensor, "c d"]) -> float:
    """Share of rows nearer to the mean of their own class than to any other, in Euclidean distance."""
    narrow, half_squares = means.float(), (means.square().sum(1) / 2).float()
    right = 0
    for part in chunks(len(unit), max(1, _BLOCK_ELEMENTS // len(means))):
        nearest = (unit[part] @ narrow.T).sub_(half_squares).argmax(1)
        right += int((nearest == own[part]).sum())
    return right / len(unit)


def _class_ranks(
    rows: Float32[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    classes: Int64[Tensor, " c"],
    sample: int | None,
    generator: torch.Generator,
) -> dict[int, float]:
    """Effective rank of each class of two rows or more; of classes drawn until they hold `sample` rows."""
    slots = torch.searchsorted(classes, labels)  # unlabelled rows, -1, fall on the first class; they are masked below
    counts = torch.bincount(slots[labels >= 0], minlength=len(classes))
    several = (counts > 1).nonzero().flatten()
    several = several[torch.randperm(len(several), generator=generator).to(several.device)]
    if sample is not None:
        several = several[: int((counts[several].cumsum(0) < sample).sum()) + 1]
    chosen = torch.zeros_like(counts, dtype=torch.bool).index_fill_(0, several, True)
    members = (chosen[slots] & (labels >= 0)).nonzero().flatten()
    members = members[slots[members].argsort(stable=True)]
    ranks: dict[int, float] = {}
    for size in counts[several].unique().tolist():
        same = members[counts[slots[members]] == size].view(-1, size)
        names = labels[same[:, 0]].tolist()
        ranks |= dict(zip(names, _ranks_of(rows[same])))
    return dict(sorted(ranks.items()))


def _ranks_of(rows: Float32[Tensor, "c m d"]) -> list[float]:
    """Effective rank of the centred unit rows of classes of one size, from the smaller Gram matrix of each."""
    size, d = rows.shape[1:]
    if size > d:
        grams = torch.stack([_covariance(own) for own in rows])
    else:
        wide = rows.double()
        wide = wide / torch.linalg.vector_norm(wide, dim=2, keepdim=True)
        wide = wide - wide.mean(1, keepdim=True)
        grams = wide @ wide.mT / size
    return [effective_rank(values) for values in eigenvalues(grams, min(size - 1, d), noise_floor(d)).cpu()]


def _covariance(rows: Float32[Tensor, "m d"]) -> Float64[Tensor, "d d"]:
    """Of the unit rows of one class, without a wide copy of them: a class may be most of the table."""
    moments = Moments(rows.shape[1], rows.device)
    moments.add(rows, None)
    mean = moments.first / len(rows)
    return (moments.second[0] / len(rows)).addr_(mean, mean, alpha=-1)


def _draw(n: int, sample: int | None, generator: torch.Generator) -> Int64[Tensor, " m"]:
    if sample is None or sample >= n:
        return torch.arange(n)
    return torch.randperm(n, generator=generator)[:sample].sort().values
