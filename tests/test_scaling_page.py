"""docs/scaling.md says what the model makes of the points that are kept: its tables, and the figures between them."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.scaling import fit, joined, nodes, tables, travelled
from legolas_metric.index.placement import needed, travelling

HERE = Path(__file__).parents[1]
POINTS = json.loads((HERE / "benchmarks/results/2026-11-30-scaling.json").read_text())
PAGE = (HERE / "docs/scaling.md").read_text()
ASKED = Namespace(d=128, memory_gib=64, cores=32, hours=1, gbit=10)


def test_the_tables_of_the_page_are_those_of_the_kept_points():
    rows = [line for line in tables(POINTS, ASKED).splitlines() if line.startswith("|")]
    assert len(rows) == 16
    assert [line for line in rows if line not in PAGE.splitlines()] == []


def figures():
    """The sentences of the page, with the figures that the model gives, at d = 128."""
    model, node_hour = fit(POINTS), 32 * 3600
    alone, pair, classes = (model[job][0] + 128 * model[job][1] for job in ("join", "search", "classes"))
    look = 128 * model["ivf"][0]
    small, whole = (nodes(model, n, 128, ASKED) for n in (10**7, 10**8))
    day = [nodes(model, n, 128, Namespace(**vars(ASKED) | {"memory_gib": 128, "hours": 24})) for n in (10**8, 10**9)]
    shared = POINTS["sharded"][0]
    every = pair * 10**18 / node_hour
    times = [travelled(n, 128, 1) / (10e9 / 8) for n in (10**7, 10**8, 10**9)]
    equal = [float(f"{pair * n**2 / 32 / sent:.2g}") for n, sent in zip((10**7, 10**8, 10**9), times)]
    lists = [(n, 4 * n**0.5) for n in (10**7, 10**8)]
    yield f"a pair of the self-join costs half ({1e9 * alone:.2f} against {1e9 * pair:.2f} ns"
    more = POINTS["more_classes"][0]
    foretold = classes * more["C"] ** 2
    yield f"{more['C']:,} of them, left out of the fit, took {more['s']:.2f} s where the model says {foretold:.2f}"
    took = max(point["s"] for point in POINTS["sharded"])
    yield f"took {took:.2f} s of each, by the model {joined(model, shared['n'], 128, 2):.2f}."
    yield f"{day[0]['nodes']:.0f} nodes in {day[0]['hours']:.1f} hours, {day[0]['gib']:.0f} GiB each"
    yield f"{day[1]['nodes']:.0f} nodes in {day[1]['hours']:.1f} hours, {day[1]['gib']:.0f} GiB each"
    yield f"costs {look / alone:.0f} times a pair of the self-join of one process, {look / pair:.0f} times"
    yield f"less than {alone / look:.1%} of its lists".replace("%", " %")
    yield f"it is faster where it visits less than {pair / look:.1%}.".replace("%", " %")
    yield f"{(alone / look * lists[0][0] - lists[0][1]) * lists[0][1] / lists[0][0]:.0f} of {lists[0][1]:,.0f} at 10"
    yield f"{(alone / look * lists[1][0] - lists[1][1]) * lists[1][1] / lists[1][0]:,.0f} of {lists[1][1]:,.0f} at 100"
    yield f"{60 * small['hours']:.0f} minutes of 32 cores by the model, {small['gib']:.0f} GiB"
    yield f"they take {joined(model, 2e7, 128, 1) / joined(model, 1e7, 128, 1):.0f} times as long"
    yield f"takes {pair * 1e14 / node_hour:.1f} node hours where the whole join takes {pair * 1e16 / node_hour:.0f}"
    yield f"take {whole['nodes']:.0f} such nodes for {60 * whole['hours']:.0f} minutes"
    yield f"a pair costs {classes / alone:.0f} times as much"
    yield f"for {classes / alone / 400:.0%} of the price".replace("%", " %")
    yield f"for {classes / alone / 1e4:.1%} where".replace("%", " %")
    yield f"on {whole['nodes']:.0f} nodes would take {classes * (1e8 / 20) ** 2 / node_hour:.1f} hours"
    yield f"64 processes among these 5 million classes take {64e4 * 5e6 * classes / 32 / 60:.0f} minutes"
    yield f"one whole exact round would take {float(f'{every:.2g}'):,.0f} node hours, {every / 64:.0f} hours on these"
    yield f"({every / 1e3:.1f} node hours, {every / 1e3 / 64 * 60:.0f} minutes)"
    yield f"({classes * 1e14 / node_hour:.0f} hours for a round, {64e4 * 1e7 * classes / 32 / 60:.0f} minutes for"
    yield f"every process holds, are {needed(10**9, 0, 128, 1) / 2**30:.0f} GiB"
    held = needed(10**9, 10**9 // 64, 128, 1) + travelling(10**9, 128, 1)
    yield f"64 nodes hold the bank at {held / 2**30:.0f} GiB each"
    yield f"100 million in {needed(10**8, 10**8, 128, 1) / 2**30:.0f} GiB"
    yield f"{whole['sent_gib']:.0f} GiB, {times[1]:.0f} s at 10 Gbit/s"
    yield f"against {joined(model, 1e8, 128, 64) / 32 / 60:.0f} minutes of products on 64 nodes"
    yield "equal on {1:,.0f} nodes ({0:,.0f} at 10 million rows, {2:,.0f} at a billion)".format(*equal)


@pytest.mark.parametrize("sentence", list(figures()))
def test_the_figures_between_the_tables_are_those_of_the_kept_points(sentence):
    assert sentence in " ".join(PAGE.replace("*", "").split())


def test_the_model_is_as_near_to_the_points_as_the_page_says():
    whole = [p for p in POINTS["search"] if p["q"] == p["n"]] + POINTS["join"]
    large = [p for p in [*POINTS["search"], *POINTS["join"]] if p["n"] >= 16_000]
    assert max(map(off, large)) < 0.21
    assert max(off(p) for p in whole if p in large) < 0.15
    known = {job: [p for p in POINTS[job] if p["n"] < 48_000] for job in ("join", "search")}
    ahead = [100 * by(p, fit(POINTS | known)) for p in large if p["n"] == 48_000]
    assert (round(min(ahead)), round(max(ahead))) == (-19, 43)
    ahead = [100 * by(p, fit(POINTS | known)) for p in large if (p["n"], p["d"]) == (48_000, 128)]
    assert (round(min(ahead)), round(max(ahead))) == (7, 18)


def by(point, model=None):
    """How far the model is above a point, in parts of it."""
    n, q, d = point["n"], point.get("q"), point["d"]
    a, b, c = (model or fit(POINTS))["search" if q else "join"]
    return ((q or n) * n * (a + b * d) + (n + (q or 0)) * c * d) / point["s"] - 1


def off(point):
    return abs(by(point))
