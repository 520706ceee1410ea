"""The arguments of every pair loss, checked and brought into one form."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, as_integers, as_labels, check_device, check_dimension
from legolas_metric.losses.relation import ByLabel, ByPairs, ByTriplets, Relation

Indices = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Unit anchors and unit reference rows in the order of the relation between them.

    Attributes:
        x, r: [n, d] and [m, d], float32 or float64.
        weights: [n], 0 for unlabelled anchors.
        relation: who is whose positive and negative.
    """

    x: Float[Tensor, "n d"]
    r: Float[Tensor, "m d"]
    weights: Float[Tensor, " n"]
    relation: Relation


def unit_rows(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """x / |x| in float32 (float64 stays): differentiable; a row of zeros has no direction and gets no gradient.

    Dividing by the largest entry first keeps the norm of huge and tiny rows finite.
    """
    wide = rows if rows.dtype == torch.float64 else rows.float()
    largest = wide.detach().abs().amax(1, keepdim=True)
    empty = largest < torch.finfo(torch.float32).tiny
    scaled = torch.where(empty, 0.0, wide / largest.masked_fill(empty, 1.0))
    norm = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / norm.masked_fill(empty, 1.0)


def as_rows(rows: ArrayLike, name: str) -> Float[Tensor, "n d"]:
    """Floating-point rows, with their gradient; NaN and inf pass, since a gradient scaler looks for them."""
    tensor = rows if isinstance(rows, Tensor) else torch.as_tensor(rows)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}: convert with .float()")
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise ValueError(f"{name} must be [n, d] with d >= 1, got shape {tuple(tensor.shape)}")
    return tensor


def prepare(
    embeddings: ArrayLike,
    labels: ArrayLike | None,
    indices_tuple: Indices | None,
    ref_emb: ArrayLike | None,
    ref_labels: ArrayLike | None,
    *,
    weights: ArrayLike | None = None,
    as_triplets: bool = False,
) -> Batch:
    """Check the arguments of a loss, and relate its anchors to its reference rows.

    Args:
        embeddings: [n, d], anchors, and reference rows too where no `ref_emb` is given.
        labels: [n] integers; may be missing where `indices_tuple` is given.
        indices_tuple: (a, p, n) or (a1, p, a2, n), positions.
        ref_emb, ref_labels: [m, d] and [m]; `ref_labels is labels` says that row i of both is the same example.
        weights: [n], >= 0.
        as_triplets: keep (a, p, n) together instead of reading the pairs (a, p) and (a, n).

    Raises:
        TypeError, ValueError: what does not fit, and what to pass instead.
    """
    rows = as_rows(embeddings, "embeddings")
    n, device = len(rows), rows.device
    own = None if labels is None else _labels(labels, n, "labels", "embeddings").to(device)
    same_rows = ref_emb is None or (labels is not None and ref_labels is labels)
    refs = rows if ref_emb is None else _references(rows, ref_emb)
    m = len(refs)
    others = own if same_rows else None if ref_labels is None else _labels(ref_labels, m, "ref_labels", "ref_emb")
    if indices_tuple is not None:
        relation = _listed(indices_tuple, (n, m), others, device, as_triplets)
    elif own is None or others is None:
        raise ValueError("pass labels (with ref_emb also ref_labels) or indices_tuple: there is nothing to compare")
    else:
        relation = ByLabel.of(own, None if same_rows else others.to(device))
    x = unit_rows(rows)
    r = x if refs is rows else unit_rows(refs).to(x.dtype)
    weight = _anchor_weights(x, weights, own)
    if relation.order is not None and relation.ref_order is not None:
        x, r, weight = x[relation.order], r[relation.ref_order], weight[relation.order]
    return Batch(x, r, weight, relation)


def _references(rows: Tensor, ref_emb: ArrayLike) -> Tensor:
    refs = as_rows(ref_emb, "ref_emb")
    check_dimension(rows, refs, names=("embeddings", "ref_emb"))
    check_device(rows, refs, names=("embeddings", "ref_emb"))
    return refs


def _labels(labels: ArrayLike, n: int, name: str, of: str) -> Int64[Tensor, " n"]:
    if torch.compiler.is_compiling():  # the checks read values, which would break the graph
        return torch.as_tensor(labels).long()
    return as_labels(labels, n, name=name, of=of)


def _listed(
    indices: Indices,
    shape: tuple[int, int],
    ref_labels: Int64[Tensor, " m"] | None,
    device: torch.device,
    as_triplets: bool,
) -> Relation:
    if len(indices) not in (3, 4):
        raise ValueError(f"indices_tuple must be (a, p, n) or (a1, p, a2, n), got {len(indices)} tensors")
    a1, p, *rest = indices
    a2, negative = rest if len(rest) == 2 else (a1, *rest)
    n, m = shape
    named = {"anchors": (a1, n), "positives": (p, m), "anchors of negatives": (a2, n), "negatives": (negative, m)}
    a1, p, a2, negative = (_positions(values, size, name).to(device) for name, (values, size) in named.items())
    if len(a1) != len(p) or len(a2) != len(negative) or (as_triplets and len(indices) == 3 and len(p) != len(negative)):
        lengths = ", ".join(str(len(part)) for part in indices)
        raise ValueError(f"indices_tuple has parts of different lengths ({lengths}): pairs must match one to one")
    if as_triplets and len(indices) == 3:
        return ByTriplets.of(a1, p, negative, rows=n, ref_labels=ref_labels)
    return ByPairs.of(a1, p, a2, negative, shape=shape, ref_labels=ref_labels)


def _positions(values: ArrayLike, size: int, name: str) -> Int64[Tensor, " t"]:
    if torch.compiler.is_compiling():
        return torch.as_tensor(values).long()
    places = as_integers(values, None, name=f"indices_tuple ({name})")
    if len(places) and not 0 <= int(places.min()) <= int(places.max()) < size:
        raise ValueError(
            f"indices_tuple ({name}) has positions from {int(places.min())} to {int(places.max())}, but there are "
            f"{size} rows: positions are row numbers of embeddings (anchors) and of ref_emb (the others)"
        )
    return places


def _anchor_weights(
    x: Float[Tensor, "n d"], weights: ArrayLike | None, labels: Int64[Tensor, " n"] | None
) -> Float[Tensor, " n"]:
    weight = x.new_ones(len(x)) if weights is None else torch.as_tensor(weights).detach().to(x)
    if weight.shape != (len(x),):
        raise ValueError(f"weights must be [{len(x)}], one for each row of embeddings, got {tuple(weight.shape)}")
    if weights is not None and not torch.compiler.is_compiling() and not bool((weight >= 0).all()):
        raise ValueError("weights must be >= 0, and none of them NaN")
    return weight if labels is None else weight.masked_fill(labels == UNLABELLED, 0.0)
