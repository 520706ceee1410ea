"""The arguments of every pair loss, checked and brought into one form."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, as_integers, check_device, check_dimension
from legolas_metric.distributed import World
from legolas_metric.losses.pair_masks import ByLabel, ByPairs, ByTriplets, Relation
from legolas_metric.records import Pairs, Triplets
from legolas_metric.rows import as_labels

Indices = tuple[ArrayLike, ...] | list[ArrayLike] | Triplets | Pairs
"""Positions (a, p, n) or (a1, p, a2, n) as PML's miners give them, or a record of ids."""

_LEAST_NORM = 2.0**-100
_TRIPLET = ("anchors", "positives", "negatives")
_PAIRS = ("anchors of positives", "positives", "anchors of negatives", "negatives")


@dataclass(frozen=True, slots=True)
class Batch:
    """Unit anchors and unit reference rows, in the order of the relation between them.

    Attributes:
        x, r: [n, d] and [m, d], float32 or float64.
        weights: [n], 0 for unlabelled anchors.
        relation: who is whose positive and negative.
        symmetric: the anchors are their own reference rows, related by label alone.
        world: the processes whose sums make up the loss.
    """

    x: Float[Tensor, "n d"]
    r: Float[Tensor, "m d"]
    weights: Float[Tensor, " n"]
    relation: Relation
    symmetric: bool
    world: World


@dataclass(frozen=True, slots=True)
class _Side:
    """Rows as they came, with what is known of them."""

    rows: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"] | None
    ids: Int64[Tensor, " n"] | None

    def gathered(self, world: World) -> "_Side":
        parts = (None if part is None else world.gather(part) for part in (self.labels, self.ids))
        return _Side(world.gather(self.rows), *parts)


@dataclass(frozen=True, slots=True)
class Given:
    """The arguments of a loss as they came.

    Attributes:
        embeddings: [n, d], anchors, and reference rows too where no `ref_emb` is given.
        labels: [n] integers, -1 for unlabelled; may be missing where `indices_tuple` is given.
        indices_tuple: positions, or a record of ids; without it everything is compared with everything.
        ref_emb, ref_labels: [m, d] and [m]; `ref_labels is labels` says that row i of both is the same example.
        weights: [n], >= 0, of the anchors.
        ids, ref_ids: [n] and [m]; the same id is the same example and no pair (default: row numbers, for records).
        gather: the processes whose rows are reference rows, too.
    """

    embeddings: ArrayLike
    labels: ArrayLike | None
    indices_tuple: Indices | None
    ref_emb: ArrayLike | None
    ref_labels: ArrayLike | None
    weights: ArrayLike | None
    ids: ArrayLike | None
    ref_ids: ArrayLike | None
    gather: World | None


def prepare(given: Given, *, keep_triplets: bool = False) -> Batch:
    """Check the arguments of a loss, and relate its anchors to its reference rows.

    Args:
        given: the arguments.
        keep_triplets: keep (a, p, n) together instead of reading the pairs (a, p) and (a, n).

    Raises:
        TypeError, ValueError: what does not fit, and what to pass instead.
    """
    world = given.gather or World()
    own = _side(given.embeddings, given.labels, given.ids, "embeddings", "labels", "ids")
    if given.ref_emb is None:
        other = own
    else:
        other = _side(given.ref_emb, given.ref_labels, given.ref_ids, "ref_emb", "ref_labels", "ref_ids")
        check_dimension(own.rows, other.rows, names=("embeddings", "ref_emb"))
        check_device(own.rows, other.rows, names=("embeddings", "ref_emb"))
    same_rows = given.ref_emb is None or (given.labels is not None and given.ref_labels is given.labels)
    if given.indices_tuple is not None:
        relation = _listed(given.indices_tuple, own, other, keep_triplets)
    elif own.labels is None or other.labels is None:
        raise ValueError("pass labels (and ref_labels with ref_emb) or indices_tuple: there is nothing to compare")
    elif world.size > 1:
        own, other = _named(own, other, same_rows, world)
        other = other.gathered(world)
        assert own.labels is not None
        assert other.labels is not None
        relation = ByLabel.of(
            own.labels, other.labels, ids=own.ids, ref_ids=other.ids, ids_follow_labels=given.ids is None
        )
    else:
        others = None if same_rows else other.labels
        relation = ByLabel.of(own.labels, others, ids=own.ids, ref_ids=other.ids)
    x = unit_rows(own.rows)
    weight = as_weights(given.weights, x, len(x), "weights", "rows of embeddings")
    weight = weight if own.labels is None else weight.masked_fill(own.labels == UNLABELLED, 0.0)
    r = x if other is own else unit_rows(other.rows).to(x.dtype)
    symmetric = other is own and isinstance(relation, ByLabel) and relation.ids is None
    if isinstance(relation, ByLabel) and relation.order is not None and relation.ref_order is not None:
        sorted_x = x.index_select(0, relation.order)  # its backward costs half of that of x[order]
        r = sorted_x if r is x else r.index_select(0, relation.ref_order)
        x, weight = sorted_x, weight[relation.order]
    return Batch(x, r, weight, relation, symmetric, world)


def unit_rows(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """x / |x| in float32 (float64 stays), differentiable; a row of length zero has no direction and no gradient."""
    wide = rows if rows.dtype == torch.float64 else rows.float()
    norm = torch.linalg.vector_norm(wide, dim=1, keepdim=True, dtype=torch.float64).to(wide.dtype)
    return wide / norm.masked_fill(norm <= least_norm(rows.dtype), torch.inf)


def least_norm(dtype: torch.dtype) -> float:
    """Up to this length rows have no direction: the gradient, which grows as 1 / |x|, would overflow their dtype."""
    return max(_LEAST_NORM, torch.finfo(dtype).tiny)


def as_rows(rows: ArrayLike, name: str) -> Float[Tensor, "n d"]:
    """Floating-point rows with their gradient; NaN and inf pass, since a gradient scaler has to see them."""
    tensor = _tensor(rows)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}: convert with .float()")
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise ValueError(f"{name} must be [n, d] with d >= 1, got shape {tuple(tensor.shape)}")
    return tensor


def _tensor(values: ArrayLike) -> Tensor:
    """The tensor itself, or a copy of an array, whatever its strides."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values, order="C"))


def as_weights(weights: ArrayLike | None, like: Tensor, n: int, name: str, of: str) -> Float[Tensor, " n"]:
    """[n] weights that are finite and >= 0, of the dtype and device of `like`; 1 where none are given."""
    if weights is None:
        return like.new_ones(n)
    weight = _tensor(weights).detach().to(like)
    if weight.shape != (n,):
        raise ValueError(f"{name} must be [{n}], one for each of the {of}, got shape {tuple(weight.shape)}")
    if not torch.compiler.is_compiling() and not bool((weight >= 0).all() & weight.isfinite().all()):
        raise ValueError(f"{name} must be finite and >= 0")
    return weight


def _side(embeddings: ArrayLike, labels: ArrayLike | None, ids: ArrayLike | None, *names: str) -> _Side:
    rows = as_rows(embeddings, names[0])
    n, device = len(rows), rows.device
    if torch.compiler.is_compiling():  # the checks read values, which would break the graph
        return _Side(rows, *(None if part is None else torch.as_tensor(part).long() for part in (labels, ids)))
    own_labels = None if labels is None else as_labels(labels, n, name=names[1], of=names[0]).to(device)
    own_ids = None if ids is None else as_integers(ids, n, name=names[2], of=names[0]).to(device)
    return _Side(rows, own_labels, own_ids)


def _named(own: _Side, other: _Side, same_rows: bool, world: World) -> tuple[_Side, _Side]:
    """Without ids of the user's, a row that is on both sides is named by its place in the joint batch."""
    if own.ids is not None or not same_rows:
        return own, replace(other, ids=own.ids) if same_rows else other
    start = world.offset(len(own.rows), own.rows.device)
    places = torch.arange(start, start + len(own.rows), device=own.rows.device)
    return replace(own, ids=places), replace(other, ids=places)


def _listed(indices: Indices, own: _Side, other: _Side, keep_triplets: bool) -> Relation:
    n, m = len(own.rows), len(other.rows)
    if isinstance(indices, Triplets | Pairs):
        indices = _positions_of(indices, own, other)
    if len(indices) not in (3, 4):
        raise ValueError(f"indices_tuple must be (a, p, n) or (a1, p, a2, n), got {len(indices)} tensors")
    names = _TRIPLET if len(indices) == 3 else _PAIRS
    places = [
        _positions(part, n if "anchors" in name else m, name).to(own.rows.device) for part, name in zip(indices, names)
    ]
    lengths = [len(part) for part in places]
    if lengths[0] != lengths[1] or lengths[-1] != lengths[-2]:
        raise ValueError(f"indices_tuple has parts of lengths {lengths}: pairs and triplets must match one to one")
    if len(places) == 3 and keep_triplets:
        return ByTriplets.of(*places, rows=n, ref_labels=other.labels)
    a1, p, a2, negative = places if len(places) == 4 else (places[0], places[1], places[0], places[2])
    return ByPairs.of(a1, p, a2, negative, shape=(n, m), ref_labels=other.labels)


def _positions_of(record: Triplets | Pairs, own: _Side, other: _Side) -> tuple[Tensor, ...]:
    """Positions of a record's ids; pairs and triplets that do not lie wholly in the batch are left out."""
    if isinstance(record, Triplets):
        return _inside((record.anchor, record.positive, record.negative), own, other)
    positives = _inside((record.anchor_p, record.positive), own, other)
    return *positives, *_inside((record.anchor_n, record.negative), own, other)


def _inside(names: tuple[Tensor, ...], own: _Side, other: _Side) -> tuple[Tensor, ...]:
    found = [_find(part.to(own.rows.device), side) for part, side in zip(names, (own, other, other))]
    inside = torch.stack([there for _, there in found]).all(0)
    return tuple(place[inside] for place, _ in found)


def _find(names: Int64[Tensor, " t"], side: _Side) -> tuple[Int64[Tensor, " t"], Bool[Tensor, " t"]]:
    n = len(side.rows)
    ordered, order = (torch.arange(n, device=names.device) if side.ids is None else side.ids).sort()
    if n == 0:
        return names, torch.zeros_like(names, dtype=torch.bool)
    place = torch.searchsorted(ordered, names).clamp_max(n - 1)
    return order[place], ordered[place] == names


def _positions(values: ArrayLike, size: int, name: str) -> Int64[Tensor, " t"]:
    if torch.compiler.is_compiling():
        return torch.as_tensor(values).long()
    places = as_integers(values, None, name=f"indices_tuple ({name})")
    if len(places) and not 0 <= int(places.min()) <= int(places.max()) < size:
        raise ValueError(
            f"indices_tuple ({name}) has positions {int(places.min())} to {int(places.max())} for {size} rows: anchors "
            "are row numbers of embeddings, the others of ref_emb where that is given; ids come as a Triplets or Pairs"
        )
    return places
