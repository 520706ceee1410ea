"""A batch as pytorch-metric-learning hands it in: checked, prepared, and which of its rows are which reference rows.

Letters: q anchors, n rows, b rows of a batch.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import UNLABELLED, ArrayLike, Metric, check_device, check_dimension
from legolas_metric.geometry import chunks, merge_directions, normalise
from legolas_metric.lookup import lookup
from legolas_metric.names import Known, as_named, known_by
from legolas_metric.rows import (
    NO_ID,
    Rows,
    answered_by_a_scaler,
    as_float_rows,
    as_ids,
    check_norms,
    range_of,
    warn_of_overflow,
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Checked arguments of a call by pytorch-metric-learning's convention; ids of anchors are their own rows, or -1."""

    anchors: Rows
    rows: Rows

    @classmethod
    def of(
        cls,
        embeddings: ArrayLike,
        labels: ArrayLike,
        ref_emb: ArrayLike | None,
        ref_labels: ArrayLike | None,
        groups: ArrayLike | None,
        ref_groups: ArrayLike | None,
        metric: Metric,
    ) -> "Batch":
        """Check and prepare the arguments."""
        if (ref_emb is None) != (ref_labels is None):
            raise ValueError("ref_emb and ref_labels go together: pass both or neither")
        anchors = _batch_rows(embeddings, labels, groups, metric, "")
        if ref_emb is None or ref_labels is None:
            return cls(anchors, anchors)
        rows = _batch_rows(ref_emb, ref_labels, ref_groups, metric, "ref_", like=anchors)
        check_device(anchors.embeddings, rows.embeddings, names=("embeddings", "ref_emb"))
        check_dimension(anchors.embeddings, rows.embeddings, names=("embeddings", "ref_emb"))
        if rows.embeddings.dtype != anchors.embeddings.dtype:
            anchors, rows = (replace(side, embeddings=side.embeddings.double()) for side in (anchors, rows))
        if ref_labels is not labels:
            anchors = replace(anchors, ids=_itself(anchors, rows))
        return cls(anchors, rows)


def batch_ids(ids: ArrayLike | None, batch: Batch) -> Int64[Tensor, " b"]:
    """Names of a batch's rows; their positions where none are given."""
    return as_ids(ids, len(batch.anchors)).to(batch.rows.ids.device)


def _batch_rows(
    embeddings: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike | None,
    metric: Metric,
    prefix: str,
    like: Rows | None = None,
) -> Rows:
    """Rows of a batch; `like`: the rows with whose names of labels and groups these are numbered alike."""
    name = f"{prefix}emb" if prefix else "embeddings"
    rows, overflowed = _prepared(embeddings, metric, name)
    n, device = rows.shape[0], rows.device
    known: tuple[Known, Known] = (None, None)
    if like is not None:
        known = known_by(like.label_names), None if like.groups is None else known_by(like.group_names)
    own_labels = as_named(labels, n, name=f"{prefix}labels", of=name, known=known[0])
    codes = _checked(own_labels.codes, f"{prefix}labels").to(device)
    own_groups = None
    if groups is not None:
        own_groups = as_named(groups, n, name=f"{prefix}groups", of=name, known=known[1])
    return Rows(
        rows,
        torch.full_like(codes, UNLABELLED) if overflowed else codes,
        torch.arange(n, device=device),
        None if own_groups is None else own_groups.codes.to(device),
        own_labels.names,
        None if own_groups is None else own_groups.names,
    )


def _checked(labels: Int64[Tensor, " n"], name: str) -> Int64[Tensor, " n"]:
    if int(labels.min()) < UNLABELLED:
        raise ValueError(f"{name} must be >= 0, or -1 for unlabelled, got {int(labels.min())}")
    return labels


def _prepared(embeddings: ArrayLike, metric: Metric, name: str) -> tuple[Float[Tensor, "n d"], bool]:
    """`as_prepared(wide=True)` by torch alone, as nothing is compiled for a batch; and whether the rows overflowed.

    Rows that overflowed in float16 are nobody's: nothing is mined from them, where the loss of such a batch is NaN.
    """
    rows = as_float_rows(embeddings, name=name, wide=True)
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    least, most = range_of(norm)
    if not math.isfinite(most) and isinstance(embeddings, Tensor) and answered_by_a_scaler(embeddings):
        warn_of_overflow(embeddings, name, "nothing is mined from this batch")
        return normalise(torch.ones_like(rows)), True
    check_norms(rows, least, most, name=name, metric=metric, ids=None)
    if metric != "cosine":
        return rows, False
    norm.masked_fill_((norm - 1).abs_() <= 2 * torch.finfo(rows.dtype).eps, 1.0)
    rows = rows.double().div_(norm).to(rows.dtype)
    merge_directions(rows)
    return rows, False


def _itself(anchors: Rows, rows: Rows) -> Int64[Tensor, " q"]:
    """The reference row that each anchor is: the first one of its label that is equal to it bit for bit; -1: none.

    A memory that holds the batch would otherwise give each anchor itself for its nearest positive.
    """
    keys = [row_keys(side.embeddings, side.labels) for side in (anchors, rows) if side.labels is not None]
    place, found = lookup(keys[0], keys[1])
    same = (rows.embeddings[place] == anchors.embeddings).all(1)  # keys of 64 bits may coincide
    return torch.where(found & same, place, NO_ID)


def row_keys(rows: Float[Tensor, "n d"], labels: Int64[Tensor, " n"] | None = None) -> Int64[Tensor, " n"]:
    """Numbers of 64 bits that are equal for rows that are equal bit for bit, and for others as good as never."""
    factors = torch.empty(rows.shape[1] + 1, dtype=torch.int64)
    factors.random_(-(2**62), 2**62, generator=torch.Generator().manual_seed(1))
    factors = factors.to(rows.device) | 1
    out = torch.zeros(len(rows), dtype=torch.int64, device=rows.device) if labels is None else labels * factors[-1]
    for part in chunks(len(rows), rows_for(BLOCK, 16 * rows.shape[1])):
        own = rows[part] + 0.0  # -0 is 0
        bits = own.view(torch.int64 if rows.dtype == torch.float64 else torch.int32).long()
        out[part] += ((bits ^ (bits >> 15)) * factors[:-1]).sum(1)
    return out
