"""Several encoders on the same queries: which differ, when so many pairs are looked at at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from legolas_metric.checks import check_whole
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.tables import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOfRuns:
    """Two of the runs.

    Attributes:
        first, second: their names.
        difference: mean of the first less mean of the second.
        p: of the randomisation test.
        corrected: p after Holm's correction for all pairs.
    """

    first: str
    second: str
    difference: float
    p: float
    corrected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsCompared:
    """Several runs side by side.

    Attributes:
        measure: that they are compared by.
        means: of each run.
        pairs: all pairs of them.

    Example:
        >>> RunsCompared(measure="rank_at_1", means={"a": 0.5}, pairs=()).better()
        {'a': ()}

    Source: Fisher (1935), The Design of Experiments; Holm (1979), A simple sequentially rejective multiple test
    procedure.
    """

    measure: str
    means: Mapping[str, float]
    pairs: tuple[PairOfRuns, ...]

    def better(self, level: float = 0.05) -> dict[str, tuple[str, ...]]:
        """Of each run, those that it beats at a corrected p of at most `level`."""
        beaten: dict[str, list[str]] = {name: [] for name in self.means}
        for pair in self.pairs:
            if pair.corrected <= level and pair.difference:
                up = pair.difference > 0
                beaten[pair.first if up else pair.second].append(pair.second if up else pair.first)
        return {name: tuple(others) for name, others in beaten.items()}

    def table(self, level: float = 0.05) -> Table:
        """A row a run; `.markdown()`, `.latex()`, `.csv()`."""
        beaten = self.better(level)
        rows = [(name, mean, ", ".join(beaten[name])) for name, mean in self.means.items()]
        return Table(["run", self.measure, f"better than (p <= {level:g})"], rows, formats={self.measure: ".4f"})


def compare_runs(
    reports: Mapping[str, RankingReport], measure: str = "rank_at_1", *, resamples: int = 10_000, seed: int = 0
) -> RunsCompared:
    """Compare every two of several reports of the same queries, by Fisher's randomisation test over identities.

    p is the share of sign changes, each of all queries of an identity at once, that make a difference as large; all
    2^c of them where there are no more than `resamples`. Holm (1979) corrects for the number of pairs.

    Args:
        reports: name -> report, of the same rows under the same protocol.
        measure: as in `RankingReport.intervals`.
        resamples, seed: of the test.

    Raises:
        ValueError: fewer than two reports, other queries, an unknown measure.

    Example:
        >>> import torch
        >>> from legolas_metric import evaluate_ranking
        >>> y = torch.arange(40) // 2
        >>> noise = torch.randn(40, 20, generator=torch.Generator().manual_seed(0))
        >>> found = compare_runs({"good": evaluate_ranking(torch.eye(20)[y], y), "noise": evaluate_ranking(noise, y)})
        >>> found.better()
        {'good': ('noise',), 'noise': ()}

    Source: Fisher (1935), The Design of Experiments; Holm (1979), A simple sequentially rejective multiple test
    procedure.
    """
    if len(reports) < 2:
        raise ValueError(f"{len(reports)} reports: two are needed to compare")
    count = check_whole("resamples", resamples, 1)
    columns = {name: report.values(measure) for name, report in reports.items()}
    first = next(iter(reports.values()))
    for name, report in reports.items():
        same = report.per_query.ids.equal(first.per_query.ids) and report.per_query.labels.equal(first.per_query.labels)
        if not same or report.protocol != first.protocol:
            raise ValueError(f"{name} answers other queries than {next(iter(reports))}: evaluate all on the same rows")
    people = first.per_query.labels.unique(return_inverse=True)[1]
    found = []
    for one, other in combinations(columns, 2):
        change = columns[one] - columns[other]
        found.append((one, other, float(change.mean()), _randomised(change, people, count, seed)))
    corrected = holm([p for *_, p in found])
    pairs = [PairOfRuns(first=a, second=b, difference=d, p=p, corrected=c) for (a, b, d, p), c in zip(found, corrected)]
    return RunsCompared(
        measure=measure, means={name: float(column.mean()) for name, column in columns.items()}, pairs=tuple(pairs)
    )


def _randomised(change: Float64[Tensor, " q"], people: Int64[Tensor, " q"], resamples: int, seed: int) -> float:
    sums = torch.zeros(int(people.max()) + 1, dtype=torch.float64, device=change.device).index_add_(0, people, change)
    sums = sums.cpu()
    units, reached = len(sums), abs(float(sums.sum())) * (1 - 1e-12)
    if units < 40 and 2**units <= resamples:
        codes = torch.arange(2**units)
        signs = ((codes[:, None] >> torch.arange(units)) & 1).double() * 2 - 1
        return float(((signs @ sums).abs() >= reached).double().mean())
    generator, hits = torch.Generator().manual_seed(seed), 0
    for _ in range(0, resamples, 1000):
        signs = torch.randint(2, (min(1000, resamples), units), generator=generator).double() * 2 - 1
        hits += int(((signs @ sums).abs() >= reached).sum())
    drawn = -(-resamples // 1000) * min(1000, resamples)
    return (1 + hits) / (1 + drawn)


def holm(p: list[float]) -> list[float]:
    """p values corrected for their number (Holm 1979): the i-th smallest of m times m - i + 1, never falling.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p)), key=p.__getitem__)
    out, least = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        least = max(least, min(1.0, (len(p) - place) * p[i]))
        out[i] = least
    return out
