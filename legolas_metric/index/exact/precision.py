"""Which dtype to screen in: asked of the processor, by products of a few milliseconds.

- int16: pairs of products at a time on processors with AVX2 or AVX-512, twice as fast as float32 there; exact sums,
  and the sharpest bound. In compiled loops only.
- bfloat16: where there are matrix units for it (AMX).
- float32: everywhere.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Literal

import numpy as np
import torch

from legolas_metric.compiled.jit import runs_compiled
from legolas_metric.compiled.threads import in_threads
from legolas_metric.index.exact.layout import ANCHOR, NO_CLOSER

Precision = Literal["auto", "int16", "bfloat16", "float32"]

_SIZE = 480
_COLUMNS = 128
_GAIN = 1.2  # how much faster a dtype must be than float32 for its wider bound to pay
_FEWEST_DIMENSIONS = 16


def screening_dtype(precision: Precision, d: int) -> torch.dtype:
    """The dtype that a precision stands for on this processor."""
    if precision == "auto":
        return _fastest() if d >= _FEWEST_DIMENSIONS else torch.float32
    return getattr(torch, precision)


def require_int16(device: torch.device) -> None:
    """Raise where no compiled loop computes int16."""
    if not has_int16(device):
        raise ValueError(
            "precision='int16' needs numba and a processor with AVX2, and rows that lie there: use precision='auto'"
        )


def has_int16(device: torch.device) -> bool:
    """Whether compiled loops can screen in int16."""
    if not runs_compiled(device):
        return False
    from legolas_metric.compiled import avx2 as microtile

    return microtile.HAS_PRODUCTS


def int16_speed() -> tuple[float, float]:
    """Nanoseconds of a product of two int16 on one thread, and how many times as fast the fastest dtype's is."""
    seconds = _seconds()
    return 1e9 * seconds[torch.int16] / (_SIZE**2 * _COLUMNS), seconds[torch.int16] / min(seconds.values())


def _fastest() -> torch.dtype:
    """The dtype of the fastest product, if it is clearly faster than float32."""
    seconds = _seconds()
    best = min(seconds, key=lambda dtype: seconds[dtype])
    return best if seconds[torch.float32] > _GAIN * seconds[best] else torch.float32


@cache
def _seconds() -> dict[torch.dtype, float]:
    """Of a product in each dtype on one thread; measured once."""
    seconds = {dtype: _seconds_of(dtype) for dtype in (torch.float32, torch.bfloat16)}
    if has_int16(torch.device("cpu")):
        seconds[torch.int16] = _least(_integer_product())
    return seconds


def _seconds_of(dtype: torch.dtype) -> float:
    rows, out = torch.ones(_SIZE, _COLUMNS, dtype=dtype), torch.empty(_SIZE, _SIZE, dtype=dtype)
    return _least(lambda: torch.mm(rows, rows.T, out=out))


def _integer_product() -> Callable[[], None]:
    """A tile in which nothing is found."""
    from legolas_metric.compiled.avx2 import PANELS
    from legolas_metric.index.exact import passes as kernels

    left, right = (np.ones((_SIZE // panel, _COLUMNS // 2, panel, 2), np.int16) for panel in PANELS)
    terms, levels = np.zeros(_SIZE, np.int32), np.full((2, _SIZE), 2**31 - 1, np.int32)
    side, anchors, slots = (levels, np.zeros(_SIZE)), np.zeros((_SIZE, ANCHOR)), np.zeros((_SIZE, 3), np.float32)
    place, scale = (0, 0, _SIZE, _SIZE), (0.5, 0.0, False, 1)
    return lambda: kernels.sweep_tile(left, right, terms, terms, anchors, slots, place, *side, *side, scale, NO_CLOSER)


def _least(work: Callable[[], object]) -> float:
    """The least time of a few turns on one thread, in seconds."""

    def turn(_: int) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    work()  # compiles
    return min(in_threads(turn, range(1))[0] for _ in range(7))
