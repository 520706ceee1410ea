"""Rows whose label their neighbourhood contradicts: by the vote of the nearest rows of any label."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import UNLABELLED
from legolas_metric.datasets.labels import class_sizes
from legolas_metric.doctor.thresholds import Limits
from legolas_metric.geometry import chunks
from legolas_metric.index.exact import ExactIndex
from legolas_metric.lookup import lookup
from legolas_metric.names import Names
from legolas_metric.rows import Rows
from legolas_metric.tables import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A row whose neighbourhood carries another label: worth a look, be its label wrong or the row hard to tell.

    Attributes:
        id: of the row.
        label: that it has, as it was given.
        suggestion: the label that its neighbours carry.
        share: of the nearest places that rows of the suggested label can fill, how many they do fill.

    Example:
        >>> import torch
        >>> from legolas_metric import diagnose
        >>> labels = torch.arange(80) // 8
        >>> x = 3 * torch.eye(10)[labels] + 0.1 * torch.randn(80, 10, generator=torch.Generator().manual_seed(0))
        >>> labels[0] = 1
        >>> suspect = diagnose(x, labels).suspects[0]
        >>> suspect.id, suspect.label, suspect.suggestion
        (0, 1, 0)

    Source: ours.
    """

    id: int
    label: int | str
    suggestion: int | str
    share: float


def suspects_table(suspects: Sequence[Suspect]) -> Table:
    """Suspects, the clearest first, for screens, pages and CSV.

    Example:
        >>> print(suspects_table([Suspect(id=7, label="cat", suggestion="dog", share=0.8)]).csv().strip())
        id,label,suggestion,share
        7,cat,dog,0.8
    """
    return Table(
        ["id", "label", "suggestion", "share"],
        [(str(s.id), str(s.label), str(s.suggestion), s.share) for s in suspects],
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelNoise:
    """What neighbourhoods say about labels. Good evidence only where most queries find their own class.

    Attributes:
        suspects: ids of rows of whose nearest rows most have one other label, three at least, and at most a fifth their
            own: of the places that the rows of a label can fill. So mislabelled rows of classes of two or three are
            not found. The clearest first.
        suggested: the label that those neighbours carry.
        labels, shares: of the suspects: their own label, and how many of the places that the suggested label can fill
            its rows do fill.
        negatives: anchors with a row of another label among their nearest.
        contradicted: of these, how many have a nearest negative that itself lies among rows of the anchor's label: a
            probable false negative.
        contradicted_rows: how many different rows those nearest negatives are.
        neighbours: rows that voted, for each row.
    """

    suspects: Int64[Tensor, " s"] = field(repr=False)
    suggested: Int64[Tensor, " s"] = field(repr=False)
    labels: Int64[Tensor, " s"] = field(repr=False)
    shares: Float64[Tensor, " s"] = field(repr=False)
    negatives: int
    contradicted: int
    contradicted_rows: int
    neighbours: int

    def listed(self, names: Names | None = None) -> tuple[Suspect, ...]:
        """The suspects as records; `names` are what labels stand for."""

        def named(code: int) -> int | str:
            return code if names is None else names[code]

        columns = (self.suspects, self.labels, self.suggested, self.shares)
        return tuple(
            Suspect(id=id, label=named(label), suggestion=named(other), share=share)
            for id, label, other, share in zip(*(column.tolist() for column in columns))
        )


def label_noise(rows: Rows, limits: Limits) -> LabelNoise:
    """Look for labels that the neighbourhood contradicts, among the prepared rows of a table with labels.

    Args:
        rows: prepared under "cosine".
        limits: of the doctor.
    """
    labels = rows.labels
    assert labels is not None
    k = min(int(limits["neighbours"]), len(rows) - 1)
    found = ExactIndex().fit(rows.embeddings, labels).self_join(k, want="any").ids
    near = labels[found]
    classes, size = class_sizes(labels)
    own_size = size[lookup(labels, classes)[0]]
    room = own_size.clamp_max(k)  # of each row: the places that the rows of its label can fill
    number = torch.arange(k, device=labels.device)
    suggested, share = torch.empty_like(labels), torch.empty(len(labels), dtype=torch.float64, device=labels.device)
    for part in chunks(len(labels), rows_for(BLOCK, 4 * k * k)):
        # Votes: how many of the nearest places that a neighbour's label can fill are filled by it.
        alike = (near[part, :, None] == near[part, None, :]) & (number < room[found[part]][:, :, None])
        votes = alike.sum(2).masked_fill(near[part] == UNLABELLED, 0)
        shares = (votes / room[found[part]].double()).masked_fill(votes < limits["fewest_votes"], 0)
        most = shares.max(1)
        suggested[part], share[part] = near[part].gather(1, most.indices[:, None])[:, 0], most.values
    asked = labels != UNLABELLED
    own = (near == labels[:, None]).sum(1)
    mates = (own_size - 1).clamp_max(k)  # a class of three can fill two of the places
    suspect = (
        asked
        & (mates > 0)
        & (own <= limits["few_of_own"] * mates)
        & (share >= limits["majority"])
        & (suggested != labels)
    )
    listed = suspect.nonzero().flatten()
    listed = listed[(share[listed] - own[listed] / mates[listed]).argsort(descending=True, stable=True)]
    other = (near != labels[:, None]) & (near != UNLABELLED)
    has = asked & other.any(1)
    negative = found.gather(1, other.int().argmax(1, keepdim=True))[:, 0]
    agree = ((near[negative] == labels[:, None]) & (number < room[:, None])).sum(1)
    contradicted = has & (agree >= limits["fewest_votes"]) & (agree > room / 2)
    return LabelNoise(
        suspects=rows.ids[listed],
        suggested=suggested[listed],
        labels=labels[listed],
        shares=share[listed],
        negatives=int(has.sum()),
        contradicted=int(contradicted.sum()),
        contradicted_rows=len(negative[contradicted].unique()),
        neighbours=k,
    )
