"""Counting by blocks which gallery rows come before which positives.

Similarities are float64 products of the prepared float32 rows, rounded to float32, as they are reported everywhere.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.numerics import chunks

_WORKSPACE_BYTES = 64 << 20
_MOST_ROWS = 256
_FEW = 40
"""Up to this many thresholds a row, comparing with each is cheaper than sorting the row."""
_LANES = 255 * 8
"""Columns whose comparisons can be added up in the eight bytes of a word."""

Counts = tuple[Int64[Tensor, "q w"], Int64[Tensor, "q w"]]


def row_blocks(queries: int, gallery: int) -> Iterator[slice]:
    """Blocks of queries whose similarities to the whole gallery fit into the workspace, in float64 and float32."""
    return chunks(queries, min(_MOST_ROWS, max(1, _WORKSPACE_BYTES // (12 * max(1, gallery)))))


def count_above(scores: Float32[Tensor, "q n"], values: Float32[Tensor, "q w"]) -> Counts:
    """How many of a row's scores, in any order, are greater than each of its values, and how many equal it."""
    if scores.device.type != "cpu":
        return above_in_order(scores.sort(1).values, values)
    if values.shape[1] > _FEW:
        # NumPy's vectorised sort takes a fifth of the time of torch's.
        return above_in_order(torch.from_numpy(np.sort(scores.numpy(), axis=1)), values)
    threads = max(1, min(torch.get_num_threads(), len(scores) // 16))
    parts = zip(np.array_split(scores.numpy(), threads), np.array_split(values.numpy(), threads))
    with ThreadPoolExecutor(threads) as pool:
        greater, least = (np.concatenate(part) for part in zip(*pool.map(lambda part: _compare(*part), parts)))
    return torch.from_numpy(greater), torch.from_numpy(least - greater)


def above_in_order(ascending: Float32[Tensor, "q n"], values: Float32[Tensor, "q w"]) -> Counts:
    """The same for rows in ascending order."""
    right = torch.searchsorted(ascending, values.contiguous(), right=True)
    left = torch.searchsorted(ascending, values.contiguous())
    return ascending.shape[1] - right, right - left


def _compare(scores: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[q, w] counts of scores > value and >= value: comparisons are bytes, and eight are added at a time as a word.

    A whole row at a time: smaller steps would spend their time waiting for one another's threads.
    """
    (rows, columns), width = scores.shape, values.shape[1]
    runs = -(-columns // _LANES)
    flags = np.zeros((rows, runs * _LANES), bool)
    words, out = flags.view(np.uint64).reshape(rows, runs, _LANES // 8), flags[:, :columns]
    sums = np.empty((2, width, rows, runs), np.uint64)
    for j in range(width):
        for compare, total in ((np.greater, sums[0]), (np.greater_equal, sums[1])):
            compare(scores, values[:, j, None], out=out)
            words.sum(2, out=total[j])
    greater, least = sums.view(np.uint8).reshape(2, width, rows, 8 * runs).sum(3, dtype=np.int64)
    return greater.T, least.T
