"""A table of figures that the terminal, CSV, Markdown and the HTML report show alike."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table as ScreenTable

Value = str | int | float | None
Better = Literal["max", "min"]

NOT_MEASURED = "–"


class Doubtful(float):
    """A figure that rests on too little to be quoted: a question mark follows it where it is shown in a table."""

    def __format__(self, form: str) -> str:
        return f"{float(self):{form}}?"


def visible(text: str, *, keep: str = "") -> str:
    r"""Text without control characters, such as a file's name may hold: each is shown as its escape.

    Example:
        >>> from legolas_metric.tables import visible
        >>> visible("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True, slots=True)
class Table:
    """Figures in rows and columns; which of them is best follows from what is shown, and from nothing else.

    Attributes:
        columns: their names; the first column names the rows.
        rows: one tuple for each row; None is "not measured".
        better: columns in which one direction is better, "max" or "min"; in the others nothing is marked.
        formats: format of a column's floats (default ".3f").

    Raises:
        ValueError: a row of another length than `columns`, or `better`/`formats` of a column that isn't there.

    Example:
        >>> from legolas_metric.tables import Table
        >>> table = Table(["run", "Rank@1"], [("untrained", 0.151), ("ours", 0.684)], better={"Rank@1": "max"})
        >>> print(table.markdown())
        | run | Rank@1 |
        | --- | ---: |
        | untrained | 0.151 |
        | ours | **0.684** |

    Source: ours.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    better: Mapping[str, Better] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} values in a table of {len(self.columns)} columns: {tuple(row)}")
        unknown = (set(self.better) | set(self.formats)) - set(self.columns)
        if unknown:
            raise ValueError(f"no column named {', '.join(sorted(unknown))}; columns are {', '.join(self.columns)}")

    def text(self) -> list[list[str]]:
        """Every cell as it is shown: floats in the column's format, a dash for what was not measured."""
        return [[_shown(value, self.formats.get(name, ".3f")) for name, value in self._named(row)] for row in self.rows]

    def best(self) -> list[list[bool]]:
        """Which cells are marked: those that *show* the best figure of their column.

        Figures that print alike are equal here, so a tie marks all of them; where every row shows the same, or only one
        row was measured, nothing is marked.
        """
        shown = self.text()
        marks = [[False] * len(self.columns) for _ in self.rows]
        for column, name in enumerate(self.columns):
            measured = {
                row: value
                for row, values in enumerate(self.rows)
                if isinstance(value := values[column], int | float) and not math.isnan(value)
            }
            if name not in self.better or len({shown[row][column] for row in measured}) < 2:
                continue
            pick = max if self.better[name] == "max" else min
            winner = shown[pick(measured, key=measured.__getitem__)][column]
            for row in measured:
                marks[row][column] = shown[row][column] == winner
        return marks

    def numeric(self) -> list[bool]:
        """Which columns hold numbers only, and are aligned right."""
        return [
            all(not isinstance(row[column], str) for row in self.rows) and bool(self.rows)
            for column in range(len(self.columns))
        ]

    def markdown(self) -> str:
        """GitHub Markdown, the best figures in bold."""
        lines = [_line(self.columns), _line(["---:" if number else "---" for number in self.numeric()])]
        for texts, marks in zip(self.text(), self.best()):
            lines.append(_line([f"**{text}**" if best else text for text, best in zip(texts, marks)]))
        return "\n".join(lines)

    def latex(self) -> str:
        """The table for LaTeX, with booktabs; what is special to LaTeX is escaped."""
        special = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
        special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
        rows = [
            " & ".join("".join(special.get(one, one) for one in cell) for cell in row) + r" \\" for row in self.text()
        ]
        heads = " & ".join("".join(special.get(one, one) for one in str(title)) for title in self.columns) + r" \\"
        kinds = "".join("r" if number else "l" for number in self.numeric())
        ruled = [r"\toprule", heads, r"\midrule", *rows, r"\bottomrule"]
        return "\n".join([rf"\begin{{tabular}}{{{kinds}}}", *ruled, r"\end{tabular}"])

    def screen(self, width: int | None = None) -> "ScreenTable":
        """The table for a terminal, the best figures in bold.

        Args:
            width: columns of the terminal. A table that is wider is turned, its rows becoming columns, where that is
                narrower.
        """
        from rich.markup import escape as unmarked
        from rich.table import Table as ScreenTable

        lines = [[visible(cell) for cell in line] for line in (self.columns, *self.text())]
        marks, numbers = [[False] * len(self.columns), *self.best()], self.numeric()
        if width is not None and _breadth(lines) > max(width, _breadth(list(zip(*lines)))):
            lines, marks, numbers = list(zip(*lines)), list(zip(*marks)), [False, *[any(numbers)] * len(self.rows)]
        screen = ScreenTable()
        for name, number in zip(lines[0], numbers):
            screen.add_column(unmarked(name), justify="right" if number else "left", overflow="fold")
        for texts, best in zip(lines[1:], marks[1:]):
            screen.add_row(*(f"[bold]{unmarked(x)}[/bold]" if mark else unmarked(x) for x, mark in zip(texts, best)))
        return screen

    def html(self) -> str:
        """An HTML table, for notebooks; the best figures in bold."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        rows = [
            "".join(
                f"<td>{f'<b>{escape(text)}</b>' if best else escape(text)}</td>" for text, best in zip(texts, marks)
            )
            for texts, marks in zip(self.text(), self.best())
        ]
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"

    def csv(self) -> str:
        """Comma-separated values in full precision, empty where nothing was measured."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return out.getvalue()

    def _named(self, row: Sequence[Value]) -> list[tuple[str, Value]]:
        return list(zip(self.columns, row))


@dataclass(frozen=True, slots=True)
class Sheet:
    """A short record as it is printed: a title and some lines, in a terminal and in a notebook.

    Attributes:
        title: what the record is.
        columns: names of the columns; empty names are not shown.
        rows: cells, of any kind.
        more: how many rows are not shown.

    Example:
        >>> from legolas_metric.tables import Sheet
        >>> print(Sheet("Found", ["id", "s"], [[7, "0.5"]], 2).text())
        Found
          id  s
          7   0.5
          and 2 more
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    more: int = 0

    def text(self) -> str:
        """Aligned lines."""
        cells = [[str(cell) for cell in row] for row in self.rows]
        if any(self.columns):
            cells.insert(0, list(self.columns))
        widths = [max(map(len, column)) for column in zip(*cells)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in cells]
        lines += [f"and {self.more:,} more"] if self.more else []
        return "\n".join([self.title, *(f"  {line}".rstrip() for line in lines)])

    def html(self) -> str:
        """The same as an HTML table, all of it escaped."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns) if any(self.columns) else ""
        lines = ["<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in self.rows]
        more = f"<p>and {self.more:,} more</p>" if self.more else ""
        caption = f"<caption>{escape(self.title)}</caption>"
        return f"<table>{caption}<tr>{head}</tr>{''.join(lines)}</table>{more}"


class Shown:
    """A record that prints as its sheet, in a terminal and in a notebook."""

    __slots__ = ()

    def _sheet(self) -> Sheet:
        """What is printed of it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self._sheet().text()

    def _repr_html_(self) -> str:
        return self._sheet().html()


def _shown(value: Value, form: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOT_MEASURED
    if isinstance(value, float):
        return format(value, form)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _breadth(lines: Sequence[Sequence[str]]) -> int:
    """Characters that rows take side by side, with the rules between their cells."""
    return sum(max(map(len, column)) + 3 for column in zip(*lines)) + 1


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
