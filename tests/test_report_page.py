import base64
import re
import struct
import zlib

import numpy as np
import pytest
import torch

from legolas_metric import RetrievalProtocol, evaluate_ranking
from legolas_metric.report import (
    Card,
    Gallery,
    Section,
    Table,
    bars,
    curves,
    page_html,
    ranking_sections,
    similarity_histogram,
    spectra,
    write_page,
)
from legolas_metric.report.pictures import picture_html, png


def a_section(**changes) -> Section:
    return Section(**{"title": "Title", "text": "What is shown."} | changes)


def example_sections() -> list[Section]:
    """One of everything, as the demo calls it."""
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    beat = np.sin(np.arange(50) / 5).astype(np.float32)
    runs = [("untrained", 0.151, 0.9), ("batch-only", 0.668, 0.1), ("global", 0.684, None)]
    return [
        a_section(title="Result", content=Table(["run", "Rank@1", "cos"], runs, better={"Rank@1": "max"})),
        a_section(title="Rank@1", content=curves({"global": [0.2, 0.6]}, y="Rank@1", references={"untrained": 0.15})),
        a_section(title="Spectrum", content=spectra({"global": torch.tensor([3.0, 1.0, 0.0])}, baseline=[2.0, 1.9])),
        a_section(title="Similarity", content=similarity_histogram([-1.0, 0.0, 1.0], [1, 9], [80, 20])),
        a_section(title="Mining", content=bars({"exact": 0.4, "faiss:Flat": 1.3}, x="seconds")),
        a_section(title="Hardest pairs", content=Gallery([Card([("a", image), ("n", image)], "s 0.9")] * 3)),
        a_section(title="Signals", content=Gallery([Card([("a", beat), ("n", beat)])])),
        a_section(title="Words"),
    ]


def decode(data: bytes) -> np.ndarray:
    """A slow PNG reader for files without filters."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, {}
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        assert struct.unpack(">I", data[place + 8 + size : place + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + size
    width, height, depth, colour_type, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest) == (8, [0, 0, 0])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape((height, width) if colour_type == 0 else (height, width, 3))


def test_the_page_holds_everything_and_asks_nobody():
    page = page_html("Demo", "First.\n\nSecond.", example_sections())
    own = page.replace(re.search(r"<script>/\*\*.*?</script>", page, re.S)[0], "")
    assert page.count("plotly.js v") == 1
    assert own.count("Plotly.newPlot") == 4
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:|#)", own)
    assert "default-src 'none'" in own
    assert "<p>First.</p><p>Second.</p>" in own
    assert own.count("<figure>") == 8
    for number, section in enumerate(example_sections()):
        assert f'href="#part-{number}">{section.title}</a>' in own
        assert f'<section id="part-{number}"' in own


def test_a_page_without_charts_carries_no_plotly():
    assert "plotly" not in page_html("Words", "Lead.", [a_section()])


def test_the_same_sections_give_the_same_page():
    assert page_html("A", "B", example_sections()) == page_html("A", "B", example_sections())


def test_what_users_write_is_text_and_never_markup():
    evil = "</script><img src=x onerror=alert(1)>"
    image = np.zeros((2, 2), np.uint8)
    page = page_html(
        evil,
        evil,
        [
            Section(evil, evil, Table([evil], [(evil,)])),
            Section(evil, evil, Gallery([Card([(evil, image)], evil)])),
            Section(evil, evil, curves({evil: [1.0]}, y=evil)),
        ],
    )
    assert "<img src=x" not in page


def test_a_table_marks_the_best_figures_of_a_column():
    page = page_html("A", "B", [example_sections()[0]])
    assert re.findall(r'<t[dh](?: scope="row")? class="([^"]*)">([^<]*)</t[dh]>', page) == [
        ("", "untrained"), ("number", "0.151"), ("number", "0.900"),
        ("", "batch-only"), ("number", "0.668"), ("number", "0.100"),
        ("", "global"), ("number best", "0.684"), ("number", "–"),
    ]  # fmt: skip


def test_the_page_can_be_heard_in_order():
    page = page_html("A run", "B", example_sections())
    titles = [section.title for section in example_sections()]
    assert re.findall(r"<h(\d)[^>]*>([^<]*)</h\d>", page) == [("1", "A run"), *(("2", title) for title in titles)]
    assert '<html lang="en">' in page
    assert re.findall(r'aria-labelledby="([^"]*)"', page) == re.findall(r'<h2 id="([^"]*)"', page)
    assert re.findall(r'role="region" aria-label="([^"]*)"', page) == ["Result: table"]
    assert re.findall(r'<th scope="row" class="">([^<]*)', page) == ["untrained", "batch-only", "global"]
    assert re.findall(r'role="img" aria-label="([^"]*)"', page.replace("&#34;", "'"))[:4] == [
        "Rank@1: chart of global 0.2 to 0.6; untrained 0.15 to 0.15",
        "Spectrum: chart of global 3 to 1; iid rows 2 to 1.9",
        "Similarity: chart",
        "Mining: chart of exact 0.4; faiss:Flat 1.3",
    ]
    assert all(re.findall(r'<img [^>]*alt="([^"]*)"', page))


def test_write_page_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "report.html"
    write_page(path, "A", "B", [a_section()])
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Choose another output folder"):
        write_page(tmp_path / "file" / "report.html", "A", "B", [a_section()])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: page_html("A", "B", []), "at least one section"),
        (lambda: a_section(text="  "), "needs a title and a text"),
        (lambda: a_section(title=""), "needs a title and a text"),
    ],
)
def test_bad_pages_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3), (1, 1)])
def test_png_round_trip(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert np.array_equal(decode(png(image)), image)


def test_png_takes_channels_first_and_torch():
    image = np.random.default_rng(0).integers(0, 256, (3, 4, 5)).astype(np.uint8)
    assert np.array_equal(decode(png(image)), image.transpose(1, 2, 0))
    assert np.array_equal(decode(png(image[:1])), image[0])
    source = re.search(r"base64,([^\"]*)", picture_html(torch.from_numpy(image), "x"))[1]
    assert np.array_equal(decode(base64.b64decode(source)), image.transpose(1, 2, 0))


def test_a_signal_becomes_one_line_for_each_lead():
    leads = torch.tensor([[0.0, 1.0, 0.5], [2.0, 2.0, 2.0]])
    drawn = picture_html(leads, 'a "quoted" caption')
    assert 'aria-label="a &quot;quoted&quot; caption"' in drawn
    found = re.findall(r'points="([^"]*)"', drawn)
    lines = [[tuple(map(float, point.split(","))) for point in line.split()] for line in found]
    assert [len(line) for line in lines] == [3, 3]
    top, bottom = lines[0][1], lines[0][0]
    assert top[1] < lines[0][2][1] < bottom[1]  # larger values are higher up
    assert min(y for _, y in lines[1]) > max(y for _, y in lines[0])  # the second lead lies below the first


@pytest.mark.parametrize(
    ("example", "error", "message"),
    [
        (np.zeros((2, 2), np.int64), TypeError, "must be uint8 and a signal floating point, got int64"),
        (np.zeros((2, 2, 4), np.uint8), ValueError, r"got shape \(2, 2, 4\)"),
        (np.zeros((0, 2), np.uint8), ValueError, r"got shape \(0, 2\)"),
        (np.zeros(1, np.float32), ValueError, "t >= 2"),
        (np.zeros((1, 2, 3), np.float32), ValueError, "t >= 2"),
    ],
)
def test_bad_pictures_are_refused(example, error, message):
    with pytest.raises(error, match=message):
        picture_html(example, "x")


def test_the_ranking_says_what_was_asked():
    x, y = torch.randn(24, 4), torch.arange(24) // 4
    for protocol, text in (
        (RetrievalProtocol(), "Every labelled row asks all the others (leave-one-out). Rank@k: share"),
        (RetrievalProtocol.cross_session(), "it must find its class in another group (cross-session). Rank@k"),
        (RetrievalProtocol.fixed(range(4), range(24)), "Given queries ask a given gallery (fixed lists). Rank@k"),
        (RetrievalProtocol.few_shot(ways=3, shots=1, episodes=7), "Asked in 7 episodes (3-way 1-shot). Rank@k"),
    ):
        report = evaluate_ranking(x, y, groups=torch.arange(24) % 2, protocol=protocol)
        assert text in ranking_sections({"ours": report})[0].text
