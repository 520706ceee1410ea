"""When a group of compiled loops is worth loading, or compiling: never for small work, and never in silence."""

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from legolas_metric.compiled.jit import runs_compiled

_LOADING_S = 0.7  # numba's import and the loops' load from disk


@dataclass(slots=True)
class Loops:
    """Compiled loops that do a job together, and what this process has spent on the job without them.

    Loops that are loaded are used at once. Others are loaded when plain torch would have taken as long as the loading,
    and compiled when it would have taken as long as that: so no process waits more than twice as long as it must.

    Attributes:
        name: as the message about the compilation calls them.
        compiling_s: seconds that it takes.
        load: imports the loops, and returns those that are compiled last.
    """

    name: str
    compiling_s: float
    load: Callable[[], Sequence[Any]]
    _ready: bool = False
    _spent_s: float = 0.0
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def worth(self, device: torch.device, seconds: float) -> bool:
        """Whether the loops do a job on this device that takes plain torch so many seconds."""
        if device.type != "cpu":
            return False
        with self._guard:
            if self._ready:
                return True
            self._spent_s += seconds
            if self._spent_s < _LOADING_S or not runs_compiled(device):
                return False
            kept = all(hasattr(one._cache, "holds_any") and one._cache.holds_any() for one in self.load())
            if not kept:
                if self._spent_s < self.compiling_s:
                    return False
                print(f"compiling {self.name}, once: about {self.compiling_s:.0f} s", file=sys.stderr, flush=True)
            self._ready = True
            return True
