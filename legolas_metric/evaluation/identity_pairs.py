"""Pairs counted by identity, which is what the bootstrap draws (the subsets bootstrap, Bolle et al. 2004).

A draw counts, for each drawn identity, the pairs that it is part of: genuine ones, and impostor ones with all others.
Letters: c identities, h cells between borders (h - 1 of them), b draws, t pairs.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from legolas_metric.budgets import BLOCK, rows_for
from legolas_metric.checks import UNLABELLED, Metric, check_whole
from legolas_metric.evaluation.bootstrap import FEW_IDENTITIES, check_level, draws
from legolas_metric.evaluation.progress import bar
from legolas_metric.evaluation.scores import Scorer, score_block, turned, widened
from legolas_metric.geometry import chunks
from legolas_metric.rows import Rows

PairsOver = Literal["identities", "groups"]

Histograms = tuple[Int64[Tensor, "c h"], Int64[Tensor, "c h"]]
"""Of each identity: its impostor pairs and its genuine pairs in each cell."""


@dataclass(frozen=True, slots=True)
class PairsOfRows:
    """All pairs of rows, which stand in order of their labels, the unlabelled last; the groups may be what is drawn.

    With a scorer, which scores in the metric's place, the rows are what its `transform` made.
    """

    rows: Rows
    metric: Metric
    over: PairsOver = "identities"
    scorer: Scorer | None = None

    @property
    def units(self) -> Int64[Tensor, " k"]:
        """Of each labelled row what is drawn: its class or its group, numbered from 0."""
        assert self.rows.labels is not None
        named = self.rows.labels if self.over == "identities" else self.rows.groups
        assert named is not None
        return named[self.rows.labels != UNLABELLED].unique(return_inverse=True)[1]

    @property
    def identities(self) -> int:
        """How many are drawn from: classes, or groups, that have labelled rows."""
        return int(self.units.max()) + 1

    def histograms(self, borders: Float64[Tensor, " k"]) -> Histograms:
        """Counts of the pairs of each that is drawn, in cells between ascending borders; a cell holds its lower one.

        Another pass over all pairs: O(n^2 d) time, a fixed workspace beside n d and the counts.
        """
        labels, groups = self.rows.labels, self.rows.groups
        assert labels is not None
        identity = self.units
        known = len(identity)
        size = (self.identities, len(borders) + 1)
        impostor, genuine = (torch.zeros(size, dtype=torch.int64, device=labels.device) for _ in range(2))
        score = self._scores()
        blocks = chunks(known, min(256, rows_for(BLOCK, 64 * len(labels))))
        with bar(known, "pairs by identity", "rows") as told:
            for part in blocks:
                cell = torch.bucketize(score(part), borders, right=True)
                same = labels[part, None] == labels[None, part.start :]
                later = torch.ones_like(same).triu_(1)
                honest = same & later
                if groups is not None:
                    honest &= groups[part, None] != groups[None, part.start :]
                first, second = (~same & later).nonzero().unbind(1)
                _count(impostor, identity[part][first], cell[first, second])
                labelled = second < known - part.start  # an unlabelled row has no identity
                _count_others(impostor, identity[part.start :], first[labelled], second[labelled], cell)
                first, second = honest.nonzero().unbind(1)
                _count(genuine, identity[part][first], cell[first, second])
                _count_others(genuine, identity[part.start :], first, second, cell)
                told.update(part.stop - part.start)
        return impostor, genuine

    def _scores(self) -> Callable[[slice], Float64[Tensor, "r n"]]:
        """The scores of a block of rows with itself and all later ones."""
        table, scorer = self.rows.embeddings, self.scorer
        if scorer is not None:
            return lambda part: scorer.compare(table[part], table[part.start :])
        wide = widened(table, self.metric)
        return lambda part: score_block(turned(wide[part], self.metric), wide[part.start :], self.metric)


@dataclass(frozen=True, slots=True)
class PairsGiven:
    """Given scores, with the one or two identities of each pair."""

    scores: Float64[Tensor, " t"]
    genuine: Bool[Tensor, " t"]
    who: Int64[Tensor, "t 2"]

    @property
    def identities(self) -> int:
        """Identities in any pair."""
        return len(self.who.unique())

    def histograms(self, borders: Float64[Tensor, " k"]) -> Histograms:
        """As of rows; a genuine pair is its identity's once."""
        identity = self.who.unique(return_inverse=True)[1]
        cell = torch.bucketize(self.scores, borders, right=True)
        size = (self.identities, len(borders) + 1)
        impostor, genuine = (torch.zeros(size, dtype=torch.int64, device=cell.device) for _ in range(2))
        _count(genuine, identity[self.genuine, 0], cell[self.genuine])
        for side in (0, 1):
            both = ~self.genuine & ((self.who[:, 0] != self.who[:, 1]) if side else True)  # of one name: once
            _count(impostor, identity[both, side], cell[both])
        return impostor, genuine


Pairs = PairsOfRows | PairsGiven
"""Pairs that know their identities."""


def _count(counts: Int64[Tensor, "c h"], row: Int64[Tensor, " m"], cell: Int64[Tensor, " m"]) -> None:
    counts.view(-1).index_add_(0, row * counts.shape[1] + cell, torch.ones_like(row))


def _count_others(
    counts: Int64[Tensor, "c h"],
    unit: Int64[Tensor, " k"],
    first: Int64[Tensor, " m"],
    second: Int64[Tensor, " m"],
    cell: Int64[Tensor, "r n"],
) -> None:
    """Count pairs for the second row's unit too, where that is another one than the first's."""
    other = unit[first] != unit[second]
    _count(counts, unit[second[other]], cell[first[other], second[other]])


def drawn_rates(
    pairs: Pairs, borders: Float64[Tensor, " k"], *, resamples: int, seed: int
) -> tuple[Float64[Tensor, "b k"], Float64[Tensor, "b k"]] | None:
    """FAR and FRR at ascending borders in each draw of the identities; None where one identity only has genuine
    pairs.

    Warns:
        UserWarning: fewer than ten identities.
    """
    if not enough_identities(pairs.identities, pairs.over if isinstance(pairs, PairsOfRows) else "identities"):
        return None
    counted = pairs.histograms(borders)
    if int((counted[1].sum(1) > 0).sum()) < 2:
        return None
    return rates_of_draws(counted, resamples=resamples, seed=seed)


def enough_identities(units: int, what: PairsOver = "identities") -> bool:
    """Whether there are two of what is drawn at least; fewer than ten are warned of."""
    if units < FEW_IDENTITIES:
        warnings.warn(f"an interval over {units} {what} says little: ten or more are needed", stacklevel=5)
    return units > 1


def rates_of_draws(
    counted: Histograms, *, resamples: int, seed: int
) -> tuple[Float64[Tensor, "b k"], Float64[Tensor, "b k"]]:
    """FAR and FRR of each draw of the identities, from the pairs of each: of a cell, or of a higher one."""
    tables = [table.cpu().double() for table in counted]
    units, generator = len(tables[0]), torch.Generator().manual_seed(seed)
    rates = []
    for block in chunks(check_whole("resamples", resamples, 1), rows_for(BLOCK, 16 * units)):
        weight = draws(block.stop - block.start, units, generator)
        accepted = []
        for table in tables:
            drawn = (weight @ table).flip(1).cumsum(1).flip(1)
            accepted.append(drawn[:, 1:] / drawn[:, :1])
        rates.append((accepted[0], 1 - accepted[1]))
    return torch.cat([far for far, _ in rates]), torch.cat([frr for _, frr in rates])


def percentiles(values: Float64[Tensor, " b"], level: float) -> tuple[float, float]:
    """The interval of this level, of draws that have a value."""
    check_level(level)
    if bool(values.isnan().all()):
        return math.nan, math.nan
    low, high = values.nanquantile(values.new_tensor([(1 - level) / 2, (1 + level) / 2])).tolist()
    return low, high
