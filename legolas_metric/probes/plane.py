"""The plane in which rows spread most, to look at them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.checks import ArrayLike, check_at_least
from legolas_metric.probes.moments import Moments
from legolas_metric.rows import as_embeddings


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """Coordinates of rows on the two main directions of all rows.

    Attributes:
        points: [m, 2], unit rows, centred, on the first and second principal direction.
        rows: [m], which rows they are, ascending.
        shares: of the variance, held by each direction: what the picture leaves out is the rest.
    """

    points: Float32[Tensor, "m 2"]
    rows: Int64[Tensor, " m"]
    shares: tuple[float, float]


def principal_plane(embeddings: ArrayLike, *, most: int = 1500, seed: int = 0) -> Plane:
    """Principal directions of all unit rows (covariance in float64), and where some of the rows lie on them.

    Args:
        embeddings: [n, d], any float width.
        most: rows to place, drawn at random where there are more.
        seed: of the draw.

    Raises:
        ValueError: NaN or inf, zero rows, or `most` below 1.

    Example:
        >>> import torch
        >>> from legolas_metric.probes.plane import principal_plane
        >>> line = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.8, 0.0]])
        >>> plane = principal_plane(line)
        >>> plane.points.shape, round(sum(plane.shares), 6)
        (torch.Size([3, 2]), 1.0)
    """
    check_at_least("most", most, 1)
    given = as_embeddings(embeddings, metric="cosine")
    moments = Moments(given.shape[1], given.device)
    moments.add(given, None)
    mean = moments.first / len(given)
    strengths, directions = torch.linalg.eigh((moments.second[0] / len(given)).addr_(mean, mean, alpha=-1))
    two = directions.flip(1)[:, :2]
    # The sign of a direction is arbitrary: let its largest entry be positive, so that a page can be made again.
    two = two * two.gather(0, two.abs().argmax(0, keepdim=True)).sign()
    if two.shape[1] == 1:
        two = torch.cat([two, torch.zeros_like(two)], 1)
    order = torch.randperm(len(given), generator=torch.Generator().manual_seed(seed))[:most].sort().values
    rows = order.to(given.device)
    drawn = given[rows].double()
    centred = drawn / torch.linalg.vector_norm(drawn, dim=1, keepdim=True) - mean
    total = float(strengths.clamp_min(0).sum()) or 1.0
    first, second = (float(x) / total for x in torch.cat([strengths.flip(0), strengths.new_zeros(1)])[:2].clamp_min(0))
    return Plane((centred @ two).float(), rows, (first, second))
