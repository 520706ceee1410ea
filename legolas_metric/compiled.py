"""Loops compiled for the processor by numba, where it is installed; torch does the same work on other devices.

Modules of such loops are named `kernels`, or after what they make. They import numba, which takes half a second, and
are therefore imported by the functions that call them. Their loops carry `@no_type_check`, which keeps the tests'
run-time type checks out.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")


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


def in_threads(function: Callable[[T], R], tasks: Iterable[T]) -> list[R]:
    """The results of all tasks, in any order; as many at a time as torch has threads, each on one.

    A thread takes its next task when it is free: of a million, none waits in memory.
    """
    threads = _threads()
    waiting, guard = iter(tasks), Lock()

    def stop() -> None:
        nonlocal waiting
        with guard:
            waiting = iter(())

    def work() -> list[R]:
        done = []
        try:
            while True:
                with guard:
                    task = next(waiting)
                done.append(function(task))
        except StopIteration:
            return done
        except BaseException:
            stop()
            raise

    if threads == 1:
        return work()
    _busy.append(threads)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            parts = [pool.submit(work) for _ in range(threads)]
            try:
                return [result for part in parts for result in part.result()]
            except BaseException:  # an interrupt, too
                stop()
                raise
    finally:
        _busy.remove(threads)
        torch.set_num_threads(threads)  # what those threads were told is what later ones would start with


_busy: list[int] = []  # of the callers that have threads at work


def _threads() -> int:
    """Torch's threads; those of another caller where there is one, since a thread that begins meanwhile is told 1."""
    return max([torch.get_num_threads(), *_busy])
