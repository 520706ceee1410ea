"""The compiled loops of the engine, as one group."""

from collections.abc import Sequence
from typing import Any

import torch

from legolas_metric.compiled.readiness import Loops

_SCREENING_S, _PRODUCT_S = 2e-9, 1.5e-11  # of the plain scan on one thread, for each pair and each of its dimensions


def _load() -> Sequence[Any]:
    from legolas_metric.index.exact.buffers import settle_all
    from legolas_metric.index.exact.passes import best_of_pairs

    return settle_all, best_of_pairs


MINING = Loops("the mining loops", 10.0, _load)


def plain_seconds(pairs: int, d: int) -> float:
    """About how long the plain scan of so many pairs takes on the threads that torch has."""
    return pairs * (_SCREENING_S + d * _PRODUCT_S) / torch.get_num_threads()
