"""The one door through which embeddings, labels, ids and groups enter: checked, normalised, and kept together."""

import math
import warnings
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from legolas_metric.arrays import at_hand
from legolas_metric.checks import UNLABELLED, ArrayLike, Metric, as_integers, as_tensor, check_device, check_dimension
from legolas_metric.geometry import merge_directions, row_norms, unit_rows
from legolas_metric.lookup import lookup
from legolas_metric.names import Known, Names, as_named, known_by

NO_ID = -1
"""Stands for "no neighbour" in an answer, and for "not one of the fitted rows" in a query."""

LONGEST = 2.0**62
"""The largest norm under "dot" and "euclidean": all products and squared distances of such rows stay in float32."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Prepared rows with what is known of them: the fitted rows of an index, or its queries.

    Attributes:
        embeddings: [n, d], prepared: unit rows under "cosine". float32; float64 of a batch that came so.
        labels: [n], -1 for unlabelled.
        ids: [n]; of queries that are none of the fitted rows -1.
        groups: [n] sessions, cameras, recordings.
        label_names, group_names: what the integers stand for, where they came as names.
    """

    embeddings: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"] | None
    ids: Int64[Tensor, " n"]
    groups: Int64[Tensor, " n"] | None
    label_names: Names | None = None
    group_names: Names | None = None

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    @property
    def longest(self) -> float:
        """The largest norm."""
        return float(self.embeddings.norm(dim=1, dtype=torch.float64).max())

    def __getitem__(self, part: slice | Int64[Tensor, " m"]) -> "Rows":
        if isinstance(part, slice) and part == slice(0, len(self)):  # as of all tables of one block
            return self
        return Rows(
            self.embeddings[part],
            None if self.labels is None else self.labels[part],
            self.ids[part],
            None if self.groups is None else self.groups[part],
            self.label_names,
            self.group_names,
        )


def fitted_rows(
    embeddings: ArrayLike,
    labels: ArrayLike | None,
    *,
    ids: ArrayLike | None,
    groups: ArrayLike | None,
    metric: Metric,
    merged: bool = True,
) -> Rows:
    """Check and prepare the arguments of `fit`: copies, so that what the caller does to theirs changes no answer.

    Under "cosine" rows of one direction are merged (`geometry.merge_directions`): exact ties to every other row. With
    `merged=False` they are left to whoever knows more rows.
    """
    given = as_tensor(embeddings, name="embeddings")
    n = len(given) if given.ndim else 0
    own_ids = as_ids(ids if n else None, n)  # where there are no rows, that is what to say first
    rows = as_prepared(given, metric, ids=None if ids is None else own_ids)
    if metric == "cosine" and merged:
        merge_directions(rows)
    return _named(rows if metric == "cosine" else rows.clone(), labels, own_ids, groups)


def named_rows(
    rows: Float[Tensor, "n d"], labels: ArrayLike | None, *, ids: ArrayLike | None, groups: ArrayLike | None
) -> Rows:
    """Prepared rows as they are, not copied, with copies of what names them."""
    return _named(rows, labels, as_ids(ids, len(rows)), groups)


def _named(
    rows: Float[Tensor, "n d"], labels: ArrayLike | None, ids: Int64[Tensor, " n"], groups: ArrayLike | None
) -> Rows:
    n, device = len(rows), rows.device
    own_labels = None if labels is None else as_named(labels, n, name="labels")
    own_groups = None if groups is None else as_named(groups, n, name="groups")
    return Rows(
        rows,
        None if own_labels is None else _checked_labels(own_labels.codes, "labels").to(device),
        ids.to(device),
        None if own_groups is None else own_groups.codes.to(device),
        None if own_labels is None else own_labels.names,
        None if own_groups is None else own_groups.names,
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
    own_labels = (
        None if labels is None else as_labels(labels, q, of="queries", known=_known(fitted.labels, fitted.label_names))
    )
    own_groups = as_groups(groups, q, of="queries", known=_known(fitted.groups, fitted.group_names))
    return Rows(
        rows,
        None if own_labels is None else own_labels.to(device),
        own_ids.to(device),
        None if own_groups is None else own_groups.to(device),
        fitted.label_names,
        fitted.group_names,
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
    check_norms(rows, *range_of(row_norms(rows)), name=name, metric=metric, ids=ids)
    return rows


def as_float_rows(embeddings: ArrayLike, *, name: str, wide: bool = False) -> Float[Tensor, "n d"]:
    """What `as_embeddings` gives, before it looks at the values: they may not be finite.

    Args:
        embeddings: [n, d].
        name: what the caller calls this argument.
        wide: keep float64 as it is.

    Raises:
        TypeError, ValueError: as `as_embeddings`, but for the values.
    """
    rows = as_tensor(embeddings, name=name)
    if not rows.is_floating_point():
        remedy = ".float()" if isinstance(embeddings, Tensor) else "numpy.asarray(rows, dtype='float32')"
        raise TypeError(f"{name} must be floating point, got {rows.dtype}: convert with {remedy}")
    if rows.ndim != 2 or rows.shape[0] == 0 or rows.shape[1] == 0:
        raise ValueError(f"{name} must be [n, d] with n >= 1 and d >= 1, got shape {tuple(rows.shape)}")
    keep = wide and rows.dtype == torch.float64
    return rows.detach().to(torch.float64 if keep else torch.float32).contiguous()


def check_norms(
    rows: Float[Tensor, "n d"],
    least: float,
    most: float,
    *,
    name: str,
    metric: Metric | None,
    ids: Int64[Tensor, " n"] | None,
) -> None:
    """Raise, by their least and largest norm, where rows are not finite, or have no similarity that float32 holds.

    Under "cosine" these are rows of zeros; under "dot" and "euclidean" rows longer than `LONGEST`.
    """
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
    if metric in ("dot", "euclidean") and most > LONGEST:
        _refuse_rows(
            torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64) > LONGEST,
            ids,
            f"{name}: a norm of up to {most:.3g}, whose similarities would overflow float32 under metric={metric!r},",
            "scale the embeddings down, and find where the encoder diverged",
        )


def answered_by_a_scaler(rows: Tensor) -> bool:
    """Whether rows come from training in float16, where a gradient scaler skips the steps whose values overflow."""
    kind = rows.device.type
    autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    return rows.dtype == torch.float16 or autocast


def warn_of_overflow(rows: Tensor, name: str, what: str) -> None:
    """Say that rows overflowed, and what a loss or a miner makes of it."""
    bad = int((~torch.isfinite(rows.detach()).all(1)).sum())
    warnings.warn(
        f"{name} hold NaN or inf in {bad} of {len(rows)} rows: {what}, so that a gradient scaler skips this step. "
        "Where that happens again and again, find where the encoder overflows in float16",
        stacklevel=2,
    )


def range_of(norms: Float64[Tensor, "*n"]) -> tuple[float, float]:
    """The least and the largest norm of rows: finite of finite rows, and 0 of zeros alone."""
    line = at_hand(norms)
    return float(line.min()), float(line.max())


def as_labels(
    labels: ArrayLike, n: int | None, *, name: str = "labels", of: str = "embeddings", known: Known = None
) -> Int64[Tensor, " n"]:
    """int64 labels of n rows, -1 where unlabelled; names are numbered in ascending order, see `names.as_named`.

    Args:
        labels: [n] integers >= -1, or names.
        n: how many there must be (None: any number).
        name: what the caller calls this argument.
        of: what its rows are rows of.
        known: names that are numbered already, of the rows that these are compared with.

    Raises:
        TypeError: labels that are neither integers nor names.
        ValueError: wrong length, not 1-D, or a label below -1.
    """
    return _checked_labels(as_named(labels, n, name=name, of=of, known=known).codes, name)


def _checked_labels(codes: Int64[Tensor, " n"], name: str) -> Int64[Tensor, " n"]:
    if codes.numel() and int(codes.min()) < UNLABELLED:
        raise ValueError(f"{name} must be >= 0, or -1 for unlabelled, got {int(codes.min())}")
    return codes


def as_ids(ids: ArrayLike | None, n: int | None, *, name: str = "ids", of: str = "embeddings") -> Int64[Tensor, " n"]:
    """int64 ids of n rows (None: any number), all different and >= 0; row numbers where none are given."""
    if ids is None and n is not None:
        return torch.arange(n)
    values = as_integers(cast(ArrayLike, ids), n, name=name, of=of)
    if len(values) and int(values.min()) < 0:
        raise ValueError(f"{name} must be >= 0, got {int(values.min())}: -1 stands for 'no neighbour'")
    ordered = values.sort().values
    again = ordered[1:] == ordered[:-1]
    if bool(again.any()):
        repeated = ordered[1:][again].unique()
        raise ValueError(
            f"{name} must be unique, got {len(repeated)} that occur more than once (first: {_first(repeated)})"
        )
    return values


def places_of(ids: ArrayLike, among: Int64[Tensor, " n"]) -> Int64[Tensor, " m"]:
    """Row numbers of ids in a bank.

    Raises:
        ValueError: an id that the bank does not hold.
    """
    names = as_integers(ids, None, name="ids").to(among.device)
    place, found = lookup(names, among)
    if not bool(found.all()):
        unknown = names[~found]
        raise ValueError(f"{len(unknown)} ids are not in the bank (first: {unknown[:5].tolist()})")
    return place


def as_groups(
    groups: ArrayLike | None, n: int | None, *, of: str = "embeddings", known: Known = None
) -> Int64[Tensor, " n"] | None:
    """int64 groups (session, camera, recording, day) of n rows, names numbered; None where none are given."""
    return None if groups is None else as_named(groups, n, name="groups", of=of, known=known).codes


def _known(codes: Tensor | None, names: Names | None) -> Known:
    return None if codes is None else known_by(names)


def _refuse_rows(bad: Bool[Tensor, " n"], ids: Tensor | None, what: str, remedy: str) -> None:
    rows = bad.nonzero().flatten()
    names = rows if ids is None else ids.to(rows.device)[rows]
    kind = "rows" if ids is None else "ids"
    raise ValueError(f"{what} in {len(rows)} of {len(bad)} rows (first {kind}: {_first(names)}): {remedy}")


def _first(values: Tensor, count: int = 5) -> str:
    shown = ", ".join(str(int(value)) for value in values[:count])
    return shown + (", ..." if len(values) > count else "")


def as_prepared(
    embeddings: ArrayLike,
    metric: Metric,
    *,
    name: str = "embeddings",
    ids: Int64[Tensor, " n"] | None = None,
    wide: bool = False,
) -> Float[Tensor, "n d"]:
    """What a user has, checked by `as_embeddings` and prepared; under "cosine" nothing of it shares its memory.

    With `wide`, float64 stays float64.
    """
    rows = as_float_rows(embeddings, name=name, wide=wide)
    unit, norms = unit_rows(rows) if metric == "cosine" else (rows, row_norms(rows))
    check_norms(rows, *range_of(norms), name=name, metric=metric, ids=ids)
    return unit
