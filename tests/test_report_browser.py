"""The page in a real browser, offline: at a phone's width and a desktop's, clicked through, without a complaint."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, find_chromium

from legolas_metric import evaluate_ranking, evaluate_verification, probe_embeddings
from legolas_metric.probes.plane import principal_plane
from legolas_metric.report import (
    Card,
    Gallery,
    Section,
    Table,
    bars,
    collapse_sections,
    curves,
    drift_and_age,
    plane_section,
    ranking_sections,
    similarity_histogram,
    spectra,
    verification_sections,
    write_page,
)
from legolas_metric.report.theme import go

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine (Debian: apt install chromium)")

SIZES = {"phone": (390, 844), "desktop": (1280, 900)}


def sections() -> list[Section]:
    """The demo's parts, and all that records are turned into: every kind of chart."""
    generator = np.random.default_rng(0)
    text = "What is shown, and how to read it: up is good, and the grey line is the untrained encoder's."
    labels = np.repeat(np.arange(12), 4)
    rows = generator.normal(size=(12, 8))[labels] + generator.normal(size=(48, 8))
    pictures = generator.integers(0, 256, (48, 12, 12)).astype(np.uint8)
    return [
        *demo_sections(text),
        *ranking_sections({"ours": evaluate_ranking(rows, labels, full=True)}, lambda row: pictures[row]),
        *verification_sections({"ours": evaluate_verification(rows, labels)}),
        *collapse_sections({"ours": probe_embeddings(rows, labels)}),
        Section("Drift and age", text, drift_and_age([np.nan, 0.5, 0.8, 0.9], [0, 115, 230, 115])),
        plane_section(principal_plane(rows), labels),
    ]


def demo_sections(text: str) -> list[Section]:
    """Those of `legolas-metric demo`, with values that mean nothing."""
    generator = np.random.default_rng(0)
    names = ["untrained", "batch-only (PK + SupCon)", "ours (global mining)"]
    columns = ["encoder", "Rank@1", "MAP@R", "AUC", "effective rank", "mean cosine", "top-1 variance", "mining, s"]
    rows = [(name, *generator.random(6), None) for name in names]
    images = generator.integers(0, 256, (6, 3, 28, 28)).astype(np.uint8)
    falls = {name: np.exp(-np.arange(64) / (8 * (number + 1))) for number, name in enumerate(names)}
    edges = np.linspace(-1, 1, 201)
    heap = np.exp(-((edges[1:] - 0.4) ** 2) * 30) * 1e5
    return [
        Section("The figures", text, Table(columns, rows, better={"Rank@1": "max"})),
        Section(
            "Rank@1", text, curves({n: generator.random(9) for n in names}, y="Rank@1", references={"floor": 0.15})
        ),
        Section("Singular spectrum", text, spectra(falls, baseline=np.linspace(0.4, 0.2, 64))),
        Section("Similarity of pairs", text, similarity_histogram(edges, heap, heap[::-1])),
        Section("Mining engines", text, bars({"FAISS Flat": 1.3, "exact": 0.4}, x="seconds")),
        Section(
            "Hardest pairs", text, Gallery([Card(list(zip("apn", three)), "s_ap 0.3, s_an 0.9") for three in images])
        ),
        Section("Hardest beats", text, Gallery([Card([(name, generator.normal(size=200)) for name in "ab"])])),
    ]


CHARTS = [number for number, part in enumerate(sections()) if isinstance(part.content, go.Figure)]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, "Global mining on handwriting", "What was done.\n\nAnd how it ended.", sections())
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM) as running:
        yield running


@pytest.fixture(params=SIZES)
def shown(request, browser, page) -> Browser:
    """The page, loaded and drawn; afterwards it must have complained of nothing and asked for nothing but itself."""
    width, height = SIZES[request.param]
    browser.open(page, width=width, height=height, phone=request.param == "phone")
    browser.until("[...document.querySelectorAll('.chart')].every(e => e.querySelector('.main-svg'))")
    yield browser
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


def test_everything_fits_the_width(shown):
    assert shown.run("document.documentElement.scrollWidth <= innerWidth")
    widths = shown.run(
        "[...document.querySelectorAll('.chart svg.main-svg')].map(e => e.getBoundingClientRect().width)"
    )
    assert all(270 < width <= shown.run("innerWidth") for width in widths)
    # A wide table scrolls inside its own box.
    assert shown.run("document.querySelector('.table').scrollWidth >= document.querySelector('.table').clientWidth")


def test_everything_can_be_read(shown):
    sizes = shown.run(
        "[...document.querySelectorAll('p, td, th, figcaption, nav a, .chart text')].filter(e => e.textContent.trim())"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 12
    assert shown.run("[...document.images].every(e => e.naturalWidth > 0 && e.width >= 60 && e.alt)")
    clipped = shown.run(
        "[...document.querySelectorAll('.chart text')].filter(e => e.textContent.trim()).map(e => [e.textContent,"
        "e.getBoundingClientRect(), e.closest('.chart').getBoundingClientRect()])"
        ".filter(([t, e, c]) => e.left < c.left - 1 || e.right > c.right + 1 || e.bottom > c.bottom + 1).map(x => x[0])"
    )
    assert clipped == []


def test_text_stands_beside_or_above_its_chart(shown):
    pairs = shown.run(
        "[...document.querySelectorAll('section.beside')].map(s => [s.querySelector('.text').getBoundingClientRect(),"
        "s.querySelector('.chart').getBoundingClientRect()].map(r => [r.left, r.top, r.right, r.bottom]))"
    )
    assert len(pairs) == len(CHARTS)
    for text, chart in pairs:
        if shown.run("innerWidth") > 1000:
            assert text[2] <= chart[0]
            assert text[1] < chart[3]
        else:
            assert text[3] <= chart[1]


def test_the_contents_lead_to_every_section(shown):
    for number in range(len(sections())):
        shown.point(*shown.centre(f'nav a[href="#part-{number}"]'), click=True)
        shown.until(f"location.hash === '#part-{number}'")
        seen = f"document.querySelector('#part-{number} h2').getBoundingClientRect()"
        shown.until(f"{seen}.top >= 0 && {seen}.bottom <= innerHeight")


def test_a_click_on_the_legend_hides_a_run(shown):
    shown.point(*shown.centre("#chart-1 .legend .traces .legendtoggle"), click=True)
    shown.until("document.getElementById('chart-1').data[0].visible === 'legendonly'")
    assert shown.run("document.getElementById('chart-1').data[1].visible !== 'legendonly'")


def test_pointing_at_a_chart_shows_its_values(shown):
    for number in CHARTS[:-1]:  # the last is a cloud of points, of which none need be near
        chart = f"#chart-{number}"
        x, y = shown.centre(f"{chart} .nsewdrag")
        shown.point(x - 40, y)
        shown.point(x - 35, y)
        shown.until(f"document.querySelectorAll('{chart} .hoverlayer text').length > 0")


def test_the_page_scrolls_under_a_thumb_on_a_chart(shown):
    assert shown.run("document.getElementById('chart-1')._fullLayout.dragmode === false")
