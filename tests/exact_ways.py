"""Every way in which the exact engine comes to its one answer."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from legolas_metric.index.exact import answer as routing
from legolas_metric.index.exact.precision import has_int16

HERE = torch.device("cpu")
# (precision, whether in compiled loops): every way to one answer; without them all is brute force
WAYS = [
    *([("int16", True)] if has_int16(HERE) else []),
    ("bfloat16", True),
    ("float32", True),
    ("float32", False),
]


@contextmanager
def by(compiled: bool) -> Iterator[None]:
    """Screening in compiled loops, or brute force in torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "_loops", lambda request, precision: (compiled, compiled))
        yield
