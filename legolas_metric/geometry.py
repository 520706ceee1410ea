"""The geometry that every layer shares: normalising, similarity, distance, chunking.

Larger similarity is always closer. For "cosine" the rows are unit vectors and d = sqrt(2 - 2 s), the Euclidean
distance of unit vectors; for "euclidean" s = -d; for "dot" margins are in s itself, so d = -s.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.arrays import at_hand
from legolas_metric.budgets import CACHE, WIDE, rows_for
from legolas_metric.checks import Metric

_DIRECTIONS = 32  # of a chain, that others are merged into
_STRIP = 64  # tie distances, of the second projection
_PREPARED = 2**21  # multiplications; fewer are done in the time in which oneDNN finds its code
_SPLIT = 2.0**20 + 1  # leaves 33 of the 53 bits of a float64


def chunks(n: int, size: int) -> Iterator[slice]:
    """Slices that cover 0..n in order, each of at most `size` rows."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def normalise(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Unit rows, x / |x|, with the norm taken in float64; rows that are unit to 2 eps stay bit for bit as they are.

    So normalising twice changes nothing, and ids mined from a bank do not depend on who normalised it.
    """
    return unit_rows(rows)[0]


def unit_rows(rows: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float64[Tensor, " n"]]:
    """What `normalise` gives, and the norms by which it divides: 1 of rows that stay, not finite where a row isn't."""
    out, norms = torch.empty_like(rows), rows.new_empty(len(rows), dtype=torch.float64)
    for part in chunks(len(rows), rows_for(WIDE, rows.shape[1])):
        wide = rows[part].to(torch.float64, copy=True)
        norm = torch.linalg.vector_norm(wide, dim=1, out=norms[part])
        line = at_hand(norm)
        line[abs(line - 1) <= 2 * torch.finfo(rows.dtype).eps] = 1.0
        out[part] = wide.div_(norm[:, None])
    return out, norms


def row_norms(rows: Float[Tensor, "n d"]) -> Float64[Tensor, " n"]:
    """Norms in float64."""
    norms = rows.new_empty(len(rows), dtype=torch.float64)
    for part in chunks(len(rows), rows_for(WIDE, rows.shape[1])):  # a norm in float64 copies what it reads
        norms[part] = torch.linalg.vector_norm(rows[part], dim=1, dtype=torch.float64)
    return norms


def prepare(rows: Float[Tensor, "n d"], metric: Metric) -> Float[Tensor, "n d"]:
    """The rows on which a metric's similarity is computed: unit rows for "cosine", the rows themselves otherwise."""
    return normalise(rows) if metric == "cosine" else rows


def similarity_matrix(x: Float[Tensor, "q d"], y: Float[Tensor, "n d"], metric: Metric) -> Float[Tensor, "q n"]:
    """All similarities of prepared rows, in the dtype of the input: a block of the screening kind, not yet exact."""
    if metric == "euclidean":
        return -torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return x @ y.T


def product(x: Float[Tensor, "q d"], y: Float[Tensor, "n d"]) -> Float[Tensor, "q n"]:
    """x y^T without a gradient, for batches: by oneDNN, where torch's usual library leaves half of a processor unused.

    That is MKL, which takes AVX-512 on Intel's processors alone: on an EPYC that has it oneDNN takes 0.45 of the time
    for the same sums. It prepares each new shape for half a millisecond, so this is for shapes that return; and rows
    that lie apart in memory it would take a hundred times as long for.
    """
    large = len(x) * y.numel() >= _PREPARED
    if large and x.device.type == "cpu" and x.dtype == torch.float32 and _has_onednn():
        x, y = (side if side.is_contiguous() or side.T.is_contiguous() else side.contiguous() for side in (x, y))
        return torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "")
    return x @ y.T


@cache
def _has_onednn() -> bool:
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    one = torch.ones(1, 1)
    try:
        return torch.ops.mkldnn._linear_pointwise(one, one, None, "none", [], "").item() == 1
    except (AttributeError, RuntimeError, TypeError):  # no part of torch's public interface: absent, or another one
        return False


def exact_similarity(x: Float[Tensor, "*b d"], y: Float[Tensor, "*b d"], metric: Metric) -> Float64[Tensor, "*b"]:
    """The similarity that decides every order, window and tie: of each pair of prepared rows, in float64.

        cosine:     1 - |x - y|^2 / 2, and exactly 1 where |x - y| <= 4 eps of the rows' dtype
        dot:        <x, y>
        euclidean:  -|x - y|

    The squared distance keeps the differences of a narrow cone, which <x, y> loses to the rounding of the norms. Within
    4 eps lies all that rounding can make of two rows of one direction and different lengths: they are exact ties. The
    sum is kept to 33 bits (`settled`), so that no decision hangs on the order in which it was added up, unless it lies
    within that rounding of the middle between two such values.
    """
    if metric == "dot":
        return settled((x.double() * y.double()).sum(-1))
    difference = x.to(torch.float64, copy=True).sub_(y)  # in place: fresh pages cost more than the arithmetic
    squared = settled(difference.square_().sum(-1))
    if metric == "euclidean":
        return -_root(squared)
    return (1 - squared.masked_fill(squared <= tie_distance(x.dtype) ** 2, 0) / 2).clamp_min(-1)


def _root(values: Float64[Tensor, "*b"]) -> Float64[Tensor, "*b"]:
    """Square roots, rounded as IEEE says: those that torch takes of a long tensor, on a processor, are not."""
    return torch.as_tensor(np.sqrt(values.numpy())) if values.is_cpu else values.sqrt()


def settled(total: Float64[Tensor, "*b"]) -> Float64[Tensor, "*b"]:
    """A float64 sum rounded to 33 bits: what another order of adding changes lies far below, and is gone."""
    wide = _SPLIT * total
    return wide - (wide - total)


def tie_distance(dtype: torch.dtype) -> float:
    """The distance of unit rows up to which they have one direction: 4 eps, what rounding makes of other lengths."""
    return 4 * torch.finfo(dtype).eps


def merge_directions(rows: Float[Tensor, "n d"]) -> None:
    """Give unit rows of one direction (within `tie_distance`) the values of the first of them, in place.

    Rows of one direction and different lengths differ by rounding once they are unit rows; so a third row would be more
    similar to one of them than to another. Merged, they are exact ties to each row. O(n d + n log n): rows are compared
    where two of their numbers, and their projections on two fixed directions, lie in one chain of steps of at most
    `tie_distance`. Of a chain that holds more than 32 directions the others stay as they are: of encoders that have
    collapsed to rounding.
    """
    table, d, tie = at_hand(rows), rows.shape[1], tie_distance(rows.dtype)
    some = _neighbours(table[:, d // 2], tie)
    some = some[_neighbours(table[some, d // 3], tie)]
    if not len(some):
        return
    place = rows.new_full((len(rows), 2), torch.nan, dtype=torch.float64)  # near to none
    for part in torch.as_tensor(some).split(rows_for(WIDE, d)):
        place[part] = projected(rows[part])
    for others, first in one_direction(rows, place):
        rows[others] = rows[first]


def projected(rows: Float[Tensor, "n d"]) -> Float64[Tensor, "n 2"]:
    """Rows along two fixed directions: those of one direction lie within `tie_distance` in both."""
    wide, axes = rows.double(), _axes(rows.shape[1], rows.device)
    return torch.stack([torch.mv(wide, axis) for axis in axes], 1)  # a product takes three times as long


def one_direction(
    rows: Any, place: Float64[Tensor, "n 2"]
) -> Iterator[tuple[Int64[Tensor, " m"], Int64[Tensor, " m"]]]:
    """Numbers of rows, and of the first rows of their directions: to be written over before the next are asked for.

    One projection alone has room for some million rows that are not near each other; so the other one is cut into
    strips, and once more into strips that lie half over them, for what is near across an edge.

    Args:
        rows: a tensor [n, d], or whatever has its length, `shape`, `dtype` and `device`, and gives rows by number.
        place: `projected`; NaN of rows that are known to be alone.
    """
    tie = tie_distance(rows.dtype)
    order = _neighbours(at_hand(place)[:, 1], tie)
    order = torch.as_tensor(order[_neighbours(at_hand(place)[order, 0], tie)])  # the others are alone
    if not len(order):
        return
    for shift in (0.0, 0.5):
        strip = (place[:, 1] / (_STRIP * tie) + shift).floor()
        yield from _within_strips(rows, place[:, 0], strip, order[strip[order].argsort(stable=True)], tie)


def _neighbours(values: Any, tie: float) -> Any:
    """Numbers of the values that have another within the tie distance, by value; both at hand."""
    order = values.argsort()
    ordered = values[order]
    return order[_beside(ordered[1:] - ordered[:-1] <= tie, order)]


def _beside(near: Any, order: Any) -> Any:
    """Which of a line of row numbers are near to the one before or after, by which are near to the next; at hand."""
    kept = order < 0
    kept[1:] = near
    kept[:-1] |= near
    return kept


def _within_strips(
    rows: Any, place: Float64[Tensor, " n"], strip: Float64[Tensor, " n"], order: Int64[Tensor, " m"], tie: float
) -> Iterator[tuple[Int64[Tensor, " m"], Int64[Tensor, " m"]]]:
    """`one_direction` of rows that are ordered by strip and, within it, by place."""
    for _ in range(_DIRECTIONS):
        near = (place[order].diff() <= tie) & (strip[order].diff() == 0)
        kept = _beside(near, order)  # the others are alone
        if not bool(kept.any()):
            return
        chain = torch.cat([near.new_zeros(1), ~near]).cumsum(0)[kept]
        order = order[kept]
        first = order.new_full((len(kept),), len(rows)).scatter_reduce_(0, chain, order, "amin")[chain]
        same = torch.empty_like(kept[kept])
        for part in chunks(len(order), rows_for(CACHE, 24 * rows.shape[1])):
            same[part] = (rows[order[part]].double() - rows[first[part]].double()).square().sum(1) <= tie**2
            yield order[part][same[part]], first[part][same[part]]
        order = order[~same]


@cache
def _axes(d: int, device: torch.device) -> Float64[Tensor, "2 d"]:
    axes = torch.randn(d, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).T
    return (axes / axes.norm(dim=1, keepdim=True)).to(device)


def pair_similarity(x: Float[Tensor, "*b d"], y: Float[Tensor, "*b d"], metric: Metric) -> Float32[Tensor, "*b"]:
    """The similarity that is reported: `exact_similarity`, rounded to float32. Nothing is decided by it."""
    return exact_similarity(x, y, metric).float()


def distance(similarity: Float[Tensor, "*b"], metric: Metric) -> Float[Tensor, "*b"]:
    """d of a similarity, in which margins are given: sqrt(2 - 2 s), or -s for "euclidean" and "dot"."""
    return (2 - 2 * similarity).clamp_min(0).sqrt() if metric == "cosine" else -similarity


def similarity(distance: Float[Tensor, "*b"], metric: Metric) -> Float[Tensor, "*b"]:
    """s of a distance: the inverse of `distance` (for d >= 0 under "cosine")."""
    return 1 - distance.square() / 2 if metric == "cosine" else -distance


def semi_hard_window(
    s_ap: Float64[Tensor, "*b"], margin: float, metric: Metric
) -> tuple[Float64[Tensor, "*b"], Float64[Tensor, "*b"]]:
    """The similarities (low, high) between which a semi-hard negative lies: d_ap < d_an < d_ap + margin.

    Args:
        s_ap: `exact_similarity` of anchor and positive.
        margin: in d, in s under "dot"; infinite for a window without a far end.
        metric: whose similarity it is.

    Example:
        >>> import torch
        >>> low, high = semi_hard_window(torch.tensor([0.5], dtype=torch.float64), 0.2, "cosine")
        >>> low.item(), high.item()
        (0.28, 0.5)
    """
    if margin == math.inf:
        return torch.full_like(s_ap, -torch.inf), s_ap
    return similarity(distance(s_ap, metric) + margin, metric), s_ap


def inwards(
    window: tuple[Float64[Tensor, "*b"], Float64[Tensor, "*b"]], metric: Metric, *, d: int, lengths: float | int = 0.0
) -> tuple[Float64[Tensor, "*b"], Float64[Tensor, "*b"]]:
    """A window of similarities of rows of d dimensions, less the last of the 33 bits to which sums are kept.

    Its bounds were added up in one order, and a search adds in its own: where a sum lies between two values of 33 bits,
    one may round up and the other down, and a negative that is equal to the positive must not fall inside by that.
    `lengths` is the product of the largest norms of both sides, which matters under "dot".
    """
    low, high = window
    slack = (2 - 2 * high if metric == "cosine" else high).abs() * 2.0**-32
    if metric == "dot":
        slack = slack + d * 2.0**-52 * lengths
    return low + slack, high - slack


def masked_logsumexp(values: Float[Tensor, "n m"], mask: Bool[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """log sum exp over the masked entries of each row; -inf, with a gradient of zero, where a row has none."""
    some = mask.any(1)
    filled = values.masked_fill(~mask, -torch.inf).masked_fill(~some[:, None], 0.0)
    return torch.logsumexp(filled, 1).masked_fill(~some, -torch.inf)
