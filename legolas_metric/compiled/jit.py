"""Loops compiled for the processor by numba, where it can be had; plain torch does the same work elsewhere.

Modules of such loops import numba, which takes half a second, and are therefore imported by the functions that call
them. Their loops carry `@no_type_check`, which keeps the tests' run-time type checks out.
"""

import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SLOW = "large searches and evaluations take plain torch instead, several times as long"


@cache
def has_numba() -> bool:
    """Whether numba compiles here; where it doesn't, that is said once, with the remedy."""
    why = _missing()
    if why is not None:
        warnings.warn(f"{why}: {_SLOW}", stacklevel=2)
    return why is None


def _missing() -> str | None:
    """What keeps numba from compiling, and what to do; None where nothing does."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set (unset it to have loops compiled)"
    if find_spec("numba") is None:  # for some processors, and for a while after a new Python, it has no releases
        return "numba is not installed (pip install numba)"
    try:
        import numba  # noqa: F401
    except Exception as error:  # NumPy too new, a library that does not load, ...
        return f"numba is installed but cannot be imported ({error}; pip install -U numba, with a NumPy that it allows)"
    return None


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

    from legolas_metric.compiled.kept import Kept, warn_unkept

    make: Any = njit  # its types leave out no_cfunc_wrapper
    made = make(nogil=True, error_model="numpy", no_cfunc_wrapper=True, fastmath=fastmath)(function)
    try:
        made._cache = Kept(function)
    except (RuntimeError, OSError):
        warn_unkept("no folder for them can be written")
    return made


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A piece of compiled loops, put into each of them: for what runs so often that a call would count."""
    from numba import njit

    return njit(inline="always", nogil=True, error_model="numpy")(function)
