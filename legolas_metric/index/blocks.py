"""What a plain scan does with a block of scores: by NumPy on a processor, where torch takes three to six times as long.

Letters: q queries, n rows, k neighbours, t pairs.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor


def lower(score: Float32[Tensor, "q n"], where: Bool[Tensor, "q n"]) -> None:
    """Set some of the scores to -inf."""
    if score.device.type != "cpu":
        score.masked_fill_(where, -torch.inf)
    else:
        np.copyto(score.numpy(), -np.inf, where=where.numpy())


def at_least(score: Float32[Tensor, "q n"], floor: Float32[Tensor, "q 1"]) -> Bool[Tensor, "q n"]:
    """score >= floor."""
    return score >= floor if score.device.type != "cpu" else torch.from_numpy(score.numpy() >= floor.numpy())


def kth_best(score: Float32[Tensor, "q n"], k: int) -> Float32[Tensor, "q 1"]:
    """The k-th largest score of each query."""
    if score.device.type != "cpu":
        return score.topk(k, 1).values[:, -1:]
    return torch.from_numpy(np.partition(score.numpy(), -k, 1)[:, -k, None])


def pairs_of(mask: Bool[Tensor, "q n"]) -> tuple[Int64[Tensor, " t"], Int64[Tensor, " t"]]:
    """The places (query, row) of a mask, queries ascending."""
    if mask.device.type != "cpu":
        query, row = mask.nonzero(as_tuple=True)
        return query, row
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))
    query = flat // mask.shape[1]
    return query, flat - query * mask.shape[1]
