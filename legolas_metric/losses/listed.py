"""Pairs and triplets that are listed: positions by PML's convention, or records of ids, as positions in the batch."""

import warnings

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, as_integers
from legolas_metric.lookup import lookup
from legolas_metric.records import Pairs, Triplets

Indices = tuple[ArrayLike, ...] | list[ArrayLike] | Triplets | Pairs
"""Positions (a, p, n) or (a1, p, a2, n) as PML's miners give them, or a record of ids."""

_TRIPLET = ("anchors", "positives", "negatives")
_PAIRS = ("anchors of positives", "positives", "anchors of negatives", "negatives")

_CONTRADICTION = (
    "indices_tuple contradicts the labels (a positive of another label, or a negative of the same): those pairs are "
    "left out. With PML's CrossBatchMemory it is a miner's tuple of positions in the batch, which PML reads as rows of "
    "the memory: give the miner to the memory, CrossBatchMemory(..., miner=as_miner(miner)), and pass no tuple. Where "
    "the tuple is right, pass no labels"
)

Places = tuple[Int64[Tensor, " _"], ...]
"""(a, p, n) or (a1, p, a2, n)."""

_NOWHERE = (
    "none of the {count} entries of a {kind} record lies wholly in this batch, so that the loss is 0: check that ids= "
    "are the data set's, and make batches by TripletSampler or a MiningLoop"
)


def listed_positions(
    indices: tuple[ArrayLike, ...] | list[ArrayLike],
    shape: tuple[int, int],
    labels: Int64[Tensor, " n"] | None,
    ref_labels: Int64[Tensor, " m"] | None,
    device: torch.device,
) -> Places:
    """Checked positions, less what the labels contradict: positives of two labels, negatives of one.

    Raises:
        ValueError: another number of parts, lengths that do not match, positions outside of `shape`.
    """
    if not isinstance(indices, tuple | list) or len(indices) not in (3, 4):
        got = f"{len(indices)} tensors" if isinstance(indices, tuple | list) else f"{type(indices).__name__}"
        raise ValueError(f"indices_tuple must be (a, p, n) or (a1, p, a2, n), got {got}")
    names = _TRIPLET if len(indices) == 3 else _PAIRS
    n, m = shape
    places = tuple(
        _positions(part, n if "anchors" in name else m, name).to(device) for part, name in zip(indices, names)
    )
    lengths = [len(part) for part in places]
    if lengths[0] != lengths[1] or lengths[-1] != lengths[-2]:
        raise ValueError(f"indices_tuple has parts of lengths {lengths}: pairs and triplets must match one to one")
    if labels is None or ref_labels is None or torch.compiler.is_compiling():
        return places
    return _agreeing(places, labels, ref_labels)


def record_positions(
    record: Triplets | Pairs, ids: Int64[Tensor, " n"] | None, ref_ids: Int64[Tensor, " m"] | None
) -> Places:
    """Positions of a record's ids; pairs and triplets that do not lie wholly in the batch are left out.

    Raises:
        ValueError: no ids by which to find them.
    """
    kind = type(record).__name__
    if ids is None or ref_ids is None:
        missing = "ids=" if ids is None else "ref_ids="
        of = "embeddings" if ids is None else "ref_emb"
        raise ValueError(
            f"a {kind} record holds ids, and nothing says which row of {of} has which: pass {missing}, the data set's "
            f"ids of the rows of {of}"
        )
    if isinstance(record, Triplets):
        places = _inside((record.anchor, record.positive, record.negative), ids, ref_ids)
    else:
        positives = _inside((record.anchor_p, record.positive), ids, ref_ids)
        places = *positives, *_inside((record.anchor_n, record.negative), ids, ref_ids)
    count = len(record.negative) if isinstance(record, Triplets) else len(record.positive) + len(record.negative)
    if count and not any(len(part) for part in places):
        warnings.warn(_NOWHERE.format(kind=kind, count=count), UserWarning, stacklevel=2)
    return places


def _inside(names: Places, ids: Int64[Tensor, " n"], ref_ids: Int64[Tensor, " m"]) -> Places:
    found = [lookup(part, among) for part, among in zip(names, (ids, ref_ids, ref_ids))]
    inside = torch.stack([there for _, there in found]).all(0)
    return tuple(place[inside] for place, _ in found)


def _agreeing(places: Places, labels: Int64[Tensor, " n"], ref_labels: Int64[Tensor, " m"]) -> Places:
    """What the labels allow, said once where they contradict; an unlabelled row is no anchor, and nobody's positive."""
    of_p, of_n = places[:2], places[-2:] if len(places) == 4 else (places[0], places[2])
    labelled = [labels[a] != UNLABELLED for a, _ in (of_p, of_n)]
    same = [labels[a] == ref_labels[other] for a, other in (of_p, of_n)]
    strange = (labelled[0] & ~same[0] & (ref_labels[of_p[1]] != UNLABELLED)).any() | (labelled[1] & same[1]).any()
    if bool(strange):
        warnings.warn(_CONTRADICTION, UserWarning, stacklevel=2)
    right_p, right_n = labelled[0] & same[0], labelled[1] & ~same[1]
    if len(places) == 3:
        right = right_p & right_n
        return tuple(part[right] for part in places)
    return places[0][right_p], places[1][right_p], places[2][right_n], places[3][right_n]


def _positions(values: ArrayLike, size: int, name: str) -> Int64[Tensor, " t"]:
    if torch.compiler.is_compiling():
        return torch.as_tensor(values).long()
    places = as_integers(values, None, name=f"indices_tuple ({name})")
    least, most = torch.stack(places.aminmax()).tolist() if len(places) else (0, 0)
    if len(places) and not 0 <= least <= most < size:
        raise ValueError(
            f"indices_tuple ({name}) has positions {least} to {most} for {size} rows: anchors are row numbers of "
            "embeddings, the others of ref_emb where that is given; ids come as a Triplets or Pairs"
        )
    return places
