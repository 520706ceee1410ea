"""What a loss says to settings that other libraries have."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
Self = TypeVar("Self")

PML_ARGUMENTS: Mapping[str, str] = {
    "distance": "every loss compares unit rows by cosine; TripletLoss has squared=True (LpDistance(power=2)) and "
    "cosine=True (CosineSimilarity) for margins in d^2 and in s",
    "reducer": "TripletLoss has reduction='active' (AvgNonZeroReducer) and 'mean' (MeanReducer); for any other, "
    "legolas_metric.interop.pml.as_loss(loss, reducer=...)",
    "type_of_triplets": "TripletLoss has selection='all', 'violating', 'semihard' or 'hard'; give the rest of them by "
    "indices_tuple, from PML's TripletMarginMiner",
    "triplets_per_anchor": "TripletLoss has selection='hard' and 'semihard' for few triplets of an anchor, and counts "
    "all of them under 'all' without listing one",
    "swap": "there is no swap: the positive as anchor is a triplet of its own under selection='all'",
    "smooth_loss": "TripletLoss has soft=True, and soft_margin=... for a margin inside the softplus",
    "embedding_regularizer": "add a penalty of your own to the loss",
    "embedding_reg_weight": "add a penalty of your own to the loss",
    "collect_stats": "loss(..., detail=True) returns a LossDetail beside the value",
}
"""What pytorch-metric-learning's losses take and ours don't, with what to do instead."""


def answers_pml(
    init: Callable[Concatenate[Self, P], None],
) -> Callable[Concatenate[Self, P], None]:
    """A constructor that says what to write in place of an argument of PML's that it doesn't have."""

    @wraps(init)
    def checked(self: Self, /, *args: P.args, **named: P.kwargs) -> None:
        for name in named:
            if name in PML_ARGUMENTS:
                raise TypeError(f"{type(self).__name__} takes no {name}=: {PML_ARGUMENTS[name]}")
        init(self, *args, **named)

    return checked
