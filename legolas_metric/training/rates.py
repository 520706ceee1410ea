"""Learning rates over epochs."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LinearLR, LRScheduler, SequentialLR

from legolas_metric.checks import check_number, check_whole
from legolas_metric.signatures import typed


@typed
def warm_restarts(
    optimizer: Optimizer, *, warm_up: int = 0, period: int = 10, growth: int = 1, lowest: float = 0.0
) -> LRScheduler:
    """Warm up linearly, then fall on half a cosine and start again: torch's schedulers, one after the other.

    Args:
        optimizer: whose rate it is.
        warm_up: steps of the scheduler from 1/25 of the rate to all of it.
        period: steps of the first cosine.
        growth: each cosine is so many times as long as the one before.
        lowest: rate at the end of a cosine.

    Raises:
        ValueError: a negative warm-up or lowest rate, a period or growth below 1.

    Example:
        >>> import torch
        >>> from legolas_metric.training.rates import warm_restarts
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule, rates = warm_restarts(optimizer, warm_up=2, period=2), []
        >>> for _ in range(6):
        ...     rates.append(round(schedule.get_last_lr()[0], 2))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.04, 0.52, 1.0, 0.5, 1.0, 0.5]

    Source: Loshchilov and Hutter (2017), SGDR, arXiv:1608.03983.
    """
    check_whole("warm_up", warm_up, 0)
    check_number("lowest", lowest, least=0.0)
    cosine = CosineAnnealingWarmRestarts(
        optimizer, check_whole("period", period, 1), check_whole("growth", growth, 1), eta_min=lowest
    )
    if not warm_up:
        return cosine
    ramp = LinearLR(optimizer, start_factor=1 / 25, total_iters=warm_up)
    return SequentialLR(optimizer, [ramp, cosine], [warm_up])
