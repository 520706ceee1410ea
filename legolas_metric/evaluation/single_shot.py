"""Single-gallery-shot: one gallery row of each class, drawn again and again; of a query's own one that it may find.

Letters: q queries, g gallery rows, r drawn ones, c classes.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.lookup import lookup
from legolas_metric.rows import Rows

_SHARED_DRAWS = 16
"""Galleries that all queries of a repeat share, before what is left is given galleries of its own."""


def single_shots(
    rows: Rows, asker: Int64[Tensor, " q"], found: Int64[Tensor, " g"], protocol: RetrievalProtocol
) -> Iterator[tuple[Int64[Tensor, " q"], Int64[Tensor, " r"]]]:
    """(queries, gallery rows) of each draw; in each repeat every query asks once.

    A gallery serves those queries whose own class shows them a row that they may find; the others wait for the next.
    So what a query finds of its own class is drawn evenly from what it may find, and of any other class from all.
    """
    assert protocol.repeats is not None
    generator = torch.Generator().manual_seed(protocol.seed)
    cells = _cells(rows, by_group=protocol.exclude == "same_group")
    hopeless = ~_answerable(rows, asker, found, cells)
    for _ in range(protocol.repeats):
        waiting, never = asker, hopeless
        for _ in range(_SHARED_DRAWS):
            gallery = _drawn(rows, found, generator)
            served = never | _served(rows, waiting, gallery, cells)
            if bool(served.any()):
                yield waiting[served], gallery
            waiting, never = waiting[~served], never[~served]
            if not len(waiting):
                break
        yield from _own_galleries(rows, waiting[~never], found, cells, generator)


def _own_galleries(
    rows: Rows,
    waiting: Int64[Tensor, " q"],
    found: Int64[Tensor, " g"],
    cells: Int64[Tensor, " n"],
    generator: torch.Generator,
) -> Iterator[tuple[Int64[Tensor, " q"], Int64[Tensor, " r"]]]:
    """A gallery for each class and group of queries that may find few rows of their class."""
    assert rows.labels is not None
    for cell in cells[waiting].unique():
        some = waiting[cells[waiting] == cell]
        label = rows.labels[some[0]]
        allowed = found[(rows.labels[found] == label) & (cells[found] != cell)]
        gallery = _drawn(rows, found, generator)
        own = allowed[int(torch.randint(len(allowed), (1,), generator=generator))]
        yield some, torch.where(rows.labels[gallery] == label, own, gallery)


def _cells(rows: Rows, *, by_group: bool) -> Int64[Tensor, " n"]:
    """Of each row what it must not find of its class: the rows of its cell, which is its class's group, or itself."""
    if not by_group:
        return torch.arange(len(rows), device=rows.ids.device)
    assert rows.labels is not None
    assert rows.groups is not None
    return torch.stack([rows.labels, rows.groups], 1).unique(dim=0, return_inverse=True)[1]


def _answerable(
    rows: Rows, asker: Int64[Tensor, " q"], found: Int64[Tensor, " g"], cells: Int64[Tensor, " n"]
) -> Bool[Tensor, " q"]:
    """Which queries have a row to find at all."""
    assert rows.labels is not None
    classes = rows.labels.unique(return_inverse=True)[1]
    own, taken = (torch.bincount(keys[found], minlength=len(rows))[keys[asker]] for keys in (classes, cells))
    return own > taken


def _served(
    rows: Rows, waiting: Int64[Tensor, " q"], gallery: Int64[Tensor, " r"], cells: Int64[Tensor, " n"]
) -> Bool[Tensor, " q"]:
    """Which queries may find the row that was drawn of their class."""
    assert rows.labels is not None
    place, there = lookup(rows.labels[waiting], rows.labels[gallery])
    return there & (cells[gallery[place]] != cells[waiting])


def _drawn(rows: Rows, found: Int64[Tensor, " g"], generator: torch.Generator) -> Int64[Tensor, " r"]:
    """One row of each class, and all that are unlabelled."""
    assert rows.labels is not None
    mixed = found[torch.randperm(len(found), generator=generator).to(found.device)]
    labels, order = rows.labels[mixed].sort(stable=True)
    begins = torch.ones_like(labels, dtype=torch.bool)
    begins[1:] = (labels[1:] != labels[:-1]) | (labels[1:] == UNLABELLED)
    return mixed[order[begins]]
