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
_MOST_ROWS = 128
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
    halves = list(zip(np.array_split(scores.numpy(), threads), np.array_split(values.numpy(), threads)))
    with ThreadPoolExecutor(threads) as pool:
        greater, least = (np.concatenate(part) for part in zip(*pool.map(lambda half: _compare(*half), halves)))
    return torch.from_numpy(greater), torch.from_numpy(least - greater)


def above_in_order(ascending: Float32[Tensor, "q n"], values: Float32[Tensor, "q w"]) -> Counts:
    """The same for rows in ascending order."""
    right = torch.searchsorted(ascending, values.contiguous(), right=True)
    left = torch.searchsorted(ascending, values.contiguous())
    return ascending.shape[1] - right, right - left


def _compare(scores: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[q, w] counts of scores > value and >= value: comparisons are bytes, and eight are added at a time as a word."""
    greater, least = np.zeros(values.shape, np.int64), np.zeros(values.shape, np.int64)
    flags = np.zeros((len(scores), _LANES), bool)
    words = flags.view(np.uint64)
    for part in chunks(scores.shape[1], _LANES):
        block = scores[:, part]
        flags[:, block.shape[1] :] = False
        out = flags[:, : block.shape[1]]
        for j in range(values.shape[1]):
            for compare, total in ((np.greater, greater), (np.greater_equal, least)):
                compare(block, values[:, j, None], out=out)
                total[:, j] += words.sum(1).view(np.uint8).reshape(len(scores), 8).sum(1, dtype=np.int64)
    return greater, least
