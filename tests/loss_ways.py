"""The ways in which a loss is computed: by the formula, in blocks, in compiled loops."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

WAYS = {
    "formula": (None, True),
    "compiled": (64, True),
    "compiled, row by row": (0, True),
    "torch": (64, False),
    "torch, row by row": (0, False),
}
"""Workspace in MB, and whether compiled loops may serve."""


@contextmanager
def computed(way: str) -> Iterator[int | None]:
    """Within it losses are computed that way, given the workspace that it yields."""
    workspace, compiled = WAYS[way]
    if compiled:
        yield workspace
    else:
        with patch("legolas_metric.losses.alone.runs_compiled", lambda device: False):
            yield workspace
