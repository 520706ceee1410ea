"""The one door through which embeddings, labels, ids and groups enter: checked, normalised, and kept together."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, Metric, as_integers, as_tensor, check_device, check_dimension
from legolas_metric.geometry import prepare

NO_ID = -1
"""Stands for "no neighbour" in an answer, and for "not one of the fitted rows" in a query."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Prepared rows with what is known of them: the fitted rows of an index, or its queries.

    `ids` of queries that are none of the fitted rows are -1.
    """

    embeddings: Float32[Tensor, "n d"]
    labels: Int64[Tensor, " n"] | None
    ids: Int64[Tensor, " n"]
    groups: Int64[Tensor, " n"] | None

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def __getitem__(self, part: slice | Int64[Tensor, " m"]) -> "Rows":
        return Rows(
            self.embeddings[part],
            None if self.labels is None else self.labels[part],
            self.ids[part],
            None if self.groups is None else self.groups[part],
        )


def fitted_rows(
    embeddings: ArrayLike,
    labels: ArrayLike | None,
    *,
    ids: ArrayLike | None,
    groups: ArrayLike | None,
    metric: Metric,
) -> Rows:
    """Check and prepare the arguments of `fit`: copies, so that what the caller does to theirs changes no answer."""
    rows = as_prepared(embeddings, metric)
    n, device = len(rows), rows.device
    own_groups = as_groups(groups, n)
    return Rows(
        rows if metric == "cosine" else rows.clone(),
        None if labels is None else as_labels(labels, n).to(device, copy=True),
        as_ids(ids, n).to(device, copy=True),
        None if own_groups is None else own_groups.to(device, copy=True),
    )


def query_rows(
    queries: ArrayLike,
    fitted: Rows,
    *,
    labels: ArrayLike | None,
    ids: ArrayLike | None,
    groups: ArrayLike | None,
    metric: Metric,
) -> Rows:
    """Check and prepare the arguments of `search`; ids may repeat, and are -1 where none are given."""
    rows = as_prepared(queries, metric, name="queries")
    check_dimension(rows, fitted.embeddings, names=("queries", "the fitted rows"))
    check_device(rows, fitted.embeddings, names=("queries", "the fitted rows"))
    q, device = len(rows), rows.device
    own_ids = torch.full((q,), NO_ID) if ids is None else as_integers(ids, q, name="ids", of="queries")
    own_groups = as_groups(groups, q, of="queries")
    return Rows(
        rows,
        None if labels is None else as_labels(labels, q, of="queries").to(device),
        own_ids.to(device),
        None if own_groups is None else own_groups.to(device),
    )


def check_range(queries: Rows, fitted: Rows, metric: Metric) -> None:
    """Refuse rows so long that a similarity would overflow float32, in which it is reported."""
    if metric == "cosine" or not len(queries):
        return
    longest = [
        float(torch.linalg.vector_norm(rows.embeddings, dim=1, dtype=torch.float64).max()) for rows in (queries, fitted)
    ]
    if (longest[0] * longest[1] if metric == "dot" else sum(longest)) > torch.finfo(torch.float32).max:
        raise ValueError(
            f"similarities of rows of norm {longest[0]:.3g} and {longest[1]:.3g} would overflow float32 under "
            f"metric={metric!r}: scale the embeddings down"
        )


def as_embeddings(
    embeddings: ArrayLike,
    *,
    name: str = "embeddings",
    metric: Metric | None = None,
    ids: Int64[Tensor, " n"] | None = None,
) -> Float32[Tensor, "n d"]:
    """Finite float32 rows on their own device, made contiguous.

    Args:
        embeddings: [n, d] of float16, bfloat16, float32 or float64.
        name: what the caller calls this argument, for the error text.
        metric: with "cosine", rows of norm zero are refused too.
        ids: [n], names the rows in the error text (default: row numbers).

    Raises:
        TypeError: integers, booleans or complex numbers.
        ValueError: not 2-D, empty, NaN or inf (also after the cast to float32), or zero rows under cosine.
    """
    rows = as_float_rows(embeddings, name=name)
    check_norms(rows, *_norm_range(rows), name=name, metric=metric, ids=ids)
    return rows


def as_float_rows(embeddings: ArrayLike, *, name: str) -> Float32[Tensor, "n d"]:
    """What `as_embeddings` gives, before it looks at the values: they may not be finite.

    Raises:
        TypeError, ValueError: as `as_embeddings`, but for the values.
    """
    rows = as_tensor(embeddings, name=name)
    if not rows.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {rows.dtype}: convert with .float()")
    if rows.ndim != 2 or rows.shape[0] == 0 or rows.shape[1] == 0:
        raise ValueError(f"{name} must be [n, d] with n >= 1 and d >= 1, got shape {tuple(rows.shape)}")
    return rows.detach().to(torch.float32).contiguous()


def check_norms(
    rows: Float32[Tensor, "n d"],
    least: float,
    most: float,
    *,
    name: str,
    metric: Metric | None,
    ids: Int64[Tensor, " n"] | None,
) -> None:
    """Raise, by their least and largest norm, where rows are not finite or, under "cosine", all zero."""
    if not math.isfinite(most):
        _refuse_rows(
            ~torch.isfinite(rows).all(1),
            ids,
            f"{name}: NaN or inf (in float32)",
            "find where the encoder overflowed, or drop these rows",
        )
    if metric == "cosine" and least == 0:
        _refuse_rows(
            (rows == 0).all(1),
            ids,
            f"{name}: all zero, which has no direction under metric='cosine',",
            "drop these rows, or use metric='euclidean' or 'dot'",
        )


def _norm_range(rows: Float32[Tensor, "n d"]) -> tuple[float, float]:
    """The least and the largest norm of rows, in float64: finite of finite rows, and 0 of zeros alone."""
    least, most = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).aminmax()
    return float(least), float(most)


def as_labels(labels: ArrayLike, n: int, *, name: str = "labels", of: str = "embeddings") -> Int64[Tensor, " n"]:
    """int64 labels of n rows; -1 means unlabelled, anything below it is refused.

    Raises:
        TypeError: labels that are not integers.
        ValueError: wrong length, not 1-D, or a label below -1.
    """
    values = as_integers(labels, n, name=name, of=of)
    if values.numel() and int(values.min()) < UNLABELLED:
        raise ValueError(f"{name} must be >= 0, or -1 for unlabelled, got {int(values.min())}")
    return values


def as_ids(ids: ArrayLike | None, n: int, *, of: str = "embeddings") -> Int64[Tensor, " n"]:
    """int64 ids of n rows, all different and >= 0; row numbers where none are given."""
    if ids is None:
        return torch.arange(n)
    values = as_integers(ids, n, name="ids", of=of)
    if n and int(values.min()) < 0:
        raise ValueError(f"ids must be >= 0, got {int(values.min())}: -1 stands for 'no neighbour'")
    ordered = values.sort().values
    repeated = ordered[1:][ordered[1:] == ordered[:-1]].unique()
    if len(repeated):
        raise ValueError(
            f"ids must be unique, got {len(repeated)} that occur more than once (first: {_first(repeated)})"
        )
    return values


def as_groups(groups: ArrayLike | None, n: int, *, of: str = "embeddings") -> Int64[Tensor, " n"] | None:
    """int64 groups (session, camera, recording) of n rows, or None where none are given."""
    return None if groups is None else as_integers(groups, n, name="groups", of=of)


def _refuse_rows(bad: Bool[Tensor, " n"], ids: Tensor | None, what: str, remedy: str) -> None:
    rows = bad.nonzero().flatten()
    names = rows if ids is None else ids.to(rows.device)[rows]
    kind = "rows" if ids is None else "ids"
    raise ValueError(f"{what} in {len(rows)} of {len(bad)} rows (first {kind}: {_first(names)}): {remedy}")


def _first(values: Tensor, count: int = 5) -> str:
    shown = ", ".join(str(int(value)) for value in values[:count])
    return shown + (", ..." if len(values) > count else "")


def as_prepared(
    embeddings: ArrayLike, metric: Metric, *, name: str = "embeddings", ids: Int64[Tensor, " n"] | None = None
) -> Float32[Tensor, "n d"]:
    """What a user has, checked by `as_embeddings` and prepared; under "cosine" nothing of it shares its memory."""
    rows = as_float_rows(embeddings, name=name)
    return prepare(as_embeddings(rows, name=name, metric=metric, ids=ids), metric)
