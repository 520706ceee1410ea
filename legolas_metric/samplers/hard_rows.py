"""Which examples of a class stand in a batch of near classes: those that lie nearest to the others. Ours."""

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.geometry import similarity_matrix
from legolas_metric.samplers.draws import HARD, random_bits
from legolas_metric.samplers.members import Members


def draw_hard_rows(
    members: Members,
    classes: Int64[np.ndarray, "b p"],
    k: int,
    *,
    embeddings: Float32[Tensor, "n d"],
    centroids: Float32[Tensor, "c d"],
    metric: Metric,
    share: float | int,
    epoch: int = 0,
    seed: int = 0,
) -> Int64[np.ndarray, "b p k"]:
    """Row numbers of batches: k of the hardest of each class, by the batch's other classes.

        gap(x) = max over the other classes c of s(x, mean of c) - s(x, mean of its own class)

    Of a class's n rows, those ceil(share n) of largest gap stay (k at least), and k of them are drawn. Where groups
    play a part, the share stays of each group, and the k come from as many groups as there are.

    Args:
        members: the classes that take part.
        classes: of the batches, as places in `members.classes`.
        k: rows of each class.
        embeddings: of the data set, at the scale of the centroids.
        centroids: of the classes.
        metric: of s.
        share: of a class's rows, in (0, 1].
        epoch, seed: of the draws.
    """
    sizes, starts = members.sizes, members.offsets[:-1]
    bounds = members.offsets if members.block_offsets is None else members.block_offsets
    block = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))  # the group of each place, or the class
    blocks = np.ones(len(sizes), np.int64) if members.blocks is None else np.diff(members.blocks)
    drawn = np.empty((*classes.shape, k), np.int64)
    for batch, own in enumerate(classes):
        counts = sizes[own]
        number = np.repeat(np.arange(len(own)), counts)
        places = np.arange(len(number)) - (np.cumsum(counts) - counts)[number] + starts[own][number]
        gap = _gaps(embeddings, members.rows[places], centroids, own, number, metric)
        group = block[places]
        size = np.diff(bounds)[group]
        kept = np.maximum(np.ceil(share * size), -(-k // blocks[own][number]))
        hard = _place_within(group, -gap) < kept
        number, group, rows = number[hard], group[hard], members.rows[places[hard]]
        keys = random_bits(seed, HARD, epoch, np.full(len(rows), batch), rows)
        ordered = rows[np.lexsort((keys, _place_within(group, keys), number))]
        held = np.bincount(number, minlength=len(own))
        drawn[batch] = ordered[(np.cumsum(held) - held)[:, None] + np.arange(k) % held[:, None]]
    return drawn


def _gaps(
    embeddings: Tensor,
    rows: Int64[np.ndarray, " m"],
    centroids: Tensor,
    own: Int64[np.ndarray, " p"],
    number: Int64[np.ndarray, " m"],
    metric: Metric,
) -> np.ndarray:
    """How much nearer each row lies to another class of the batch than to its own."""
    device = embeddings.device
    scores = similarity_matrix(
        embeddings[torch.from_numpy(rows).to(device)], centroids[torch.from_numpy(own).to(device)], metric
    )
    mine = torch.from_numpy(number).to(device)[:, None]
    same = scores.gather(1, mine)[:, 0]
    return (scores.scatter(1, mine, -torch.inf).amax(1) - same).cpu().numpy()


def _place_within(unit: Int64[np.ndarray, " m"], keys: np.ndarray) -> Int64[np.ndarray, " m"]:
    """The place of each entry among those of its unit, in ascending order of their keys."""
    order = np.lexsort((keys, unit))
    ordered = unit[order]
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    place = np.arange(len(ordered))
    out = np.empty_like(place)
    out[order] = place - np.maximum.accumulate(np.where(first, place, 0))
    return out
