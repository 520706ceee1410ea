"""Values of one file for the rows of another, by their ids, which may be numbers or names."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.lookup import lookup
from legolas_metric.names import Names

Named = tuple[Tensor, Names | None]
"""Numbers, and the names that they stand for, where they came as names."""


def by_id(told: Mapping[str, Named], key: str, ids: Named | None, path: Path) -> Named:
    """Values in the order of the rows' ids where they come with ids too, else as they are.

    Args:
        told: the values under `key`, and their `ids`, as a file holds them.
        key: "labels" or "groups", by whatever name.
        ids: of the rows.
        path: of the file, for the errors.

    Warns:
        UserWarning: it has ids, and the rows have none.

    Raises:
        ValueError: ids of which several or none have a value, or that are names on one side alone.
    """
    values, names = told[key]
    if ids is None and "ids" in told:
        warnings.warn(
            f"{path} has ids and the embeddings have none, so its {key} are taken row by row: give the embeddings ids "
            "too (ids=, --ids FILE) where the order may differ",
            stacklevel=3,
        )
    if ids is None or "ids" not in told or len(told["ids"][0]) != len(values):
        return told[key]
    (theirs, called), (own, own_names) = told["ids"], ids
    if (called is None) != (own_names is None):
        raise ValueError(f"{path}: ids are {'numbers' if called is None else 'names'} there, and not in the other file")
    theirs, own = theirs.long(), own.long()
    if called is not None and own_names is not None:
        theirs = renumbered(theirs, called, own_names)
    held, count = theirs[torch.isin(theirs, own)].unique(return_counts=True)
    if bool((count > 1).any()):
        twice = held[count > 1]
        raise ValueError(f"{path} has several rows for {len(twice)} ids (first: {_said(twice, own_names)})")
    place, found = lookup(own, theirs)
    if not bool(found.all()):
        lost, what = own[~found], key.removesuffix("s")
        first = _said(lost, own_names)
        raise ValueError(f"{path} has no {what} for {len(lost)} of {len(own)} ids (first: {first})")
    return values[place], names


def renumbered(ids: Int64[Tensor, " n"], names: Names, known: Names) -> Int64[Tensor, " n"]:
    """Ids that stand for `names`, as those that stand for `known`; new names are numbered after them.

    Example:
        >>> renumbered(torch.tensor([0, 1]), ("b.png", "c.png"), ("a.png", "b.png")).tolist()
        [1, 3]
    """
    numbers = {name: number for number, name in enumerate(known)}
    return torch.tensor([numbers.get(name, len(known) + place) for place, name in enumerate(names)])[ids]


def _said(ids: Tensor, names: Names | None) -> list[Any]:
    """The first few ids, by name where they have any."""
    return [one if names is None else names[one] for one in ids[:5].tolist()]
