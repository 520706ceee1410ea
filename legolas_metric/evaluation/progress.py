"""A bar for passes over all pairs or queries: only on a terminal, and only where it takes longer than two seconds."""

import sys
from contextlib import nullcontext
from typing import Any

from tqdm import tqdm

from legolas_metric.datasets.embedding import screen_is_taken

_DELAY = 2.0


class _NoBar:
    """What is told of progress, to nobody; it takes no lock that others may hold."""

    def update(self, n: int) -> None:
        """See tqdm."""


def bar(total: int, what: str, unit: str) -> Any:
    """A bar of so many pairs or rows on stderr, which several threads may `update`; a context manager."""
    if screen_is_taken() or not sys.stderr.isatty():
        return nullcontext(_NoBar())
    return tqdm(total=total, desc=what, unit=unit, unit_scale=True, delay=_DELAY, leave=False)
