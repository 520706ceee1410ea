"""docs/scaling.md prints what the model makes of the points that are kept."""

import json
from argparse import Namespace
from pathlib import Path

from benchmarks.scaling import tables

HERE = Path(__file__).parents[1]


def test_the_tables_of_the_page_are_those_of_the_kept_points():
    points = json.loads((HERE / "benchmarks/results/2026-11-30-scaling.json").read_text())
    printed = tables(points, Namespace(d=128, memory_gib=64, cores=32, hours=1, gbit=10)).splitlines()
    page = (HERE / "docs/scaling.md").read_text().splitlines()
    rows = [line for line in printed if line.startswith("|")]
    assert len(rows) == 16
    assert [line for line in rows if line not in page] == []
