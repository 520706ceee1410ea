"""Which dtype to screen in: asked of the processor, by a product of a few milliseconds."""

import time
from functools import lru_cache
from typing import Literal

import torch

Precision = Literal["auto", "bfloat16", "float32"]

_SIZE = 512
_GAIN = 1.2  # how much faster bfloat16 must be for its wider bound to pay
_FEWEST_DIMENSIONS = 16


def screening_dtype(precision: Precision, d: int, device: torch.device) -> torch.dtype:
    """The dtype that a precision stands for on this device."""
    if precision == "auto":
        fast = d >= _FEWEST_DIMENSIONS and _bfloat16_gain(device.type) > _GAIN
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


@lru_cache
def _bfloat16_gain(device: str) -> float:
    """How many times faster a bfloat16 product is than one in float32; measured once."""
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows = torch.ones(_SIZE, 128, dtype=dtype, device=device)
        out = torch.empty(_SIZE, _SIZE, dtype=dtype, device=device)
        times[dtype] = min(_seconds(rows, out) for _ in range(5))
    return times[torch.float32] / times[torch.bfloat16]


def _seconds(rows: torch.Tensor, out: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(rows, rows.T, out=out)
    out[0, 0].item()  # waits for the device
    return time.perf_counter() - start
