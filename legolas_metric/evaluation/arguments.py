"""Arguments of the evaluations as users have them, made what the evaluations work on."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, Metric, check_metric, check_whole
from legolas_metric.rows import Rows, as_float_rows, fitted_rows


def as_table(
    embeddings: ArrayLike | EmbeddingBank,
    labels: ArrayLike | None,
    *,
    ids: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    metric: Metric,
) -> tuple[Rows, Metric]:
    """What is evaluated, checked and prepared, and its metric. Of a bank, what is given beside it stands for its own.

    Raises:
        TypeError: neither labels nor a bank.
        ValueError: an unknown metric, or another than the bank's; what `fitted_rows` refuses.
    """
    check_metric(metric)
    if not isinstance(embeddings, EmbeddingBank):
        if labels is None:
            raise TypeError(
                "labels are missing: pass one for each row, or an EmbeddingBank, which has them (a StoredBank's load())"
            )
        return fitted_rows(embeddings, labels, ids=ids, groups=groups, metric=metric), metric
    bank = embeddings
    if metric not in ("cosine", bank.metric):
        raise ValueError(f"metric={metric!r} of a bank of metric {bank.metric!r}: leave it out")
    if labels is None and ids is None and groups is None:
        return bank.table, bank.metric
    given = fitted_rows(
        bank.embeddings,
        bank.labels if labels is None else labels,
        ids=bank.ids if ids is None else ids,
        groups=bank.groups if groups is None else groups,
        metric=bank.metric,
    )
    label_names = bank.label_names if labels is None else given.label_names
    group_names = bank.group_names if groups is None else given.group_names
    return replace(given, label_names=label_names, group_names=group_names), bank.metric


def rows_of_baseline(baseline: ArrayLike | EmbeddingBank, rows: Rows) -> ArrayLike:
    """The embeddings of the same rows by the untrained encoder: those of a bank by id."""
    if isinstance(baseline, EmbeddingBank):
        return baseline.embeddings[baseline.rows(rows.ids)]
    return as_float_rows(baseline, name="baseline")


class Asked(dict[Any, float]):
    """Values by what was asked for (k, or a false accept rate); for another key it says which those are.

    Example:
        >>> rank = Asked({1: 0.5, 5: 0.75}, name="rank", argument="ks")
        >>> rank[5]
        0.75
        >>> rank[3]
        Traceback (most recent call last):
        KeyError: 'rank[3] was not asked for: ks were 1, 5'
    """

    def __init__(self, values: Mapping[Any, float], *, name: str, argument: str) -> None:
        super().__init__(values)
        self._name, self._argument = name, argument

    def __missing__(self, key: Any) -> float:
        known = ", ".join(f"{one:g}" for one in self)
        raise KeyError(f"{self._name}[{key}] was not asked for: {self._argument} were {known}")


def as_ks(ks: object) -> tuple[int, ...]:
    """Depths, each a whole number of at least 1; one number stands for itself.

    Raises:
        TypeError, ValueError: anything else.
    """
    return tuple(check_whole("ks", k, 1) for k in _several("ks", ks, "integers"))


def as_fars(fars: object) -> tuple[float, ...]:
    """False accept rates in (0, 1]; one number stands for itself.

    Raises:
        TypeError, ValueError: anything else.
    """
    given = _several("fars", fars, "numbers in (0, 1]")
    for far in given:
        if not isinstance(far, Real) or isinstance(far, bool):
            raise TypeError(f"fars must be numbers in (0, 1], got {far!r}")
        if not 0 < float(far) <= 1:
            raise ValueError(f"fars must lie in (0, 1], got {far}")
    return tuple(float(far) for far in given)


def _several(name: str, values: object, what: str) -> tuple[Any, ...]:
    plain: Any = values.tolist() if isinstance(values, np.ndarray | Tensor) else values
    if isinstance(plain, Real) and not isinstance(plain, bool):
        return (plain,)
    if isinstance(plain, str | bytes) or not isinstance(plain, Iterable):
        raise TypeError(f"{name} must be {what}, got {values!r}")
    return tuple(plain)
