"""Loops compiled for the processor by numba, where it is installed; torch does the same work on other devices.

Modules of such loops are named `kernels`, or after what they make. They import numba, which takes half a second, and
are therefore imported by the functions that call them. Their loops carry `@no_type_check`, which keeps the tests'
run-time type checks out.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor


@cache
def has_numba() -> bool:
    """Whether numba is installed: for some processors, and for a while after a new Python, it has no releases."""
    return find_spec("numba") is not None


def runs_compiled(device: torch.device) -> bool:
    """Whether compiled loops can work on tensors of this device."""
    return device.type == "cpu" and has_numba()


def arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """The memory of tensors, as compiled loops take it: without gaps, so that each loop is compiled once."""
    return tuple([tensor.contiguous().numpy() for tensor in tensors])  # a generator takes twice as long


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code that holds no lock of Python's; compiled when first called, and kept on disk."""
    return _compiled(function, fastmath=False)


def compiled_sum(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a sum of floats: free to add in any order, without which LLVM adds one number at a time."""
    return _compiled(function, fastmath={"reassoc", "contract"})


def _compiled(function: Callable[..., Any], fastmath: bool | set[str]) -> Callable[..., Any]:
    from numba import njit

    try:
        return njit(nogil=True, cache=True, error_model="numpy", fastmath=fastmath)(function)
    except RuntimeError:  # no folder to keep it in can be written
        return njit(nogil=True, error_model="numpy", fastmath=fastmath)(function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A piece of compiled loops, put into each of them: for what runs so often that a call would count."""
    from numba import njit

    return njit(inline="always", nogil=True, error_model="numpy")(function)
