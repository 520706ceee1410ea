import csv
import io
import math

import pytest

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
