"""What the parts of a split share and should not: identities, groups, and inputs that are almost the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import UNLABELLED, ArrayLike, as_integers, as_tensor, check_number
from legolas_metric.geometry import chunks
from legolas_metric.names import as_named
from legolas_metric.signatures import typed

Parts = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Leakage:
    """What was found, by pair of parts; empty mappings where nothing was.

    Attributes:
        identities: classes that both parts hold.
        groups: groups that both parts hold.
        duplicates: pairs of row numbers, one of each part, whose inputs are almost the same.

    Example:
        >>> from legolas_metric.datasets.leakage import find_leakage
        >>> found = find_leakage({"train": [0, 1], "test": [2]}, labels=["ann", "bob", "ann"])
        >>> found.sentences()
        ('train and test share 1 identity: ann',)

    Source: ours.
    """

    identities: Mapping[Parts, tuple[str, ...]]
    groups: Mapping[Parts, tuple[str, ...]]
    duplicates: Mapping[Parts, tuple[tuple[int, int], ...]]

    @property
    def found(self) -> bool:
        """Whether anything is shared."""
        return bool(self.identities or self.groups or self.duplicates)

    def sentences(self) -> tuple[str, ...]:
        """What is shared, one sentence for each pair of parts and kind."""
        kinds = (("identity", "identities", self.identities), ("group", "groups", self.groups))
        said = [
            f"{a} and {b} share {len(names)} {one if len(names) == 1 else many}: {_some(names)}"
            for one, many, shared in kinds
            for (a, b), names in shared.items()
        ]
        for (a, b), pairs in self.duplicates.items():
            many = "pair" if len(pairs) == 1 else "pairs"
            said.append(f"{a} and {b} hold {len(pairs)} {many} of near-duplicates, by row: {_some(pairs)}")
        return tuple(said)

    @classmethod
    def joined(cls, parts: Sequence["Leakage"]) -> "Leakage":
        """What was found in any of several splits."""
        names = ("identities", "groups", "duplicates")
        merged: list[dict[Parts, tuple]] = [{}, {}, {}]
        for place, name in enumerate(names):
            for part in parts:
                for pair, held in getattr(part, name).items():
                    merged[place][pair] = tuple(dict.fromkeys((*merged[place].get(pair, ()), *held)))
        return cls(*merged)


@typed
def find_leakage(
    parts: Mapping[str, ArrayLike],
    *,
    labels: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    inputs: ArrayLike | None = None,
    near: float = 0.999,
) -> Leakage:
    """Compare each two parts of a split.

    Inputs are flattened, the mean input is taken off, and two are near-duplicates where their cosine is at least
    `near`. All pairs are looked at, block by block.

    Args:
        parts: name -> row numbers.
        labels: [n] classes; None in a closed set, whose parts share them by design. -1 is nobody's.
        groups: [n] recordings, sessions.
        inputs: [n, ...] numbers.
        near: in (0, 1].

    Raises:
        ValueError: row numbers beyond the data set, or rows that two parts share.

    Example:
        >>> import torch
        >>> from legolas_metric.datasets.leakage import find_leakage
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.01]])
        >>> find_leakage({"train": [0, 1], "test": [2]}, inputs=x, near=0.99).duplicates
        {('train', 'test'): ((0, 2),)}

    Source: ours.
    """
    check_number("near", near, above=0.0, most=1.0)
    rows = {name: as_integers(held, None, name=f"rows of {name}").cpu() for name, held in parts.items()}
    pairs = list(combinations(rows, 2))
    for a, b in pairs:
        both = rows[a][torch.isin(rows[a], rows[b])]
        if len(both):
            raise ValueError(f"{a} and {b} share {len(both)} rows (first: {int(both[0])}): a row belongs to one part")
    identities = {} if labels is None else _shared(labels, "labels", rows, pairs)
    sessions = {} if groups is None else _shared(groups, "groups", rows, pairs)
    duplicates = {} if inputs is None else _near(_unit(inputs), rows, pairs, near)
    return Leakage(identities, sessions, duplicates)


def _shared(
    values: ArrayLike, name: str, rows: Mapping[str, Tensor], pairs: Sequence[Parts]
) -> dict[Parts, tuple[str, ...]]:
    named = as_named(values, None, name=name)
    codes = named.codes.cpu()
    found = {}
    for a, b in pairs:
        mine, other = codes[rows[a]].unique(), codes[rows[b]].unique()
        both = [int(code) for code in mine[torch.isin(mine, other)] if int(code) != UNLABELLED]
        if both:
            found[a, b] = tuple(str(code) if named.names is None else named.names[code] for code in both)
    return found


def _unit(inputs: ArrayLike) -> Float32[Tensor, "n d"]:
    """Flat inputs without their mean, of length 1; what equals the mean stays 0 and is nobody's duplicate."""
    flat = as_tensor(inputs, name="inputs").float().flatten(1)
    centred = flat - flat.mean(0)
    length = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    return centred / length.masked_fill(length == 0, 1.0)


def _near(
    x: Float32[Tensor, "n d"], rows: Mapping[str, Int64[Tensor, " m"]], pairs: Sequence[Parts], near: float
) -> dict[Parts, tuple[tuple[int, int], ...]]:
    found = {}
    for a, b in pairs:
        held: list[tuple[int, int]] = []
        other = x[rows[b]]
        for part in chunks(len(rows[a]), rows_for(BLOCK, 4 * max(1, len(other)))):
            mine = rows[a][part]
            left, right = (x[mine] @ other.T >= near - 1e-6).nonzero().T
            held += zip(mine[left].tolist(), rows[b][right].tolist(), strict=True)
        if held:
            found[a, b] = tuple(held)
    return found


def _some(entries: Sequence[object], count: int = 5) -> str:
    return ", ".join(map(str, entries[:count])) + (", ..." if len(entries) > count else "")
