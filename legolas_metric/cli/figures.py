"""Records as named figures: for tables on the screen, for JSON, and to lay several runs side by side."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table as ScreenTable
from torch import Tensor

from legolas_metric.evaluation.ranking import RankingReport
from legolas_metric.evaluation.verification import VerificationReport
from legolas_metric.probes.collapse_report import CollapseReport
from legolas_metric.records import MiningStats
from legolas_metric.tables import NOT_MEASURED, Better, Table, Value

Figures = Mapping[str, Value]

_UP: tuple[str, ...] = ("Rank@", "MAP@R", "R-precision", "mAP", "NN accuracy", "AUC", "TAR@FAR")
_DOWN: tuple[str, ...] = ("EER",)
_FORMAT = "#.4g"
_BARS = "▁▂▃▄▅▆▇█"


class Doubtful(float):
    """A figure that rests on too little to be quoted: a question mark follows it where it is shown in a table."""

    def __format__(self, form: str) -> str:
        return f"{float(self):{form}}?"


def collapse_figures(report: CollapseReport) -> dict[str, Value]:
    """The measures of a probe by the names that people use."""
    return {
        "rows": report.n,
        "effective rank": report.effective_rank,
        "effective rank, uncentred": report.effective_rank_uncentred,
        "participation ratio": report.participation_ratio,
        "top-1 variance": report.top1_variance,
        "mean cosine": report.mean_cosine,
        "resultant length R": report.resultant_length,
        "verdict": report.verdict,
    }


def iid_figures(reports: Mapping[str, CollapseReport]) -> dict[str, Figures]:
    """What iid rows would give, as one more column beside a report that stands alone."""
    (report,) = reports.values()
    assert report.baseline is not None
    return {"iid rows": collapse_figures(report.baseline)}


def ranking_figures(report: RankingReport) -> dict[str, Value]:
    """The measures of a ranking; mAP only where the whole gallery was ranked."""
    figures: dict[str, Value] = {f"Rank@{k}": value for k, value in report.rank.items()}
    figures |= {"MAP@R": report.map_at_r, "R-precision": report.r_precision}
    if report.mean_average_precision is not None:
        figures["mAP"] = report.mean_average_precision
    return figures | {
        "NN accuracy": report.nn_accuracy,
        "intra d²": report.intra,
        "inter d²": report.inter,
        "queries": report.queries,
        "unanswerable": report.unanswerable,
    }


def verification_figures(report: VerificationReport) -> dict[str, Value]:
    """The measures of a verification; a rate with too few impostors to be believed carries a question mark."""
    rates = {
        f"TAR@FAR {far:g}": Doubtful(share) if far in report.flagged else share
        for far, share in report.tar_at_far.items()
    }
    return {
        "AUC": report.auc,
        "EER": report.eer,
        **rates,
        "genuine pairs": report.genuine,
        "impostor pairs": report.impostor,
    }


def all_figures(ranking: RankingReport, verification: VerificationReport, collapse: CollapseReport) -> dict[str, Value]:
    """The measures of all three."""
    return {**ranking_figures(ranking), **verification_figures(verification), **collapse_figures(collapse)}


def mining_figures(stats: MiningStats) -> dict[str, Value]:
    """What a miner was asked, what it could not do, and how it went about it."""
    return {
        "anchors": stats.anchors,
        "without positive": stats.no_positive,
        "without negative": stats.no_negative,
        "outside the window": stats.outside_window,
        "served by fallback": stats.fallback,
        **{f"filtered: {reason}": count for reason, count in stats.filtered.items()},
        "searches widened": stats.widened,
        "engine": f"{stats.engine} ({stats.precision})",
        "recall": "exact" if stats.recall is None else stats.recall,
        "seconds": stats.seconds,
    }


def side_by_side(columns: Mapping[str, Figures], *, first: str = "measure") -> Table:
    """Measures from top to bottom, a column for each name."""
    measures = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    rows = [(name, *(figures.get(name) for figures in columns.values())) for name in measures]
    return Table([first, *columns], rows, formats=dict.fromkeys(columns, _FORMAT))


def one_a_row(rows: Mapping[str, Figures], *, first: str = "file") -> Table:
    """A row for each name, a column for each measure; the best ranking and verification figures are marked."""
    measures = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    values = [(name, *(figures.get(measure) for measure in measures)) for name, figures in rows.items()]
    better: dict[str, Better] = {name: way for name in measures if (way := better_direction(name)) is not None}
    return Table([first, *measures], values, better=better, formats=dict.fromkeys(measures, _FORMAT))


def compare_table(a: Figures, b: Figures) -> Table:
    """Two runs' measures side by side, with the one that is better; none where they are equal as shown.

    Example:
        >>> from legolas_metric.summaries import compare_table
        >>> compare_table({"AUC": 0.9, "EER": 0.1}, {"AUC": 0.9, "EER": 0.2}).rows
        [('AUC', 0.9, 0.9, None), ('EER', 0.1, 0.2, 'A')]
    """
    table = side_by_side({"A": a, "B": b})
    rows = [(*values, _better(*shown)) for values, shown in zip(table.rows, table.text())]
    return Table([*table.columns, "better"], rows, formats=table.formats)


def better_direction(measure: str) -> Better | None:
    """Which direction of a measure is better; None where that depends on what it is compared with."""
    if measure.startswith(_UP):
        return "max"
    return "min" if measure.startswith(_DOWN) else None


def sparkline(values: Sequence[Value]) -> str:
    """A line of bars, lowest to highest, as a trend to glance at; a space where nothing was measured.

    Example:
        >>> from legolas_metric.summaries import sparkline
        >>> sparkline([0.1, 0.5, None, 0.9])
        '▁▅ █'
    """
    measured = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    low, high = (min(measured), max(measured)) if measured else (0.0, 0.0)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        _BARS[round((float(v) - low) * scale)] if isinstance(v, int | float) and math.isfinite(v) else " "
        for v in values
    )


def in_order(paths: Sequence[Path]) -> list[Path]:
    """Files in the order of the numbers in their names: epoch-2 before epoch-10."""
    return sorted(paths, key=lambda path: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", str(path))])


def plain(value: object) -> object:
    """A record as what JSON can hold: fields by name, tensors as lists, NaN and infinity as null.

    Fields that a record leaves out of its repr, such as figures of every query, are left out here too.

    Example:
        >>> from legolas_metric.records import SearchStats
        >>> plain(SearchStats(engine="exact"))["engine"]
        'exact'
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr}
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    return (value if math.isfinite(value) else None) if isinstance(value, float) else str(value)


def on_screen(table: Table) -> ScreenTable:
    """The table for a terminal, the best figures in bold."""
    screen = ScreenTable()
    for name, number in zip(table.columns, table.numeric()):
        screen.add_column(escape(name), justify="right" if number else "left", overflow="fold")
    for texts, marks in zip(table.text(), table.best()):
        screen.add_row(*(f"[bold]{escape(text)}[/bold]" if best else escape(text) for text, best in zip(texts, marks)))
    return screen


def _better(measure: str, a: str, b: str) -> str | None:
    way = better_direction(measure)
    if way is None or a == b or NOT_MEASURED in (a, b) or (a + b).count("?"):
        return None  # of figures that cannot be believed, none is better
    return "A" if (float(a) > float(b)) == (way == "max") else "B"
