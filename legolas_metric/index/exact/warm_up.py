"""`warm_up`: compile the engine's loops ahead, for containers and for those who would rather wait now."""

import time

import torch

from legolas_metric.compiled.jit import has_numba
from legolas_metric.index.exact.engine import ExactIndex
from legolas_metric.index.exact.precision import Precision, has_int16

_ROWS, _DIMENSIONS = 600, 16


def warm_up() -> dict[str, float]:
    """Compile the loops of exact searches, or load them where they are kept: seconds by precision of the screening.

    Nothing where numba does not compile; a warning says why. Each precision is asked for the nearest rows, and for some
    inside a window, of a few hundred random rows.

    Example:
        >>> from legolas_metric.index.exact.warm_up import warm_up
        >>> "float32" in warm_up()
        True
    """
    if not has_numba():
        return {}
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(_ROWS, _DIMENSIONS, generator=generator), torch.arange(_ROWS) // 3
    window = torch.full((_ROWS,), -1.0), torch.full((_ROWS,), 0.5)
    names: list[Precision] = ["int16", "float32", "bfloat16"] if has_int16(rows.device) else ["float32", "bfloat16"]
    seconds = {}
    for precision in names:
        start = time.perf_counter()
        index = ExactIndex(precision=precision).fit(rows, labels)
        index.self_join(1)
        index.self_join(2, window=window)
        index.search(rows[:50], 1, labels=labels[:50], want="negative")
        seconds[precision] = time.perf_counter() - start
    return seconds
