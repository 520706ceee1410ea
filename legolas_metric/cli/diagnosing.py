"""A diagnosis on screen, as CSV, Markdown, JSON and a page: what follows, and the rows that are worth a look."""

from typing import TYPE_CHECKING

from torch import Tensor

from legolas_metric.cli.inputs import called
from legolas_metric.cli.options import Form
from legolas_metric.cli.pages import examples_of, findings_section
from legolas_metric.cli.printing import say, show_json
from legolas_metric.cli.printing import show as show_table
from legolas_metric.doctor.diagnosis import Diagnosis, diagnose
from legolas_metric.doctor.findings import findings_table
from legolas_metric.doctor.noise import suspects_table
from legolas_metric.files import EmbeddingFile
from legolas_metric.probes.plane import principal_plane
from legolas_metric.tables import Table

if TYPE_CHECKING:
    from legolas_metric.report import Section

_LOOK = (
    "The clearest first. Their neighbours carry the suggested label; share is how many of the nearest places that it "
    "can fill it does fill. Read them before you change any: of those read so far a quarter to six tenths were wrong."
)


def diagnosed(file: EmbeddingFile, untrained: Tensor | None) -> Diagnosis:
    """The diagnosis of a file, which names classes as the file does."""
    return diagnose(file.embeddings, called(file), ids=file.ids, groups=file.groups, untrained=untrained)


def show(name: str, found: Diagnosis, form: Form) -> None:
    """Print a diagnosis: on screen what follows, as CSV the rows worth a look, as Markdown and JSON both."""
    if form is Form.json:
        show_json({name: found})
    elif form is Form.csv:
        show_table(_suspects(found), form)
    elif form is Form.markdown:
        show_table(findings_table(found.findings), form)
        if found.suspects:
            say("")
            show_table(_suspects(found), form)
    else:
        say(found.text())
        if found.suspects:
            say("All rows that are worth a look: --format csv, --json, or --html FILE.")


def sections(file: EmbeddingFile, labels: Tensor, found: Diagnosis) -> "list[Section]":
    """The page of a diagnosis: what follows, worst first, then everything that it follows from."""
    from legolas_metric import report

    suspects = [report.Section("Worth a look", _LOOK, _suspects(found))] if found.suspects else []
    return [
        findings_section(found.findings),
        *suspects,
        *report.ranking_sections({"this": found.ranking}, examples_of(file)),
        *report.verification_sections({"this": found.verification}),
        *report.collapse_sections({"this": found.collapse}),
        report.plane_section(principal_plane(file.embeddings), labels),
    ]


def _suspects(found: Diagnosis) -> Table:
    return suspects_table(found.suspects)
