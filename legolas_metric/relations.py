"""Which labels are positives of each other, and which negatives: for miners, losses and evaluation alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float32, Int8, Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED, ArrayLike, as_tensor, check_choice, check_number

PositiveGroup = Literal["any", "other"]
NegativeGroup = Literal["any", "same"]
Compare = Callable[[Int64[Tensor, " q"], Int64[Tensor, " n"]], Tensor]


@dataclass(frozen=True, slots=True)
class LabelRelation:
    """What a row is to an anchor: positive, negative, or neither.

    A row is never its own positive. Label -1 is never an anchor and never a positive, and negative to every labelled
    row, whatever `compare` says.

    Args:
        compare: maps labels [q] of anchors and [n] of rows to [q, n] of +1 (positive), -1 (negative) and 0 (ignore);
            None compares for equality. It sees a block at a time, and never a label of -1.
        positive_group: "other" takes positives from other groups only (another session, another camera).
        negative_group: "same" takes negatives from the anchor's own group only (hard negatives of one session).

    Raises:
        ValueError: an unknown word.

    Example:
        >>> import torch
        >>> from legolas_metric import EmbeddingBank, HardMiner, LabelRelation
        >>> bank = EmbeddingBank(torch.eye(4), [0, 0, 0, 1], groups=[1, 1, 2, 2])
        >>> triplets = HardMiner(relation=LabelRelation(positive_group="other")).mine(bank, anchors=[0, 1])
        >>> triplets.positive
        tensor([2, 2])

    Source: ours.
    """

    compare: Compare | None = None
    positive_group: PositiveGroup = "any"
    negative_group: NegativeGroup = "any"

    def __post_init__(self) -> None:
        check_choice("positive_group", self.positive_group, get_args(PositiveGroup))
        check_choice("negative_group", self.negative_group, get_args(NegativeGroup))

    @property
    def needs_groups(self) -> bool:
        """Whether groups decide anything."""
        return self.positive_group != "any" or self.negative_group != "any"

    @property
    def by_label(self) -> bool:
        """Whether equality of labels decides what is negative, so that an index can find it."""
        return self.compare is None and self.negative_group == "any"

    @classmethod
    def hierarchy(cls, paths: ArrayLike, *, positive: int = 0, negative: int = 1) -> "LabelRelation":
        """Labels as leaves of a tree: positive where they share an ancestor near by, negative where they share none.

        Args:
            paths: [c, l], the ancestors of each label from itself (level 0) up; label i is row i.
            positive: positives share the ancestor of this level; 0 is the label itself.
            negative: negatives differ in the ancestor of this level. What is neither, is ignored: with 1, another
                label of the same parent is no negative.

        Raises:
            ValueError: paths that are not integers [c, l], or levels out of order.

        Example:
            >>> from legolas_metric import LabelRelation
            >>> import torch
            >>> species_and_genus = [[0, 10], [1, 10], [2, 11]]
            >>> relation = LabelRelation.hierarchy(species_and_genus)
            >>> relation.compare(torch.tensor([0]), torch.tensor([0, 1, 2]))
            tensor([[ 1,  0, -1]], dtype=torch.int8)
        """
        table = torch.as_tensor(paths)
        if table.ndim != 2 or table.is_floating_point() or not 0 <= positive <= negative < table.shape[1]:
            raise ValueError(
                f"paths must be integers [labels, levels] with 0 <= positive <= negative < levels, got shape "
                f"{tuple(table.shape)}, positive={positive}, negative={negative}"
            )

        return cls(_SharedAncestor(table.long(), positive, negative))

    @classmethod
    def multi_label(cls, tags: ArrayLike, *, positive: float = 0.5, negative: float = 0.0) -> "LabelRelation":
        """Several labels at once: by the overlap of two sets of tags, |A and B| / |A or B|.

        Args:
            tags: [c, t] of 0 and 1, the set that each label stands for; label i is row i (one for each example, if
                need be).
            positive: overlap from which two sets are positives.
            negative: overlap up to which they are negatives. What lies between is ignored.

        Raises:
            ValueError: tags that are not 0 or 1, [c, t], or overlaps out of order.

        Example:
            >>> from legolas_metric import LabelRelation
            >>> import torch
            >>> relation = LabelRelation.multi_label([[1, 1, 0], [1, 1, 1], [0, 1, 1], [0, 0, 1]])
            >>> relation.compare(torch.tensor([0]), torch.tensor([1, 2, 3]))
            tensor([[ 1,  0, -1]], dtype=torch.int8)
        """
        check_number("positive", positive)
        check_number("negative", negative)
        table = as_tensor(tags, name="tags").float()
        if table.ndim != 2 or bool(((table != 0) & (table != 1)).any()) or not 0 <= negative < positive <= 1:
            raise ValueError(
                f"tags must be 0 or 1, [labels, tags], with 0 <= negative < positive <= 1, got shape "
                f"{tuple(table.shape)}, positive={positive}, negative={negative}"
            )

        return cls(_SharedTags(table, positive, negative))


def positives_and_negatives(
    relation: LabelRelation,
    labels: Int64[Tensor, " q"],
    others: Int64[Tensor, " n"],
    groups: Int64[Tensor, " q"] | None = None,
    other_groups: Int64[Tensor, " n"] | None = None,
) -> tuple[Bool[Tensor, "q n"], Bool[Tensor, "q n"]]:
    """Which rows are positives of labelled anchors, and which are negatives, as if no row were an anchor itself.

    Raises:
        TypeError: `compare` gives no tensor, or one of booleans, which know no negatives.
        ValueError: `compare` gives no table of these anchors and rows, or NaN.
    """
    if relation.compare is None:
        positive = labels[:, None] == others
        negative = ~positive
    else:
        labelled = others != UNLABELLED
        code = relation.compare(labels, others[labelled])
        shape = (len(labels), int(labelled.sum()))
        if not isinstance(code, Tensor) or code.dtype == torch.bool:
            kind = f"tensor of {code.dtype}" if isinstance(code, Tensor) else type(code).__name__
            raise TypeError(
                f"compare must return a tensor of +1 (positive), -1 (negative) and 0 (ignore), got a {kind}"
            )
        if tuple(code.shape) != shape:
            raise ValueError(
                f"compare must return a value for each of {shape[0]} anchors (down) and {shape[1]} rows (across), "
                f"got shape {tuple(code.shape)}"
            )
        if code.is_floating_point() and bool(code.isnan().any()):
            raise ValueError("compare returned NaN: give +1 (positive), -1 (negative) or 0 (ignore)")
        positive = torch.zeros(len(labels), len(others), dtype=torch.bool, device=code.device)
        negative = positive.logical_not()
        positive[:, labelled], negative[:, labelled] = code > 0, code < 0
    if relation.needs_groups:
        assert groups is not None
        assert other_groups is not None
        same_group = groups[:, None] == other_groups
        if relation.positive_group == "other":
            positive &= ~same_group
        if relation.negative_group == "same":
            negative &= same_group
    return positive, negative


@dataclass(frozen=True, slots=True, eq=False)
class _SharedAncestor:
    """Compares labels by their paths; a class, since a function made by a call could not be sent to a worker."""

    table: Int64[Tensor, "c l"]
    positive: int
    negative: int

    def __call__(self, a: Int64[Tensor, " q"], b: Int64[Tensor, " n"]) -> Int8[Tensor, "q n"]:
        known = self.table.to(a.device)
        _check_known(a, b, len(known))
        near = known[a, self.positive][:, None] == known[b, self.positive]
        far = known[a, self.negative][:, None] != known[b, self.negative]
        return near.to(torch.int8) - far.to(torch.int8)


@dataclass(frozen=True, slots=True, eq=False)
class _SharedTags:
    """Compares labels by the overlap of their tags."""

    table: Float32[Tensor, "c t"]
    positive: float
    negative: float

    def __call__(self, a: Int64[Tensor, " q"], b: Int64[Tensor, " n"]) -> Int8[Tensor, "q n"]:
        known = self.table.to(a.device)
        _check_known(a, b, len(known))
        both = known[a] @ known[b].T
        either = known[a].sum(1)[:, None] + known[b].sum(1) - both
        overlap = torch.where(either > 0, both / either.clamp_min(1), 0.0)
        return (overlap >= self.positive).to(torch.int8) - (overlap <= self.negative).to(torch.int8)


def _check_known(a: Int64[Tensor, " q"], b: Int64[Tensor, " n"], labels: int) -> None:
    largest = max(int(part.max()) for part in (a, b) if len(part))
    if largest >= labels:
        raise ValueError(f"label {largest} has no row in the relation's table of {labels} labels: label i is row i")
