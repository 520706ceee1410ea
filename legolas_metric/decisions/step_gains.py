"""What the steps after an encoder gain, each beside the plain figure, with the paired interval, and what it costs."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from legolas_metric.checks import ArrayLike
from legolas_metric.decisions.projections import Projection
from legolas_metric.decisions.scored import verify_by
from legolas_metric.evaluation.bootstrap import Difference
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.ranking import evaluate_ranking
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.evaluation.scores import Scorer
from legolas_metric.evaluation.verification import evaluate_verification
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.names import as_named
from legolas_metric.rows import as_prepared
from legolas_metric.signatures import typed
from legolas_metric.tables import Table, Value

Step = Scorer | Projection | Callable[[Tensor], Any]
"""A scorer or a back end; or what makes one, or other rows, of the rows that are judged (`KReciprocal`, `expand`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGain:
    """One step.

    Attributes:
        rank_at_1, map_at_r, eer: with it, less without it, each with its paired interval over identities.
        seconds: what it took to make the step, where it was made of the rows, and to rank by it.
        ranking, verification: with it; their baselines are those without it.

    Example:
        >>> from legolas_metric import StepGain
        >>> StepGain.__slots__[:3]
        ('rank_at_1', 'map_at_r', 'eer')

    Source: ours.
    """

    rank_at_1: Difference
    map_at_r: Difference
    eer: Difference
    seconds: float
    ranking: RankingReport = field(repr=False)
    verification: VerificationReport = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsCompared:
    """Steps after an encoder beside its plain cosine.

    Attributes:
        ranking, verification: without any step.
        seconds: what the plain ranking took.
        steps: name -> what it gains.

    Example:
        >>> from legolas_metric import StepsCompared
        >>> StepsCompared.__slots__[-1]
        'steps'

    Source: ours.
    """

    ranking: RankingReport = field(repr=False)
    verification: VerificationReport = field(repr=False)
    seconds: float
    steps: Mapping[str, StepGain]

    def table(self) -> Table:
        """A row a step, the plain one first; a question mark where the interval holds 0."""
        plain = (self.ranking.rank[1], self.ranking.map_at_r, self.verification.eer)
        rows: list[tuple[Value, ...]] = [
            ("plain", *(part for value in plain for part in (value, None)), self.seconds),
        ]
        for name, step in self.steps.items():
            values = (step.ranking.rank[1], step.ranking.map_at_r, step.verification.eer)
            gains = (step.rank_at_1, step.map_at_r, step.eer)
            rows.append((name, *(part for pair in zip(values, map(signed, gains)) for part in pair), step.seconds))
        heads = ["step", "Rank@1", "its gain", "MAP@R", "of it", "EER", "of that", "seconds"]
        return Table(heads, rows, formats={"seconds": ".2f"})


def signed(found: Difference) -> str:
    """A difference with its interval, as tables show it: "+0.042 (+0.023 to +0.070)", doubtful ones with " ?"."""
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f}){'' if found.shown else ' ?'}"


@typed
def compare_steps(
    embeddings: ArrayLike,
    labels: ArrayLike,
    steps: Mapping[str, Step],
    *,
    groups: ArrayLike | None = None,
    protocol: RetrievalProtocol | str = RetrievalProtocol(),  # noqa: B008  (frozen)
    resamples: int = 1000,
    seed: int = 0,
) -> StepsCompared:
    """Judge each step on the same rows as the plain cosine: Rank@1, MAP@R and EER, paired, and seconds.

    Args:
        embeddings: [n, d], of people whom no step was fitted on.
        labels: [n].
        steps: name -> a fitted back end (`LDA`, ...), a scorer (`ScoreNorm`, `PLDA`), or a function of the rows that
            returns one, or other rows: `KReciprocal`, `expand`, `lambda rows: LDA().fit(x, y)`, whose fitting then
            counts among the seconds.
        groups, protocol: as in `evaluate_ranking`; pairs of one class and one group are left out of the EER.
        resamples, seed: of the intervals, by the bootstrap over identities.

    Raises:
        ValueError: no step; people whom a scorer refuses; what `evaluate_ranking` and `verify_by` refuse.

    Warns:
        UserWarning: fewer than ten identities; people whom a back end was fitted on, by id.

    Example:
        >>> import torch
        >>> from legolas_metric import LDA, KReciprocal
        >>> generator = torch.Generator().manual_seed(0)
        >>> y = torch.arange(160) // 4
        >>> x = torch.randn(40, 8, generator=generator)[y] + 0.6 * torch.randn(160, 8, generator=generator)
        >>> found = compare_steps(x[80:], y[80:], {"LDA": LDA().fit(x[:80], y[:80]), "re-ranked": KReciprocal})
        >>> list(found.steps), found.steps["LDA"].eer.identities
        (['LDA', 're-ranked'], 20)

    Source: ours.
    """
    if not steps:
        raise ValueError('steps is empty: name one at least, such as {"LDA": LDA().fit(x, y)}')
    asked = RetrievalProtocol.named(protocol)
    start = time.perf_counter()
    plain = evaluate_ranking(embeddings, labels, groups=groups, protocol=asked)
    seconds = time.perf_counter() - start
    verified = evaluate_verification(embeddings, labels, groups=groups)
    rows = as_prepared(embeddings, "cosine")
    gains = {}
    for name, step in steps.items():
        start = time.perf_counter()
        table, scorer = _made(step, rows, labels)
        ranking = evaluate_ranking(table, labels, groups=groups, protocol=asked, scorer=scorer, baseline=plain)
        took = time.perf_counter() - start
        if scorer is None:
            pairs = evaluate_verification(table, labels, groups=groups, baseline=verified)
        else:
            pairs = verify_by(scorer, table, labels, groups=groups, baseline=verified)
        gains[name] = StepGain(
            rank_at_1=ranking.difference("rank_at_1", resamples=resamples, seed=seed),
            map_at_r=ranking.difference("map_at_r", resamples=resamples, seed=seed),
            eer=pairs.difference("eer", resamples=resamples, seed=seed),
            seconds=took,
            ranking=ranking,
            verification=pairs,
        )
    return StepsCompared(ranking=plain, verification=verified, seconds=seconds, steps=gains)


def _made(step: Step, rows: Tensor, labels: ArrayLike) -> tuple[Any, Scorer | None]:
    """What is compared under a step, and by what; None for the cosine."""
    made = step(rows) if callable(step) else step
    if isinstance(made, Scorer):
        return rows, made
    if isinstance(made, Projection):
        named = as_named(labels, len(rows), name="labels")
        made.check(named.codes, named.names)
        return made.transform(rows), None
    return made, None
