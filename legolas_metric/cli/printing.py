"""What the commands print: tables, trends, warnings, JSON; and one line on stderr for whatever is refused."""

import dataclasses
import json
import math
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from torch import Tensor

from legolas_metric.cli.options import Form
from legolas_metric.evaluation.decision import Decision
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.measures import (
    Figures,
    collapse_figures,
    measure,
    one_a_row,
    ranking_figures,
    side_by_side,
    titled,
    verification_figures,
)
from legolas_metric.outputs import is_stream
from legolas_metric.probes.collapse_report import CollapseReport
from legolas_metric.records import MiningStats, Triplets
from legolas_metric.tables import Table, Value, visible

_BARS = "▁▂▃▄▅▆▇█"
_RATES = ("rate", "value", "low", "high", "moved by")
_MINING = (
    *("anchors", "no_positive", "no_negative", "outside_window", "fallback"),
    *("filtered", "widened", "engine", "recall", "seconds"),
)


def say(text: str) -> None:
    """Print text, wrapped between words on a terminal; what controls it, as in a file name, is shown as its escape."""
    shown = visible(text, keep="\n")
    if sys.stdout.isatty():
        width = max(shutil.get_terminal_size().columns, 20)
        shown = "\n".join(_wrapped(line, width) if len(line) > width else line for line in shown.split("\n"))
    print(shown)


def _wrapped(line: str, width: int) -> str:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def say_written(path: Path, form: Form) -> None:
    """Say that a file was written: below a table, or on stderr, where a script reads the figures."""
    if not is_stream(path):
        print(visible(f"Wrote {path}."), file=sys.stdout if form is Form.table else sys.stderr)


def show(table: Table, form: Form) -> None:
    """Print a table; where nobody watches, at its full width."""
    if form is Form.csv:
        say(table.csv().removesuffix("\n"))
    elif form is Form.markdown:
        say(table.markdown())
    else:
        console = Console()
        if console.is_terminal:
            console.print(table.screen(console.width))
        else:
            Console(width=10_000).print(table.screen())


def show_json(records: Mapping[str, object], *, several: bool = False) -> None:
    """Print records with the names of their files: one object, or a list where several files were named."""
    objects = [{"file": name, **_fields(record)} for name, record in records.items()]
    print(json.dumps(objects if several else objects[0], indent=2, allow_nan=False))


def show_figures(figures: Mapping[str, Figures], form: Form, *, several: bool, beside: Mapping[str, Figures]) -> None:
    """A row for each file, or one file from top to bottom; as CSV always rows, whose shape a script can rely on.

    Args:
        figures: of each file.
        form: table, CSV or Markdown.
        several: whether several files were named, of which some may have been of no use.
        beside: what to compare with; not a file.
    """
    held = {**figures, **beside}
    show(one_a_row(held) if several or form is Form.csv else side_by_side(held), form)


def show_trends(figures: Mapping[str, Figures], titles: Sequence[str]) -> None:
    """One line for each measure over several files, in their order."""
    if len(figures) < 2:
        return
    for title in titles:
        values = [held.get(title) for held in figures.values()]
        ends = " to ".join(format(value, "#.4g") for value in (values[0], values[-1]) if isinstance(value, int | float))
        say(f"{title:<16} {sparkline(values)}  {ends}")


def show_kept(figures: Mapping[str, Figures], title: str) -> None:
    """Name the file with the best value of a measure: the epoch that a stop on it would have kept."""
    values = {name: value for name, held in figures.items() if isinstance(value := held.get(title), int | float)}
    if len(values) > 1:
        best = max(values, key=values.__getitem__)
        say(f"A stop on {title} would have kept {best} ({values[best]:#.4g}).")


def show_ranked(
    reports: Mapping[str, RankingReport],
    before: RankingReport | None,
    form: Form,
    trends: tuple[str, str],
    *,
    several: bool,
) -> None:
    """Print the rankings of one file or several, beside the untrained encoder's, and what follows from them."""
    figures = {name: ranking_figures(report) for name, report in reports.items()}
    beside = {} if before is None else {"untrained": ranking_figures(before)}
    _show_measured(reports, figures, beside, form, trends, several=several)


def show_verified(
    reports: Mapping[str, VerificationReport],
    before: VerificationReport | None,
    form: Form,
    *,
    several: bool,
    applied: tuple[str, Decision | None] = ("", None),
) -> None:
    """Print the verifications of one file or several, likewise; and what the threshold of the one did to another."""
    name, done = applied
    if form is Form.json and done is not None:
        ((file, report),) = reports.items()
        whole = {"file": file, **_fields(report), "applied": {"file": name, **_fields(done)}}
        print(json.dumps(whole, indent=2, allow_nan=False))
        return
    figures = {name: verification_figures(report) for name, report in reports.items()}
    beside = {} if before is None else {"untrained": verification_figures(before)}
    rows = [] if done is None else _rates(done)
    if form is Form.csv and done is not None:  # a row a file, whatever is asked
        (own,) = figures
        told = {f"{rate} {title}": value for rate, *values in rows for title, value in zip(_RATES[1:], values)}
        figures[own] = {**figures[own], "applied to": name, "threshold": done.threshold, **told}
    _show_measured(reports, figures, beside, form, ("auc", "eer"), several=several)
    if done is not None and form is not Form.csv:
        say(f"Threshold {done.threshold:.6g} on {name}: {done.genuine} genuine pairs, {done.impostor} impostor pairs.")
        show(Table(_RATES, rows, formats=dict.fromkeys(_RATES[1:], ".4f")), form)


def _rates(done: Decision) -> list[tuple[str, float, float, float, float]]:
    far = ("FAR (FMR)", done.far, *done.far_interval, done.far_moved)
    return [far, ("FRR (FNMR)", done.frr, *done.frr_interval, done.frr_moved)]


def _show_measured(
    reports: Mapping[str, RankingReport] | Mapping[str, VerificationReport],
    figures: Mapping[str, Figures],
    beside: Mapping[str, Figures],
    form: Form,
    trends: tuple[str, str],
    *,
    several: bool,
) -> None:
    if form is Form.json:
        show_json(reports, several=several)
        return
    show_figures(figures, form, several=several, beside=beside)
    if form is Form.table:
        titles = [measure(name).title for name in trends]
        show_trends(figures, titles)
        show_kept(figures, titles[0])
        for name, report in reports.items():
            for sentence in report.warnings():
                say(f"{name}: {sentence}.")


def show_probed(reports: Mapping[str, CollapseReport], form: Form, *, several: bool) -> None:
    """Print what probes found, one alone beside iid rows; of several the verdicts that are not healthy, and trends."""
    if form is Form.json:
        show_json(reports, several=several)
        return
    figures = {name: collapse_figures(report) for name, report in reports.items()}
    beside = {}
    if not several and form is not Form.csv:
        (alone,) = reports.values()
        assert alone.baseline is not None
        beside = {"iid rows": collapse_figures(alone.baseline)}
    show_figures(figures, form, several=several, beside=beside)
    if form is not Form.table:
        return
    for name, report in reports.items():
        if len(reports) == 1 or report.remedy:
            remedy = [f"Remedy: {report.remedy}."] if report.remedy else []
            say("\n  ".join([f"{name}: {report.verdict or 'no verdict'}.", *report.evidence, *remedy]))
    show_trends(figures, [measure(name).title for name in ("effective_rank", "mean_cosine")])


def show_mined(name: str, triplets: Triplets, form: Form) -> None:
    """Print what a miner found, and what it could not."""
    if form is Form.json:
        show_json({name: triplets.stats})
    else:
        show(side_by_side({name: {"triplets": len(triplets), **mining_figures(triplets.stats)}}), form)


def show_seconds(seconds: Mapping[str, float], form: Form) -> None:
    """Print what took how long, and the sum."""
    held = {**seconds, "in all": sum(seconds.values())}
    if form is Form.json:
        print(json.dumps({"seconds": held}, indent=2))
    else:
        show(Table(["compiled", "seconds"], list(held.items()), formats={"seconds": ".2f"}), form)


def mining_figures(stats: MiningStats) -> dict[str, Value]:
    """What a miner was asked, what it could not do, and how it went about it."""
    values: dict[str, Value] = {name: getattr(stats, name) for name in _MINING if name not in ("filtered", "engine")}
    values |= {"engine": f"{stats.engine} ({stats.precision})"}
    values["recall"] = "exact" if stats.recall is None else "not measured" if math.isnan(stats.recall) else stats.recall
    filtered: dict[str, Value] = {f"filtered: {reason}": count for reason, count in stats.filtered.items()}
    return {**titled(values, _MINING[:5]), **filtered, **titled(values, _MINING[6:])}


def sparkline(values: Sequence[Value]) -> str:
    """A line of bars, lowest to highest, as a trend to glance at; a space where nothing was measured.

    Example:
        >>> from legolas_metric.cli.printing import sparkline
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


def _fields(record: object) -> dict[str, object]:
    fields = plain(record)
    assert isinstance(fields, dict)
    return fields
