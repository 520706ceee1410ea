"""One HTML page that needs no network: plotly.js once, pictures as data, text beside every chart."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import plotly.io
from plotly.offline import get_plotlyjs

from legolas_metric.files import write_text
from legolas_metric.report.pictures import Gallery, gallery_html
from legolas_metric.report.theme import go
from legolas_metric.tables import Table

# The page may run its own script and show its own pictures, and load nothing from anywhere.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
_STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


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
    """
    write_text(path, page_html(title, lead, sections))


def page_html(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page that `write_page` writes, as text.

    Example:
        >>> from legolas_metric.report import Section, page_html
        >>> page_html("A run", "What happened.", [Section("Result", "It collapsed.")])[:15]
        '<!doctype html>'
    """
    if not sections:
        raise ValueError("a page needs at least one section")
    contents = "".join(f'<a href="#part-{n}">{escape(part.title)}</a>' for n, part in enumerate(sections))
    body = "".join(_section(n, part) for n, part in enumerate(sections))
    script = f"<script>{get_plotlyjs()}</script>" if any(isinstance(s.content, go.Figure) for s in sections) else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{_STYLE}</style>{script}</head>\n'
        f"<body><header><h1>{escape(title)}</h1>{_paragraphs(lead)}</header>"
        f'<nav aria-label="Contents">{contents}</nav>\n<main>{body}</main></body></html>\n'
    )


def _section(number: int, section: Section) -> str:
    kind, content = "plain", ""
    if isinstance(section.content, go.Figure):
        kind, content = "beside", _chart(number, section.title, section.content)
    elif isinstance(section.content, Table):
        kind, content = "below", _table(section.content)
    elif isinstance(section.content, Gallery):
        kind, content = "below", gallery_html(section.content)
    return (
        f'<section id="part-{number}" class="{kind}"><h2>{escape(section.title)}</h2>'
        f'<div class="text">{_paragraphs(section.text)}</div>{content}</section>\n'
    )


def _chart(number: int, title: str, figure: go.Figure) -> str:
    drawn = plotly.io.to_html(
        figure,
        config={"responsive": True, "displayModeBar": False},
        include_plotlyjs=False,
        full_html=False,
        div_id=f"chart-{number}",
        default_height=f"{figure.layout.height}px",
    )
    return f'<div class="chart" role="img" aria-label="{escape(title)}">{drawn}</div>'


def _table(table: Table) -> str:
    sides = ["number" if number else "" for number in table.numeric()]
    head = "".join(f'<th scope="col" class="{side}">{escape(name)}</th>' for name, side in zip(table.columns, sides))
    rows = "".join(
        "<tr>" + "".join(_cell(*cell) for cell in zip(texts, marks, sides)) + "</tr>"
        for texts, marks in zip(table.text(), table.best())
    )
    table_html = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="table" tabindex="0" role="region" aria-label="table">{table_html}</div>'


def _cell(text: str, best: bool, side: str) -> str:
    return f'<td class="{side}{" best" if best else ""}">{escape(text)}</td>'


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip())
