"""Counting by blocks which gallery rows come before which positives.

Similarities are float64 products of the prepared float32 rows, rounded to float32, as they are reported everywhere.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.compiled.jit import runs_compiled
from legolas_metric.geometry import chunks

_WORKSPACE_BYTES = 64 << 20
_MOST_ROWS = 256
_FEW = 100
"""Up to this many thresholds a row, comparing with each is cheaper than sorting the row."""

Counts = tuple[Int64[Tensor, "q w"], Int64[Tensor, "q w"]]


def row_blocks(queries: int, gallery: int) -> Iterator[slice]:
    """Blocks of queries whose similarities to the whole gallery fit into the workspace, in float64 and float32."""
    return chunks(queries, min(_MOST_ROWS, max(1, _WORKSPACE_BYTES // (12 * max(1, gallery)))))


def count_above(scores: Float32[Tensor, "q n"], values: Float32[Tensor, "q w"]) -> Counts:
    """How many of a row's scores, in any order, are greater than each of its values, and how many equal it."""
    if scores.device.type != "cpu":
        return above_in_order(scores.sort(1).values, values)
    if values.shape[1] > _FEW or not runs_compiled(scores.device):
        # NumPy's vectorised sort takes a fifth of the time of torch's.
        return above_in_order(torch.from_numpy(np.sort(scores.numpy(), axis=1)), values)
    from legolas_metric.evaluation import counting_loops as kernels

    greater, equal = torch.empty(2, *values.shape, dtype=torch.int64)
    parts = [t.tensor_split(torch.get_num_threads()) for t in (scores, values, greater, equal)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(lambda *part: kernels.count_above(*(t.numpy() for t in part)), *parts))
    return greater, equal


def above_in_order(ascending: Float32[Tensor, "q n"], values: Float32[Tensor, "q w"]) -> Counts:
    """The same for rows in ascending order."""
    right = torch.searchsorted(ascending, values.contiguous(), right=True)
    left = torch.searchsorted(ascending, values.contiguous())
    return ascending.shape[1] - right, right - left
