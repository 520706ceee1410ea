"""Hubs: rows that are among the nearest neighbours of far too many others."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, check_at_least
from legolas_metric.index.interface import NeighborIndex
from legolas_metric.lookup import lookup
from legolas_metric.records import Neighbors
from legolas_metric.rows import as_ids
from legolas_metric.signatures import typed


@dataclass(frozen=True, slots=True, kw_only=True)
class Hubness:
    """How unevenly rows are chosen as neighbours. N_k of a row: in how many lists of k neighbours it occurs.

    All are NaN where nobody has a neighbour.

    Attributes:
        hubness: skewness of N_k, its third standardised moment; 0 where all rows are chosen alike.
        hubs: share of rows with N_k > mean + 2 standard deviations.
        orphans: share of rows that are nobody's neighbour (N_k = 0).
    """

    hubness: float | None = None
    hubs: float | None = None
    orphans: float | None = None


@typed
def hubness_of(neighbors: Neighbors, ids: ArrayLike | EmbeddingBank) -> Hubness:
    """Hubness of rows whose neighbours are known.

    Args:
        neighbors: the k nearest of each row, as an index gave them; missing ones are -1.
        ids: [n], ids of all rows that could be found, or the bank that holds them.

    Raises:
        ValueError: neighbours that are not among the ids.

    Example:
        >>> import torch
        >>> from legolas_metric import ExactIndex, hubness_of
        >>> star = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.1]])
        >>> hubness_of(ExactIndex(metric="euclidean").fit(star).self_join(1, want="any"), range(5)).orphans
        0.6

    Source: Radovanovic, Nanopoulos and Ivanovic, "Hubs in space", JMLR 2010.
    """
    names = ids.ids if isinstance(ids, EmbeddingBank) else as_ids(ids, None)
    n = len(names)
    found = neighbors.ids[neighbors.ids >= 0]
    place, known = lookup(found, names.to(found.device))
    if not bool(known.all()):
        raise ValueError("neighbors holds ids that are not among ids: pass the ids of all rows that were searched")
    counts = torch.bincount(place, minlength=n).double()
    mean, deviation = counts.mean(), counts.std(correction=0)
    if len(found) == 0:
        return Hubness(hubness=math.nan, hubs=math.nan, orphans=math.nan)
    even = not float(deviation) > 0
    return Hubness(
        hubness=0.0 if even else float(((counts - mean) / deviation).pow(3).mean()),
        hubs=float((counts > mean + 2 * deviation).double().mean()),
        orphans=float((counts == 0).double().mean()),
    )


def search_hubness(rows: Float32[Tensor, "n d"], index: NeighborIndex, k: int) -> Hubness:
    """Hubness of rows, by the k nearest that a fresh copy of the index finds."""
    check_at_least("hubness_k", k, 1)
    if k >= len(rows):
        raise ValueError(f"hubness_k must be below the number of rows, got {k} for {len(rows)} rows: lower it")
    return hubness_of(index.clone().fit(rows).self_join(k, want="any"), torch.arange(len(rows)))


def iid_rows(n: int, d: int, *, seed: int, device: torch.device) -> Float32[Tensor, "n d"]:
    """Rows drawn uniformly from the unit sphere, but for their norms."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(device)
