"""Every way in which the exact engine comes to its one answer."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from legolas_metric.index.exact import solve as solving
from legolas_metric.index.exact.precision import has_int16

HERE = torch.device("cpu")
# (precision, whether in compiled loops): every way to one answer
WAYS = [
    *([("int16", True)] if has_int16(HERE) else []),
    *[(precision, compiled) for precision in ("bfloat16", "float32") for compiled in (True, False)],
]


@contextmanager
def by(compiled: bool) -> Iterator[None]:
    """Screening in compiled loops, or by torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solving, "runs_compiled", lambda device: compiled)
        yield
