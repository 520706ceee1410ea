"""What the commands share: reading files one by one, naming the bad ones, and printing."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast

import torch
import typer
from rich.console import Console
from torch import Tensor

from legolas_metric.checks import Metric
from legolas_metric.cli.figures import Figures, in_order, on_screen, one_a_row, plain, side_by_side, sparkline
from legolas_metric.doctor.diagnosis import Diagnosis, diagnose
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.ranking import evaluate_ranking
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.evaluation.verification import VerificationReport, evaluate_verification
from legolas_metric.files import EmbeddingFile, check_writable
from legolas_metric.probes.collapse import probe_embeddings
from legolas_metric.probes.collapse_report import CollapseReport
from legolas_metric.probes.plane import principal_plane
from legolas_metric.rows import as_ids, as_labels
from legolas_metric.tables import Table

if TYPE_CHECKING:
    from legolas_metric.report import Section

T = TypeVar("T")
Report = TypeVar("Report", RankingReport, VerificationReport)
BAD_INPUT = (ValueError, TypeError, OSError, ModuleNotFoundError)
# Typer has Click's errors from Click or, in newer releases, within itself; this name leads to both.
_BAD_USAGE = cast("type[typer.BadParameter]", typer.BadParameter.__base__)


class Form(StrEnum):
    """How a table is printed."""

    table = "table"
    csv = "csv"
    markdown = "markdown"
    json = "json"


def run(app: typer.Typer) -> NoReturn:
    """Run the commands and exit: bad usage or input is one line on stderr, and no arguments at all ask for help."""
    arguments = None if sys.argv[1:] else ["--help"]
    try:
        status = app(arguments, prog_name="legolas-metric", standalone_mode=False)
    except typer.Abort:
        raise SystemExit(130) from None
    except _BAD_USAGE as error:
        where = "" if error.ctx is None else f" (see {error.ctx.command_path} --help)"
        complain(error.format_message().replace("Value error, ", "").removesuffix(".") + where)
        raise SystemExit(2) from None
    except BAD_INPUT as error:
        complain(error)
        raise SystemExit(2) from None
    raise SystemExit(status or 0)


def each(
    files: Sequence[Path], read: Callable[[Path], EmbeddingFile], work: Callable[[EmbeddingFile], T]
) -> tuple[dict[str, T], int]:
    """The work done on every file that can be used, by its name, and the exit status.

    Bad files are named on stderr and the rest goes on; where none is left, that is the end.
    """
    results: dict[str, T] = {}
    paths = in_order(list(dict.fromkeys(files)))
    for path in paths:
        try:
            results[str(path)] = about(path, lambda path=path: work(read(path)))
        except BAD_INPUT as error:
            complain(error)
    if not results:
        raise SystemExit(2)
    return results, int(len(results) < len(paths))


def about(path: Path, call: Callable[[], T]) -> T:
    """The call's result; what it refuses is told with the name of the file."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        named = str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
        raise type(error)(named) from error


def complain(error: Exception | str) -> None:
    """One line on stderr."""
    print(f"legolas-metric: {' '.join(str(error).split())}", file=sys.stderr)


def show(table: Table, form: Form) -> None:
    """Print a table; where nobody watches, at its full width."""
    if form is Form.csv:
        print(table.csv(), end="")
    elif form is Form.markdown:
        print(table.markdown())
    else:
        console = Console()
        Console(width=None if console.is_terminal else 10_000).print(on_screen(table))


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


def show_trends(figures: Mapping[str, Figures], measures: Sequence[str]) -> None:
    """One line for each measure over several files, in their order."""
    if len(figures) < 2:
        return
    for measure in measures:
        values = [held.get(measure) for held in figures.values()]
        ends = " to ".join(format(value, "#.4g") for value in (values[0], values[-1]) if isinstance(value, int | float))
        print(f"{measure:<16} {sparkline(values)}  {ends}")


def show_kept(figures: Mapping[str, Figures], measure: str) -> None:
    """Name the file with the best value of a measure: the epoch that a stop on it would have kept."""
    values = {name: value for name, held in figures.items() if isinstance(value := held.get(measure), int | float)}
    if len(values) > 1:
        best = max(values, key=values.__getitem__)
        print(f"A stop on {measure} would have kept {best} ({values[best]:#.4g}).")


def show_warnings(warnings: Mapping[str, Sequence[str]]) -> None:
    """What makes each file's figures weaker than they look."""
    for name, said in warnings.items():
        for sentence in said:
            print(f"{name}: {sentence}.")


def show_measured(
    reports: Mapping[str, Report],
    before: Report | None,
    figures_of: Callable[[Report], Figures],
    form: Form,
    trends: tuple[str, str],
    *,
    several: bool,
) -> None:
    """Print what was measured on one file or several, beside the untrained encoder, and what follows from it."""
    if form is Form.json:
        show_json(reports, several=several)
        return
    figures = {name: figures_of(report) for name, report in reports.items()}
    beside = {} if before is None else {"untrained": figures_of(before)}
    show_figures(figures, form, several=several, beside=beside)
    if form is Form.table:
        show_trends(figures, trends)
        show_kept(figures, trends[0])
        show_warnings({name: report.warnings() for name, report in reports.items()})


def check_file(path: Path) -> None:
    """Refuse an output file that is a folder."""
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder. Name a file, such as one in that folder.")


def check_page(html: Path | None) -> None:
    """Refuse a page that cannot be made or written, before any work is done."""
    if html is not None:
        import legolas_metric.report  # noqa: F401

        check_file(html)
        check_writable(html.parent)


def write_report(html: Path, title: str, files: Sequence[str], sections: "Sequence[Section]") -> None:
    """Write the page of a command."""
    from legolas_metric.report import write_page

    write_page(html, title, f"Of {', '.join(files)}.", sections)


def show_verdicts(reports: Mapping[str, CollapseReport]) -> None:
    """Verdict and evidence of one report alone; of several, of those that are not healthy."""
    for name, report in reports.items():
        if len(reports) == 1 or report.remedy:
            remedy = [f"Remedy: {report.remedy}."] if report.remedy else []
            print("\n  ".join([f"{name}: {report.verdict or 'no verdict'}.", *report.evidence, *remedy]))


def show_intervals(reports: Mapping[str, RankingReport]) -> None:
    """How far the figures of rankings may be off by the choice of examples."""
    intervals = {name: report.intervals() for name, report in reports.items()}
    for measure, key in (("Rank@1", "rank_at_1"), ("MAP@R", "map_at_r")):
        said = [f"{name} [{held[key][0]:.3f}, {held[key][1]:.3f}]" for name, held in intervals.items()]
        print(f"{measure}, 95 % interval: {', '.join(said)}")


def all_reports(
    file: EmbeddingFile, metric: Metric, protocol: RetrievalProtocol
) -> tuple[RankingReport, VerificationReport, CollapseReport]:
    """Ranking, verification and collapse of a file."""
    labels, groups = labels_of(file), groups_of(file, protocol)
    return (
        evaluate_ranking(file.embeddings, labels, ids=file.ids, groups=groups, metric=metric, protocol=protocol),
        evaluate_verification(file.embeddings, labels, groups=file.groups, metric=metric),
        probe_embeddings(file.embeddings, labels),
    )


def diagnose_embeddings(file: EmbeddingFile, untrained: Tensor | None) -> Diagnosis:
    """The diagnosis of a file; the untrained encoder's embeddings are of the same rows, in the same order."""
    return diagnose(file.embeddings, labels_of(file), ids=file.ids, groups=file.groups, untrained=untrained)


def same_examples(file: EmbeddingFile, other: EmbeddingFile, path: Path) -> Tensor:
    """The embeddings of `other` in the order of the rows of `file`, read from `path`: by ids where both hold them.

    Raises:
        ValueError: the files hold other examples: their number, their ids or their labels differ.
    """
    rows = len(file.embeddings)
    if len(other.embeddings) != rows:
        raise ValueError(f"not the same examples as {path}: {len(other.embeddings)} rows, where that has {rows}")
    place, remedy = torch.arange(rows), "save the same rows in the same order, or `ids` in both files"
    if file.ids is not None and other.ids is not None:
        own, ids = as_ids(file.ids, rows).sort(), as_ids(other.ids, rows).sort()
        if not torch.equal(own.values, ids.values):
            missing = rows - int(torch.isin(ids.values, own.values).sum())
            raise ValueError(f"not the same examples as {path}: {missing} of {rows} ids are not in that file")
        place[own.indices] = ids.indices
        remedy = "one id must have one label"
    if file.labels is not None and other.labels is not None:
        differ = int((as_labels(file.labels, rows) != as_labels(other.labels, rows)[place]).sum())
        if differ:
            raise ValueError(f"not the same examples as {path}: {differ} of {rows} labels differ; {remedy}")
    return other.embeddings[place]


def comparison_sections(
    held: Mapping[str, tuple[RankingReport, VerificationReport, CollapseReport]],
) -> "list[Section]":
    """The page of a comparison."""
    from legolas_metric import report

    return [
        *report.ranking_sections({name: ranking for name, (ranking, _, _) in held.items()}),
        *report.verification_sections({name: verification for name, (_, verification, _) in held.items()}),
        *report.collapse_sections({name: collapse for name, (_, _, collapse) in held.items()}),
    ]


def diagnosis_sections(file: EmbeddingFile, found: Diagnosis) -> "list[Section]":
    """The page of a diagnosis: what follows, worst first, then everything that it follows from."""
    from legolas_metric import report

    said = [f"{f.severity.upper()}: {f.sentence}\n\nBecause {f.evidence}\n\nRemedy: {f.remedy}" for f in found.findings]
    return [
        report.Section("What follows", "\n\n".join(said) or "No fault found."),
        *report.ranking_sections({"this": found.ranking}, examples_of(file)),
        *report.verification_sections({"this": found.verification}),
        *report.collapse_sections({"this": found.collapse}),
        report.plane_section(principal_plane(file.embeddings), labels_of(file)),
    ]


def examples_of(file: EmbeddingFile) -> Callable[[int], Tensor] | None:
    """Pictures by id, where the file holds any."""
    if file.images is None:
        return None
    images, ids = file.images, range(len(file.images)) if file.ids is None else file.ids.tolist()
    place = {id: row for row, id in enumerate(ids)}
    return lambda id: images[place[id]]


def labels_of(file: EmbeddingFile) -> Tensor:
    """The labels, which most commands need."""
    if file.labels is None:
        raise ValueError("no labels: save them beside the embeddings as `labels`, or pass --labels FILE")
    return file.labels


def groups_of(file: EmbeddingFile, protocol: RetrievalProtocol) -> Tensor | None:
    """The groups, which some protocols need."""
    episodes = protocol.episodes
    needed = protocol.exclude == "same_group" or (episodes is not None and episodes.within_group)
    if needed and file.groups is None:
        raise ValueError(
            f"no groups, which the protocol {protocol.name!r} compares: save session, camera or recording beside the "
            "embeddings as `groups`"
        )
    return file.groups


def _fields(record: object) -> dict[str, object]:
    fields = plain(record)
    assert isinstance(fields, dict)
    return fields
