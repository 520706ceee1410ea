"""What no sum can tell, because it looks at the rows themselves: who is nearest, uniformity, rank within a class.

Each looks at rows drawn by a seed, so that its cost does not grow with the table; with `sample=None`, at all of them.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.geometry import chunks, normalise
from legolas_metric.lookup import lookup, turns
from legolas_metric.probes.iid import iid_eigenvalues
from legolas_metric.probes.moments import Moments
from legolas_metric.probes.spectrum import effective_rank, eigenvalues, noise_floor

_TIE = 1e-12  # of the mean square: what float64 may leave of the distance of two rows that are equal


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMeasures:
    """Measures of single rows; None where there is nothing to measure.

    Attributes:
        uniformity: log mean exp(-2 d^2) over pairs (Wang and Isola, 2020, t = 2); in [-8, 0], 0 for one point.
        nearest_share: share of the labelled rows whose nearest other row has their label: Rank@1 among the rows drawn
            (32 rows a class or more, where there are as many), by distances that no offset of all rows changes. Equal
            distances count with their share. This and nc4 take two classes.
        nc4: share of the labelled rows whose nearest class mean is that of their own class (Papyan et al., 2020).
        class_effective_rank: mean of the (centred) effective rank of each class of at least two rows.
        class_ranks: the single ranks: label -> effective rank, of the classes that were drawn.
    """

    uniformity: float | None = None
    nearest_share: float | None = None
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
    slots = lookup(labels, classes)[0]  # unlabelled rows fall on the first class; masked where it matters
    counts = torch.bincount(slots[labels >= 0], minlength=len(classes))
    several = (labels >= 0) & (counts[slots] > 1)
    told = len(classes) > 1 and bool(several.any())  # one class is always found, and a row alone is its own mean
    labelled = labels[drawn] >= 0
    own = slots[drawn][labelled]
    ranks = _class_ranks(rows, labels, slots, counts, sample, generator)
    return RowMeasures(
        uniformity=spread,
        nearest_share=_nearest_share(rows, slots, _draw_mates(several, slots, sample, generator)) if told else None,
        nc4=nearest_mean_share(unit[labelled], own, means) if told and len(own) else None,
        class_effective_rank=sum(ranks.values()) / len(ranks) if ranks else None,
        class_ranks=ranks,
    )


def iid_row_measures(d: int, counts: Float64[Tensor, " c"], *, n: int, sample: int | None = None) -> RowMeasures:
    """Expected measures of iid rows, uniform on the unit sphere, with labels that say nothing.

    Uniformity is exact: E exp(4 t - 4) of the cosine t of two such rows is exp(-4) 0F1(d/2; 4). NC4 is above chance,
    for each row is part of its own class's mean.
    """
    term, total, k = 1.0, 1.0, 0
    while term > 1e-17 * total:
        term *= 4 / ((k + 1) * (d / 2 + k))
        total, k = total + term, k + 1
    spread = math.log(total) - 4 if n > 1 else None
    larger = counts[counts > 1]
    if len(larger) == 0:
        return RowMeasures(uniformity=spread)
    size = float(counts.mean())
    # Own mean beats C - 1 others: E Phi(z + sqrt(D / n_c))^(C - 1) over z ~ N(0, 1).
    z = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    density = torch.exp(-z.square() / 2)
    wins = torch.special.ndtr(z + math.sqrt(d / size)).pow(len(counts) - 1)
    drawn = larger.clamp_max(_most_of_a_class(len(larger), sample))
    others = min(float(drawn.sum()), math.inf if sample is None else sample) - 1
    told = len(counts) > 1
    return RowMeasures(
        uniformity=spread,
        nearest_share=float((drawn * (drawn - 1)).sum() / drawn.sum()) / others if told else None,
        nc4=float((density * wins).sum() / density.sum()) if told else None,
        class_effective_rank=effective_rank(iid_eigenvalues(round(float(larger.mean())), d, centred=True)),
    )


def uniformity(unit: Float32[Tensor, "m d"]) -> float:
    """log mean exp(-2 d^2) over all pairs of unit rows, blockwise."""
    m, total = len(unit), 0.0
    for part in chunks(m, rows_for(BLOCK, 8 * m)):
        # exp(4 s - 4), with s = 1 on the diagonal: its m terms are taken off below.
        total += float((unit[part] @ unit.T).mul_(4).sub_(4).exp_().sum(1).double().sum())
    return math.log(max(total - m, torch.finfo(torch.float32).tiny) / (m * (m - 1)))


def nearest_mean_share(unit: Float32[Tensor, "m d"], own: Int64[Tensor, " m"], means: Float64[Tensor, "c d"]) -> float:
    """Share of rows nearer to the mean of their own class than to any other, in Euclidean distance."""
    narrow, half_squares = means.float(), (means.square().sum(1) / 2).float()
    right = 0
    for part in chunks(len(unit), rows_for(BLOCK, 8 * len(means))):
        nearest = (unit[part] @ narrow.T).sub_(half_squares).argmax(1)
        right += int((nearest == own[part]).sum())
    return right / len(unit)


def _most_of_a_class(classes: int, sample: int | None) -> float:
    """Rows of one class among those drawn: 32, or as many as fill the sample where there are few classes."""
    return math.inf if sample is None else float(max(32, -(-sample // classes)))


def _draw_mates(
    several: Bool[Tensor, " n"], slots: Int64[Tensor, " n"], sample: int | None, generator: torch.Generator
) -> Int64[Tensor, " m"]:
    """Rows drawn class by class, so that each has mates among them."""
    members = several.nonzero().flatten()
    if len(members) == 0:
        return members
    members = members[torch.randperm(len(members), generator=generator).to(members.device)]
    members = members[slots[members].argsort(stable=True)]
    _, classes, counts = slots[members].unique_consecutive(return_inverse=True, return_counts=True)
    kept = turns(classes) < _most_of_a_class(len(counts), sample)
    turn = torch.randperm(len(counts), generator=generator).to(members.device)[classes]
    return members[kept][turn[kept].argsort(stable=True)][:sample]


def _nearest_share(
    rows: Float32[Tensor, "n d"], slots: Int64[Tensor, " n"], drawn: Int64[Tensor, " m"]
) -> float | None:
    """In float64, about the mean of the rows: what a large offset leaves of the distances is not lost to it."""
    own = slots[drawn]
    unit = rows[drawn].double()
    unit /= torch.linalg.vector_norm(unit, dim=1, keepdim=True)
    unit -= unit.mean(0, keepdim=True)
    squares = unit.square().sum(1)
    share = asked = 0.0
    for part in chunks(len(unit), rows_for(BLOCK, 32 * max(1, len(unit)))):
        gap = (unit[part] @ unit.T).mul_(-2).add_(squares).add_(squares[part, None])
        gap.diagonal(part.start).fill_(torch.inf)
        same = own[part, None] == own
        mates = same.sum(1) > 1
        nearest = gap <= gap.amin(1, keepdim=True).clamp_min(0) + _TIE * squares.mean()
        found = (nearest & same).sum(1) / nearest.sum(1)
        share, asked = share + float(found[mates].sum()), asked + float(mates.sum())
    return share / asked if asked else None


def _class_ranks(
    rows: Float32[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    slots: Int64[Tensor, " n"],
    counts: Int64[Tensor, " c"],
    sample: int | None,
    generator: torch.Generator,
) -> dict[int, float]:
    """Effective rank of each class of two rows or more; of classes drawn until they hold `sample` rows."""
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
        for part in chunks(len(same), rows_for(BLOCK, 32 * size * rows.shape[1])):
            ranks |= dict(zip(labels[same[part, 0]].tolist(), _ranks_of(rows[same[part]])))
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
