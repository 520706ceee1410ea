"""The compiled loops of the engine, as one group."""

from collections.abc import Sequence
from typing import Any

from legolas_metric.compiled.readiness import Loops


def _load() -> Sequence[Any]:
    from legolas_metric.index.exact.buffers import settle_all
    from legolas_metric.index.exact.passes import best_of_pairs

    return settle_all, best_of_pairs


MINING = Loops("the mining loops", 10.0, _load)
