"""Two encoders on the same examples: their figures, and of which figures the difference is more than chance."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.cli.inputs import about, labels_of
from legolas_metric.cli.options import Form
from legolas_metric.cli.printing import plain, say
from legolas_metric.cli.printing import show as show_table
from legolas_metric.cli.refusals import complain
from legolas_metric.cli.waiting import waiting
from legolas_metric.evaluation.bootstrap import Difference
from legolas_metric.evaluation.identity_bootstrap import paired_differences
from legolas_metric.evaluation.identity_pairs import PairsOver
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.ranking import evaluate_ranking
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.evaluation.verification import evaluate_verification
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.files import EmbeddingFile
from legolas_metric.measures import (
    FORMAT,
    collapse_figures,
    measure,
    ranking_figures,
    side_by_side,
    verification_figures,
)
from legolas_metric.probes.collapse import probe_embeddings
from legolas_metric.probes.collapse_report import CollapseReport
from legolas_metric.tables import Table

Reports = tuple[RankingReport, VerificationReport, CollapseReport]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two encoders, A and B, on the same examples.

    Attributes:
        files: "A" and "B" -> the file's name.
        reports: "A" and "B" -> ranking, verification, collapse.
        intervals: "A" and "B" -> name of a measure -> its interval, by the bootstrap over classes (or groups).
        differences: name of a measure of ranking or verification -> B less A, paired, with its interval.
        over: what was drawn: "identities" or "groups".
        warned: what makes the intervals weaker than they look.
    """

    files: Mapping[str, str]
    reports: Mapping[str, Reports]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    differences: Mapping[str, Difference]
    over: PairsOver
    warned: tuple[str, ...]

    def better(self, name: str) -> str | None:
        """The encoder that is better at a measure; None where the interval of the difference holds zero.

        Nor at a false accept rate that stands for too few impostor pairs to be quoted.
        """
        held = self.differences.get(name)
        flagged = {f"tar_at_far_{far:g}" for far in self.reports["A"][1].flagged}
        if held is None or not held.shown or name in flagged:
            return None
        return "B" if (held.value > 0) == (measure(name).better == "max") else "A"


def compare(
    a: tuple[Path, Tensor],
    b: tuple[Path, Tensor],
    file: EmbeddingFile,
    metric: Metric,
    protocol: RetrievalProtocol,
    over: PairsOver,
) -> Comparison:
    """Measure two tables of the same rows.

    Args:
        a, b: each a path, by which what is refused is named, and its embeddings.
        file: of the rows' labels, ids and groups.
        metric, protocol: see `evaluate_ranking`.
        over: what the bootstrap draws.
    """
    if over == "groups" and file.groups is None:
        raise ValueError(f"{a[0]}: no groups, which --over draws: save speaker, session or camera as `groups`")
    first = about(a[0], lambda: _reports(a[1], file, metric, protocol, None))
    second = about(b[0], lambda: _reports(b[1], file, metric, protocol, first))
    reports = {"A": first, "B": second}
    with warnings.catch_warnings(record=True) as caught, waiting("intervals"):
        warnings.simplefilter("always")
        intervals = {
            name: {**ranking.intervals(over=over), **verification.intervals(over=over)}
            for name, (ranking, verification, _) in reports.items()
        }
        differences = {name: second[0].difference(name, over=over) for name in second[0].intervals(over=over)}
        pairs = (second[1].identified(over), first[1].identified(over))
        differences |= paired_differences(*pairs)
    warned = tuple(dict.fromkeys(str(warning.message) for warning in caught))
    files = {"A": str(a[0]), "B": str(b[0])}
    # A is no untrained encoder, as which a baseline would be shown.
    reports["B"] = (replace(second[0], baseline=None), replace(second[1], baseline=None), second[2])
    return Comparison(
        files=files, reports=reports, intervals=intervals, differences=differences, over=over, warned=warned
    )


def _reports(
    rows: Tensor, file: EmbeddingFile, metric: Metric, protocol: RetrievalProtocol, before: Reports | None
) -> Reports:
    labels, ids, groups = labels_of(file), file.ids, file.groups
    ranking, pairs = (None, None) if before is None else before[:2]
    return (
        evaluate_ranking(rows, labels, ids=ids, groups=groups, metric=metric, protocol=protocol, baseline=ranking),
        evaluate_verification(rows, labels, groups=groups, metric=metric, baseline=pairs),
        probe_embeddings(rows, labels),
    )


def show(found: Comparison, form: Form) -> None:
    """Print a comparison."""
    if form is Form.json:
        print(json.dumps(as_json(found), indent=2, allow_nan=False))
    else:
        show_table(table(found), form)
        if form is Form.table:
            _show_intervals(found)
    for sentence in found.warned:
        complain(sentence)


def table(found: Comparison) -> Table:
    """Both encoders' figures, and the one that is better where that is more than chance."""
    held = side_by_side(
        {
            name: {**ranking_figures(ranking), **verification_figures(verification), **collapse_figures(collapse)}
            for name, (ranking, verification, collapse) in found.reports.items()
        }
    )
    better = {measure(name).title: found.better(name) for name in found.differences}
    rows = [(*row, better.get(str(row[0]))) for row in held.rows]
    return Table([*held.columns, "better"], rows, formats=dict.fromkeys(("A", "B"), FORMAT))


def as_json(found: Comparison) -> object:
    """What the screen shows, under the records' names: an object for each file; B's holds the differences."""
    held = []
    for name, (ranking, verification, collapse) in found.reports.items():
        scalars = {**ranking.scalars(), **verification.scalars(), **collapse.scalars(), "verdict": collapse.verdict}
        intervals = {measure: list(ends) for measure, ends in found.intervals[name].items()}
        held.append({"file": found.files[name], "name": name, **scalars, "intervals": intervals})
    better = {name: found.better(name) for name in found.differences}
    held[1]["differences"] = {
        name: {**_fields(difference), "better": better[name]} for name, difference in found.differences.items()
    }
    held[1]["warnings"] = list(found.warned)
    return plain(held)


def _fields(difference: Difference) -> Mapping[str, object]:
    fields = plain(difference)
    assert isinstance(fields, Mapping)
    return fields


def _show_intervals(found: Comparison) -> None:
    for name in ("rank_at_1", "map_at_r", "auc", "eer"):
        title, difference = measure(name).title, found.differences[name]
        ends = ", ".join(
            f"{which} [{held[name][0]:.3f}, {held[name][1]:.3f}]" for which, held in found.intervals.items()
        )
        say(
            f"{title}, 95 % interval: {ends}; B less A {difference.value:+.3f} "
            f"[{difference.low:+.3f}, {difference.high:+.3f}], paired, over {difference.identities} {found.over}"
        )
