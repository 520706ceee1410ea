"""A classifier's loss on a linear head of its own, in the place of a metric loss."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from legolas_metric.checks import UNLABELLED, ArrayLike
from legolas_metric.rows import as_labels


class HeadLoss(nn.Module):
    """A loss of logits, which a linear head makes of embeddings; its classes are declared.

    L = loss(W z + b, place of the label among the classes), rows labelled -1 left out

    Args:
        dim: width of the embeddings.
        classes: labels that can occur, in any order; repeats count once, and -1 not at all.
        loss: `loss(logits, targets)`, which leaves out targets of -1 (default: cross-entropy).

    Raises:
        ValueError: fewer than 2 classes; when called, a label that is none of them, or mined triplets.

    Example:
        >>> import torch
        >>> from legolas_metric.losses.head import HeadLoss
        >>> HeadLoss(4, [7, 9])(torch.randn(3, 4), torch.tensor([9, 7, -1])).shape
        torch.Size([])
    """

    classes: Tensor

    def __init__(self, dim: int, classes: ArrayLike, *, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        known = as_labels(classes, None).unique()
        known = known[known != UNLABELLED]
        if len(known) < 2:
            raise ValueError(f"a classifier needs 2 classes or more, got {known.tolist()}")
        self.register_buffer("classes", known)
        self.head = nn.Linear(dim, len(known))
        self.loss = nn.CrossEntropyLoss(ignore_index=UNLABELLED) if loss is None else loss

    def forward(
        self, embeddings: Float[Tensor, "b d"], labels: ArrayLike, indices_tuple: Any = None
    ) -> Float[Tensor, ""]:
        """The loss of a batch."""
        if indices_tuple is not None:
            raise ValueError("a classifier's loss sees labels, and no mined triplets: leave out the miner")
        given = as_labels(labels, len(embeddings), of="embeddings").to(self.classes.device)
        place = torch.searchsorted(self.classes, given).clamp_max(len(self.classes) - 1)
        unknown = (self.classes[place] != given) & (given != UNLABELLED)
        if bool(unknown.any()):
            raise ValueError(f"label {int(given[unknown][0])} is none of the {len(self.classes)} classes declared")
        return self.loss(self.head(embeddings), place.masked_fill(given == UNLABELLED, UNLABELLED))
