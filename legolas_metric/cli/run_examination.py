"""`legolas-metric doctor`: what is wrong with a run, worst first."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from legolas_metric.cli.options import AsMetric, Data, Encoder, Form, Html, MetricName

if TYPE_CHECKING:
    from legolas_metric.bank import EmbeddingBank
    from legolas_metric.doctor.examination import Examination
    from legolas_metric.report import Section


def doctor(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run's folder, its history.jsonl, a CSV, TensorBoard's event files, an MLflow store "
            "(sqlite:///mlflow.db#RUN), or a folder of folds or seeds.",
        ),
    ],
    settings: Annotated[
        Path | None, typer.Option("--settings", metavar="FILE", help="The run's settings, JSON or TOML.")
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option("--embeddings", metavar="FILE", help="Of the validation rows (or a checkpoint): diagnosed too."),
    ] = None,
    trained_on: Annotated[
        Path | None,
        typer.Option("--trained-on", metavar="FILE", help="Of the training rows: what both parts share is told."),
    ] = None,
    metric: AsMetric = MetricName.cosine,
    encoder: Encoder = None,
    data: Data = None,
    html: Html = None,
    as_json: Annotated[bool, typer.Option("--json", help="Findings and summary as JSON.")] = False,
) -> None:
    """Read a run's history and say what is wrong, worst first, each with its evidence and a remedy.

    Names of other loggers are known; what is missing is said, not guessed.
    """
    from legolas_metric.cli import pages, printing
    from legolas_metric.cli.waiting import waiting
    from legolas_metric.doctor.examination import examine

    pages.check_page(html, [settings, embeddings, trained_on, *([Path(run)] if "://" not in run else [])])
    rows, seen = (_bank(file, encoder, data, metric) for file in (embeddings, trained_on))
    with waiting(run):
        found = examine(run, settings=settings, embeddings=rows, trained_on=seen)
    if as_json:
        print(json.dumps(found.json()))
    else:
        printing.say(visible_lines(found.text()))
    if html is not None:
        from legolas_metric import report

        with waiting(str(html)):
            report.write_page(html, "A run, examined", visible_lines(f"{run}\n\n{found.summary}"), sections_of(found))
        printing.say_written(html, Form.json if as_json else Form.table)


def visible_lines(text: str) -> str:
    """Lines as they are, and within them what controls a terminal as its escape."""
    from legolas_metric.tables import visible

    return "\n".join(visible(line) for line in text.split("\n"))


def sections_of(found: "Examination") -> "list[Section]":
    """Findings, worst first, and the curves with the number of each finding where it lies."""
    from legolas_metric import report
    from legolas_metric.cli import pages

    remarks = [
        report.Remark(number=number, severity=each.severity, sentence=each.sentence, value=mark.value, epoch=mark.epoch)
        for number, each in enumerate(found.findings, 1)
        for mark in each.marks
    ]
    curves = {name: (curve.epochs, curve.values) for name, curve in found.curves.items()}
    trends = {name: f"{sentence}." for name, sentence in zip(found.curves, found.trends, strict=True)}
    return [pages.findings_section(found.findings), *report.run_sections(curves, remarks, trends)]


def _bank(file: Path | None, encoder: str | None, data: str | None, metric: MetricName) -> "EmbeddingBank | None":
    from legolas_metric.cli import choices, inputs

    if file is None:
        return None
    read = inputs.reader(encoder, data, None, "embeddings", "labels")
    held = inputs.about(file, lambda: read(file))
    return inputs.about(file, lambda: choices.bank_of(held, metric))
