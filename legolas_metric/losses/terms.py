"""What anchors contribute to a loss, and the mean over them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Terms(NamedTuple):
    """What each anchor of a block contributes.

    Attributes:
        value: [b], sum of the anchor's terms; exactly 0 where it has none.
        counted: [b], how many of them the mean is taken over.
        active: [b], how many of them are greater than 0.
        possible: [b], how many there are.
    """

    value: Float[Tensor, " b"]
    counted: Float[Tensor, " b"]
    active: Float[Tensor, " b"]
    possible: Float[Tensor, " b"]


class Sums(NamedTuple):
    """`Terms` summed over all anchors, each times its anchor's weight."""

    value: Float[Tensor, ""]
    counted: Float[Tensor, ""]
    active: Float[Tensor, ""]
    possible: Float[Tensor, ""]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossDetail:
    """What a loss saw, as plain numbers; over all processes where it gathers.

    Attributes:
        active_share: share of the terms that are greater than 0: of triplets for `TripletLoss`, else of anchors, by
            weight. NaN where there are none.
        no_positive: labelled anchors without a positive, those of weight 0 left out.
        mean_positive, mean_negative: mean similarity over all pairs of an anchor with its positives, and with its
            negatives; under an `indices_tuple`, over those that it lists. NaN where there are none.

    Example:
        >>> import torch
        >>> from legolas_metric import TripletLoss
        >>> loss, detail = TripletLoss(margin=0.2)(torch.eye(4), [0, 0, 1, 1], detail=True)
        >>> detail.active_share, detail.no_positive
        (1.0, 0)

    Source: ours.
    """

    active_share: float
    no_positive: int
    mean_positive: float
    mean_negative: float


def refuse_second_derivative() -> None:
    """For the backward pass of what is differentiable once: the second derivative would be wrong without a word."""
    if torch.is_grad_enabled():  # as create_graph=True makes it
        raise RuntimeError(
            "this loss was computed in blocks, differentiable once: pass workspace_mb=None to go further"
        )
