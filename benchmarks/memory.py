"""Peak memory of a call."""

import ctypes
import ctypes.util
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def peak_mb(function: Callable[[], object]) -> float | None:
    """By how many MB the process's peak rises above what it holds; None where the system does not tell.

    What earlier calls freed is given back first: a call that finds it still held would seem to need nothing.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        function()
        return (_status("VmHWM") - before) / 1024
    return None


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
