"""The pages that commands write: what can be refused is refused before the work, and nothing that is read is lost."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from torch import Tensor

from legolas_metric.cli.options import Form
from legolas_metric.cli.printing import say_written
from legolas_metric.cli.waiting import waiting
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.evaluation.verification_report import VerificationReport
from legolas_metric.files import EmbeddingFile
from legolas_metric.outputs import check_file, check_not_read, check_writable, followed, is_stream
from legolas_metric.probes.collapse_report import CollapseReport
from legolas_metric.tables import visible

if TYPE_CHECKING:
    from legolas_metric.doctor.findings import Finding
    from legolas_metric.report import Section


def check_page(html: Path | None, inputs: Sequence[Path | str | None]) -> None:
    """Refuse a page that cannot be made or written, or that would overwrite what is read, before any work is done."""
    if html is not None:
        import legolas_metric.report  # noqa: F401

        check_not_read(html, inputs)
        check_file(html)
        if not is_stream(html):
            check_writable(followed(html).parent)


def check_pictures(images: Tensor | None, rows: int) -> None:
    """Refuse images that a page can't show."""
    if images is None:
        return
    from legolas_metric.report.pictures import picture_html

    if images.ndim == 0 or len(images) != rows:
        held = len(images) if images.ndim else 0
        raise ValueError(f"images has {held} entries for {rows} rows of embeddings: give one for each row")
    try:
        picture_html(images[0], "")
    except (TypeError, ValueError) as error:
        raise ValueError(f"images can't be shown on the page: {error}") from error


def write_report(
    html: Path, form: Form, title: str, files: Sequence[str], sections: "Callable[[ModuleType], Sequence[Section]]"
) -> None:
    """Write the page of a command, and say so; `sections` receives the package of reports, imported for pages only."""
    from legolas_metric import report

    with waiting(str(html)):
        report.write_page(html, title, visible(f"Of {', '.join(files)}."), sections(report))
    say_written(html, form)


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


def examples_of(file: EmbeddingFile) -> Callable[[int], Tensor] | None:
    """Pictures by id, where the file holds any."""
    if file.images is None:
        return None
    images, ids = file.images, range(len(file.images)) if file.ids is None else file.ids.tolist()
    place = {id: row for row, id in enumerate(ids)}
    return lambda id: images[place[id]]


def findings_section(found: "Sequence[Finding]") -> "Section":
    """What follows from embeddings or a run, worst first: each with its number, evidence and remedy, none cut off."""
    from legolas_metric import report

    said = [
        f"{number}. {each.severity.upper()}: {each.sentence}\n\nBecause {each.evidence}\n\nRemedy: {each.remedy}"
        for number, each in enumerate(found, 1)
    ]
    return report.Section("What follows", "\n\n".join(said) or "No fault found.")
