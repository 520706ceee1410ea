"""The arguments of every pair loss, checked and brought into one form."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, as_integers, check_device, check_dimension
from legolas_metric.distributed import World
from legolas_metric.losses.listed import Indices, listed_positions, record_positions
from legolas_metric.losses.loss_rows import as_batch_labels, as_rows, as_weights, unit_rows, wide_type
from legolas_metric.losses.pair_masks import ByLabel, ByPairs, ByTriplets, Relation
from legolas_metric.records import Pairs, Triplets


@dataclass(frozen=True, slots=True)
class Batch:
    """Unit anchors and unit reference rows, in the order of the relation between them.

    Attributes:
        x, r: [n, d] and [m, d], float32 or float64.
        weights: [n], 0 for unlabelled anchors.
        relation: who is whose positive and negative.
        symmetric: the anchors are their own reference rows, related by label alone.
        world: the processes whose sums make up the loss.
        dtype: of the embeddings as they came, and of the value.
    """

    x: Float[Tensor, "n d"]
    r: Float[Tensor, "m d"]
    weights: Float[Tensor, " n"]
    relation: Relation
    symmetric: bool
    world: World
    dtype: torch.dtype


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


def prepare(given: Given, *, keep_triplets: bool = False, exact: bool = False, once: bool = False) -> Batch:
    """Check the arguments of a loss, and relate its anchors to its reference rows.

    Args:
        given: the arguments.
        keep_triplets: keep (a, p, n) together instead of reading the pairs (a, p) and (a, n).
        exact: unit rows in float64, for a loss that chooses by similarity, see `settled`.
        once: the loss is computed in blocks, differentiable once.

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
        relation = _listed(given.indices_tuple, own, other, same_rows, keep_triplets)
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
    dtype = torch.float64 if exact else wide_type(own.rows.dtype)
    order, ref_order = (relation.order, relation.ref_order) if isinstance(relation, ByLabel) else (None, None)
    x = unit_rows(own.rows, dtype, "embeddings", order, once=once)
    r = x if other is own else unit_rows(other.rows, dtype, "ref_emb", ref_order, once=once)
    weight = as_weights(given.weights, x, len(x), "weights", "rows of embeddings")
    if own.labels is not None:
        weight = weight * (own.labels != UNLABELLED)
    weight = weight if order is None else weight.index_select(0, order)
    symmetric = other is own and isinstance(relation, ByLabel) and relation.ids is None
    return Batch(x, r, weight, relation, symmetric, world, own.rows.dtype)


def _side(embeddings: ArrayLike, labels: ArrayLike | None, ids: ArrayLike | None, *names: str) -> _Side:
    rows = as_rows(embeddings, names[0])
    n, device = len(rows), rows.device
    if torch.compiler.is_compiling():  # the checks read values, which would break the graph
        return _Side(rows, *(None if part is None else torch.as_tensor(part).long() for part in (labels, ids)))
    own_labels = None if labels is None else as_batch_labels(labels, n, name=names[1], of=names[0]).to(device)
    own_ids = None if ids is None else as_integers(ids, n, name=names[2], of=names[0]).to(device)
    return _Side(rows, own_labels, own_ids)


def _named(own: _Side, other: _Side, same_rows: bool, world: World) -> tuple[_Side, _Side]:
    """Without ids of the user's, a row that is on both sides is named by its place in the joint batch."""
    if own.ids is not None or not same_rows:
        return own, replace(other, ids=own.ids) if same_rows else other
    start = world.offset(len(own.rows), own.rows.device)
    places = torch.arange(start, start + len(own.rows), device=own.rows.device)
    return replace(own, ids=places), replace(other, ids=places)


def _listed(indices: Indices, own: _Side, other: _Side, same_rows: bool, keep_triplets: bool) -> ByPairs | ByTriplets:
    n, m = len(own.rows), len(other.rows)
    if isinstance(indices, Triplets | Pairs):
        ref_ids = own.ids if other.ids is None and same_rows else other.ids
        places = record_positions(indices, own.ids, ref_ids)
    else:
        places = listed_positions(indices, (n, m), own.labels, other.labels, own.rows.device)
    if len(places) == 3 and keep_triplets:
        return ByTriplets.of(*places, rows=n, ref_labels=other.labels)
    a1, p, a2, negative = places if len(places) == 4 else (places[0], places[1], places[0], places[2])
    return ByPairs.of(a1, p, a2, negative, shape=(n, m), ref_labels=other.labels)
