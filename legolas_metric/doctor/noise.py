"""Rows whose label their neighbourhood contradicts: by the vote of the nearest rows of any label."""

from dataclasses import dataclass, field

from jaxtyping import Int64
from torch import Tensor

from legolas_metric.checks import UNLABELLED
from legolas_metric.index.exact import ExactIndex
from legolas_metric.index.protocol import Rows

_NEIGHBOURS = 10
_MAJORITY = 0.6
_FEW = 0.2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelNoise:
    """What neighbourhoods say about labels. Good evidence only where most queries find their own class.

    Attributes:
        suspects: ids of rows of whose nearest rows most have one other label, and at most a fifth their own (of those
            that could: a class of three rows can fill two places).
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
    # Votes: how many of a row's neighbours carry each neighbour's label.
    votes = (near[:, :, None] == near[:, None, :]).sum(2).masked_fill(near == UNLABELLED, 0)
    most = votes.max(1)
    suggested = near.gather(1, most.indices[:, None])[:, 0]
    own = (near == labels[:, None]).sum(1)
    _, place, size = labels.unique(return_inverse=True, return_counts=True)
    mates = (size[place] - 1).clamp_max(k)  # a class of three can fill two of the places
    suspect = asked & (mates > 0) & (own <= _FEW * mates) & (most.values >= _MAJORITY * k) & (suggested != labels)
    other = (near != labels[:, None]) & (near != UNLABELLED)
    has = asked & other.any(1)
    negative = found.gather(1, other.int().argmax(1, keepdim=True))[:, 0]
    agree = (near[negative] == labels[:, None]).sum(1)
    return LabelNoise(
        suspects=rows.ids[suspect],
        suggested=suggested[suspect],
        negatives=int(has.sum()),
        contradicted=int((has & (agree > k / 2)).sum()),
        neighbours=k,
    )
