import csv
import io
import math

import pytest
from rich.console import Console

from legolas_metric.cli import printing
from legolas_metric.tables import Table


def test_equal_as_shown_is_equal():
    table = Table(["run", "r"], [("a", 0.68412), ("b", 0.68403), ("c", 0.1)], better={"r": "max"})
    assert [marks[1] for marks in table.best()] == [True, True, False]


def test_nothing_is_best_where_nothing_can_be_compared():
    assert not Table(["run", "r"], [("a", 0.5), ("b", 0.5)], better={"r": "max"}).best()[0][1]
    assert not Table(["run", "r"], [("a", 0.5), ("b", None)], better={"r": "max"}).best()[0][1]
    assert not Table(["run", "r"], [("a", 0.5), ("b", math.nan)], better={"r": "max"}).best()[0][1]
    assert not Table(["run", "r"], [("a", 0.5), ("b", 0.4)]).best()[0][1]


def test_smaller_can_be_better_and_only_the_best_is_marked():
    table = Table(["run", "s"], [("a", 2), ("b", 10), ("c", 2.0)], better={"s": "min"}, formats={"s": ".0f"})
    assert [marks[1] for marks in table.best()] == [True, False, True]
    assert table.text() == [["a", "2"], ["b", "10"], ["c", "2"]]


def test_shown_and_saved():
    table = Table(["run", "n", "r"], [("a|b", 12345, 0.123456), ("c, d", None, math.nan)])
    assert table.text() == [["a|b", "12,345", "0.123"], ["c, d", "–", "–"]]
    assert table.markdown().splitlines() == [
        "| run | n | r |",
        "| --- | ---: | ---: |",
        "| a\\|b | 12,345 | 0.123 |",
        "| c, d | – | – |",
    ]
    assert list(csv.reader(io.StringIO(table.csv()))) == [
        ["run", "n", "r"],
        ["a|b", "12345", "0.123456"],
        ["c, d", "", "nan"],
    ]


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="a row of 1 values in a table of 2 columns"):
        Table(["a", "b"], [(1,)])
    with pytest.raises(ValueError, match="no column named c; columns are a, b"):
        Table(["a", "b"], [], better={"c": "max"})


@pytest.mark.parametrize("width", [None, 200, 60])
def test_a_table_that_is_wider_than_the_terminal_is_turned(width):
    columns = ["encoder", "Rank@1", "MAP@R", "effective rank", "mean cosine", "top-1 variance"]
    rows = [("untrained", 0.179, 0.033, 50.2, 0.955, None), ("ours", 0.753, 0.415, 48.1, 0.327, 0.142)]
    table = Table(columns, rows, better={"Rank@1": "max"}, formats={"effective rank": ".1f"})
    console = Console(width=width or 200, record=True, file=io.StringIO(), color_system="standard", force_terminal=True)
    console.print(table.screen(width))
    bold = [span.text for span in console.render(table.screen(width)) if span.style and span.style.bold]
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= (width or 200)
    cells = [line.strip("│┃").replace("┃", "│").split("│") for line in lines if line[0] in "│┃"]
    shown = [[cell.strip() for cell in line] for line in cells]
    expected = [columns, ["untrained", "0.179", "0.033", "50.2", "0.955", "–"]]
    expected.append(["ours", "0.753", "0.415", "48.1", "0.327", "0.142"])
    assert shown == ([list(line) for line in zip(*expected)] if width == 60 else expected)
    assert "0.753" in bold


def test_a_table_that_turning_would_widen_stays():
    table = Table(["measure", "value"], [(f"a measure with a long name {n}", float(n)) for n in range(9)])
    console = Console(width=20, record=True, file=io.StringIO())
    console.print(table.screen(20))
    assert len(table.screen(20).columns) == 2


def test_text_is_wrapped_between_words_on_a_terminal_alone(monkeypatch, capsys):
    text = "NOTE: few rows\n  because a rate of 0.0001 is 17.8 pairs, which are too few"
    printing.say(text)
    assert capsys.readouterr().out == f"{text}\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    printing.say(text)
    assert capsys.readouterr().out.splitlines() == [
        "NOTE: few rows",
        "  because a rate of 0.0001 is 17.8",
        "    pairs, which are too few",
    ]
