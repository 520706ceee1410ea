"""What several enrolled recordings gain: the curve over their number."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import UNLABELLED, ArrayLike, check_choice, check_whole
from legolas_metric.decisions.templates import Fuse, fused_scores
from legolas_metric.evaluation.arguments import as_ks, as_table
from legolas_metric.evaluation.bootstrap import Difference, paired_difference
from legolas_metric.evaluation.given_scores import verification_from_scores
from legolas_metric.geometry import normalise
from legolas_metric.rows import Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateCurve:
    """Rank@1 and EER of one probe a person against templates of so many recordings, means over the repeats.

    Attributes:
        rank1, eer: number of enrolled recordings -> value.
        gain: number -> Rank@1 less that of the first number, on the same probes, with its 95 % interval over people.
        each: number -> [people] Rank@1 of each person, mean over the repeats, in order of their labels.
        single: number -> templates, of an average repeat, that rest on one recording all the same.
        people: who are enrolled and ask.
        left_out: people without a second recording (of another group, where groups are given).

    Example:
        >>> import torch
        >>> y = torch.arange(40) // 4
        >>> template_curve(torch.eye(10)[y], y, counts=(1, 2), repeats=1).rank1
        {1: 1.0, 2: 1.0}

    Source: ours.
    """

    rank1: Mapping[int, float]
    eer: Mapping[int, float]
    gain: Mapping[int, Difference] = field(repr=False)
    each: Mapping[int, Float64[Tensor, " c"]] = field(repr=False, compare=False)
    single: Mapping[int, float]
    people: int
    left_out: int


def template_curve(
    embeddings: ArrayLike | EmbeddingBank,
    labels: ArrayLike | None = None,
    *,
    groups: ArrayLike | None = None,
    counts: int | ArrayLike = (1, 2, 4),
    how: str = "mean",
    repeats: int = 20,
    seed: int = 0,
) -> TemplateCurve:
    """Draw a probe of each person, and enrol so many of their other rows: again and again, the same probes for each.

    Args:
        embeddings: [n, d], or a bank; compared by cosine.
        labels: [n] whose each row is.
        groups: [n] session or recording; given, a person is enrolled from other groups than the probe's.
        counts: enrolled rows of each person; who has fewer is enrolled with all of theirs.
        how: "mean" of unit rows, scaled to unit length; or their scores' "max" or "score" (mean).
        repeats, seed: of the draws.

    Raises:
        ValueError: fewer than two people who can be enrolled and ask; an unknown `how`; what
            `evaluate_ranking` refuses.

    Warns:
        UserWarning: fewer than ten people.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> y = torch.arange(120) // 6
        >>> x = torch.randn(20, 8, generator=generator)[y] + torch.randn(120, 8, generator=generator)
        >>> curve = template_curve(x, y, counts=(1, 5))
        >>> curve.rank1[5] > curve.rank1[1], curve.gain[5].shown
        (True, True)

    Source: ours.
    """
    check_choice("how", how, ("mean", "max", "score"))
    sizes, draws = as_ks(counts), check_whole("repeats", repeats, 1)
    rows, _ = as_table(embeddings, labels, groups=groups, metric="cosine")
    assert rows.labels is not None
    generator = torch.Generator().manual_seed(seed)
    everybody = rows.labels[rows.labels != UNLABELLED].unique().tolist()
    first = {size: [] for size in sizes}
    equal = dict.fromkeys(sizes, 0.0)
    single = dict.fromkeys(sizes, 0.0)
    people = _able(rows, everybody)
    if len(people) < 2:
        raise ValueError(
            f"{len(people)} people have a row to enrol beside their probe (of another group, where groups are given): "
            "two are needed"
        )
    for _ in range(draws):
        probes, enrolled = _drawn(rows, people, generator)
        for size in sizes:
            taken = [some[:size] for some in enrolled]
            scores = _scores(rows, probes, taken, how)
            first[size].append(_first(scores))
            own = torch.eye(len(people), dtype=torch.bool, device=scores.device)
            equal[size] += verification_from_scores(scores.flatten(), own.flatten()).eer / draws
            single[size] += sum(len(some) == 1 for some in taken) / draws
    each = {size: torch.stack(values).mean(0) for size, values in first.items()}
    who = torch.tensor(people)
    return TemplateCurve(
        rank1={size: float(values.mean()) for size, values in each.items()},
        eer=equal,
        gain={
            size: paired_difference(
                values - each[sizes[0]], (who, None), over="identities", level=0.95, resamples=1000, seed=seed
            )
            for size, values in each.items()
        },
        each=each,
        single=single,
        people=len(people),
        left_out=len(everybody) - len(people),
    )


def _able(rows: Rows, people: list[int]) -> list[int]:
    """Who has two rows, of two groups where there are groups."""
    key = torch.arange(len(rows), device=rows.ids.device) if rows.groups is None else rows.groups
    return [one for one in people if len(key[rows.labels == one].unique()) > 1]


def _drawn(rows: Rows, people: list[int], generator: torch.Generator) -> tuple[Int64[Tensor, " c"], list[Tensor]]:
    """A probe of each person, and their other rows (of other groups) in random order."""
    probes, enrolled = [], []
    for one in people:
        members = (rows.labels == one).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator).to(members.device)]
        others = members[1:] if rows.groups is None else members[rows.groups[members] != rows.groups[members[0]]]
        probes.append(members[0])
        enrolled.append(others)
    return torch.stack(probes), enrolled


def _scores(rows: Rows, probes: Int64[Tensor, " c"], taken: list[Tensor], how: str) -> Float64[Tensor, "c c"]:
    x = rows.embeddings
    names = torch.arange(len(taken), device=x.device)
    place = names.repeat_interleave(torch.tensor([len(some) for some in taken], device=x.device))
    kept = x[torch.cat(taken)]
    if how != "mean":
        fuse: Fuse = "max" if how == "max" else "mean"
        return fused_scores(x[probes], kept, place, len(taken), "cosine", fuse)
    total = x.new_zeros(len(taken), x.shape[1], dtype=torch.float64).index_add_(0, place, kept.double())
    return fused_scores(x[probes], normalise(total.float()), names, len(taken), "cosine", "max")


def _first(scores: Float64[Tensor, "c c"]) -> Float64[Tensor, " c"]:
    """Probability of each person to be found first; ties are in random order."""
    own = scores.diagonal()[:, None]
    ahead, tied = (scores > own).sum(1), (scores == own).sum(1)
    return torch.where(ahead == 0, 1 / tied.double(), 0.0)
