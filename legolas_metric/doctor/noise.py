"""Rows whose label their neighbourhood contradicts: by the vote of the nearest rows of any label."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED
from legolas_metric.index.exact import ExactIndex
from legolas_metric.rows import Rows

_NEIGHBOURS = 10
_MAJORITY = 0.6
_FEW = 0.2
_FEWEST_VOTES = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelNoise:
    """What neighbourhoods say about labels. Good evidence only where most queries find their own class.

    Attributes:
        suspects: ids of rows of whose nearest rows most have one other label, three at least, and at most a fifth their
            own: of the places that the rows of a label can fill. So mislabelled rows of classes of two or three are
            not found.
        suggested: the label that those neighbours carry.
        negatives: anchors with a row of another label among their nearest.
        contradicted: of these, how many have a nearest negative that itself lies among rows of the anchor's label: a
            probable false negative.
        neighbours: rows that voted, for each row.
    """

    suspects: Int64[Tensor, " s"] = field(repr=False)
    suggested: Int64[Tensor, " s"] = field(repr=False)
    negatives: int
    contradicted: int
    neighbours: int

    @property
    def contradicted_share(self) -> float:
        """Share of the nearest negatives that look mislabelled; 0 where no anchor has one among its nearest."""
        return self.contradicted / self.negatives if self.negatives else 0.0


def label_noise(rows: Rows) -> LabelNoise:
    """Look for labels that the neighbourhood contradicts, among the prepared rows of a table with labels.

    Args:
        rows: prepared under "cosine".
    """
    labels = rows.labels
    assert labels is not None
    k = min(_NEIGHBOURS, len(rows) - 1)
    found = ExactIndex().fit(rows.embeddings, labels).self_join(k, want="any").ids
    near = labels[found]
    asked = labels != UNLABELLED
    _, place, size = labels.unique(return_inverse=True, return_counts=True)
    room = size[place].clamp_max(k)  # of each row: the places that the rows of its label can fill
    number = torch.arange(k, device=labels.device)
    # Votes: how many of the nearest places that a neighbour's label can fill are filled by it.
    alike = (near[:, :, None] == near[:, None, :]) & (number < room[found][:, :, None])
    votes = alike.sum(2).masked_fill(near == UNLABELLED, 0)
    share = (votes / room[found]).masked_fill(votes < _FEWEST_VOTES, 0)
    most = share.max(1)
    suggested = near.gather(1, most.indices[:, None])[:, 0]
    own = (near == labels[:, None]).sum(1)
    mates = (size[place] - 1).clamp_max(k)  # a class of three can fill two of the places
    suspect = asked & (mates > 0) & (own <= _FEW * mates) & (most.values >= _MAJORITY) & (suggested != labels)
    other = (near != labels[:, None]) & (near != UNLABELLED)
    has = asked & other.any(1)
    negative = found.gather(1, other.int().argmax(1, keepdim=True))[:, 0]
    agree = ((near[negative] == labels[:, None]) & (number < room[:, None])).sum(1)
    return LabelNoise(
        suspects=rows.ids[suspect],
        suggested=suggested[suspect],
        negatives=int(has.sum()),
        contradicted=int((has & (agree >= _FEWEST_VOTES) & (agree > room / 2)).sum()),
        neighbours=k,
    )
