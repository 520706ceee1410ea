"""One HTML page that needs no network: plotly.js once, pictures as data, text beside every chart."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import plotly.io
from jinja2 import Environment, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from legolas_metric.files import write_text
from legolas_metric.report.pictures import Card, Gallery, picture_html
from legolas_metric.report.theme import go
from legolas_metric.tables import Table

# The page may run its own script and show its own pictures, and load nothing from anywhere.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: a title, what there is to read, and at most one thing to look at.

    Attributes:
        title: also its entry in the contents.
        text: what is shown and how to read it; a blank line parts paragraphs.
        content: a chart, a table, a gallery, or nothing.

    Raises:
        ValueError: no title or no text.

    Example:
        >>> from legolas_metric.report import Section, Table
        >>> Section("Result", "After 900 steps.", Table(["run", "Rank@1"], [("ours", 0.68)])).title
        'Result'

    Source: ours.
    """

    title: str
    text: str
    content: go.Figure | Table | Gallery | None = None

    def __post_init__(self) -> None:
        if not self.title.strip() or not self.text.strip():
            raise ValueError("a section needs a title and a text that says how to read it")


def write_page(path: str | os.PathLike[str], title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page, whole or not at all.

    Args:
        path: where to; its folder is created.
        title, lead: heading of the page, and its first paragraphs (a blank line parts them).
        sections: from top to bottom.

    Raises:
        ValueError: no sections.
        OSError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from legolas_metric.report import Section, curves, write_page
        >>> chart = curves({"ours": [0.2, 0.6]}, y="Rank@1")
        >>> sections = [Section("Rank@1", "Share of the queries whose nearest neighbour is right; up is good.", chart)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_page(f"{folder}/report.html", "A run", "What happened.", sections)

    Source: ours.
    """
    write_text(path, page_html(title, lead, sections))


def page_html(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page that `write_page` writes, as text.

    Args:
        title, lead, sections: as `write_page`.

    Raises:
        ValueError: no sections.

    Example:
        >>> from legolas_metric.report import Section, page_html
        >>> page_html("A run", "What happened.", [Section("Result", "It collapsed.")])[:15]
        '<!doctype html>'

    Source: ours.
    """
    if not sections:
        raise ValueError("a page needs at least one section")
    drawn = any(isinstance(part.content, go.Figure) for part in sections)
    return _template().render(
        title=title,
        lead=lead,
        policy=Markup(_POLICY),
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup(get_plotlyjs()) if drawn else "",
        sections=[_shown(number, part) for number, part in enumerate(sections)],
    )


@cache
def _template() -> Template:
    return Environment(autoescape=True, keep_trailing_newline=True).from_string(
        (_FOLDER / "page.html").read_text(encoding="utf-8")
    )


def _shown(number: int, section: Section) -> dict[str, object]:
    """What the template reads of a section; only what is made here is markup, whatever users write is text."""
    shown: dict[str, object] = {"title": section.title, "text": section.text, "kind": "below"}
    if isinstance(section.content, go.Figure):
        return shown | {"kind": "beside", "chart": _chart(number, section.content), "spoken": _spoken(section)}
    if isinstance(section.content, Table):
        return shown | {"table": _cells(section.content)}
    if isinstance(section.content, Gallery):
        return shown | {"cards": [_card(card) for card in section.content.cards]}
    return shown | {"kind": "plain"}


def _chart(number: int, figure: go.Figure) -> Markup:
    return Markup(
        plotly.io.to_html(
            figure,
            config={"responsive": True, "displayModeBar": False},
            include_plotlyjs=False,
            full_html=False,
            div_id=f"chart-{number}",
            default_height=f"{figure.layout.height}px",
        )
    )


def _spoken(section: Section) -> str:
    """What a chart shows, for those who hear the page: each bar, and where each line begins and ends."""
    told = [section.title]
    for trace in getattr(section.content, "data", ()):
        if trace.type == "bar" and trace.orientation == "h":
            told += [f"{name} {value:.3g}" for name, value in zip(trace.y, trace.x)]
        elif trace.name and "lines" in (getattr(trace, "mode", None) or ""):
            y = [value for value in trace.y if value is not None and math.isfinite(value)]
            told += [f"{trace.name} {y[0]:.3g} to {y[-1]:.3g}"] if y else []
    return f"{told[0]}: chart" + (f" of {'; '.join(told[1:])}" if told[1:] else "")


def _cells(table: Table) -> dict[str, object]:
    sides = ["number" if number else "" for number in table.numeric()]
    rows = [list(zip(texts, marks, sides)) for texts, marks in zip(table.text(), table.best())]
    return {"head": list(zip(table.columns, sides)), "rows": rows}


def _card(card: Card) -> dict[str, object]:
    pictures = [(caption, Markup(picture_html(example, caption))) for caption, example in card.pictures]
    return {"pictures": pictures, "text": card.text}
