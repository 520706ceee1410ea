"""The exact engine along principal axes: the same answers, bit by bit, whatever the spectrum; and its bound."""

import math
from dataclasses import replace

import pytest
import torch
from exact_ways import HERE, by

from legolas_metric import ExactIndex
from legolas_metric.index.exact import answer as routing
from legolas_metric.index.exact import axes, solve
from legolas_metric.index.exact.certificate import certify
from legolas_metric.index.exact.precision import has_int16
from legolas_metric.index.exact.table import choose_frame, make_table, with_steps

pytestmark = pytest.mark.skipif(not has_int16(HERE), reason="heads are screened in int16")
N, D = 500, 40
SPECTRA = ("flat", "one direction", "decaying", "duplicates", "zero tails", "narrow cone")
SEARCHES = {
    "nearest negative": (1, "negative", False, False),
    "farthest negatives": (5, "negative", True, False),
    "many negatives": (40, "negative", False, False),
    "window": (3, "negative", False, True),
    "window from below": (2, "any", True, True),
    "any": (2, "any", False, False),
    "positives": (3, "positive", False, False),
    "hard positives": (1, "positive", True, False),
    "other groups": (2, "cross_group_positive", False, False),
}


@pytest.fixture
def _forced(monkeypatch):
    """Along the axes, however small the search and however little it pays."""
    monkeypatch.setattr(axes, "_FEWEST", 0)
    monkeypatch.setattr(axes, "_FLAT", math.inf)
    monkeypatch.setattr(axes, "_GAIN", 1e-9)
    monkeypatch.setattr(routing, "_LARGE_CLASS", 50)


def rows_of(spectrum: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    turn = torch.linalg.qr(torch.randn(D, D, generator=generator)).Q
    scale = torch.arange(1, D + 1).float() ** -0.7
    rows = torch.randn(N, D, generator=generator)
    if spectrum == "one direction":
        scale = torch.tensor([1.0] + [1e-3] * (D - 1))
    elif spectrum == "flat":
        scale = torch.ones(D)
    elif spectrum == "zero tails":
        scale = (torch.arange(D) < 5).float()
    rows = rows * scale @ turn
    if spectrum == "duplicates":
        rows[::3] = rows[:1]
        rows[1::7] = 2 * rows[1]  # of one direction
    return rows + 30 * turn[0] if spectrum == "narrow cone" else rows


@pytest.mark.usefixtures("_forced")
@pytest.mark.parametrize(("spectrum", "joined"), [*((name, True) for name in SPECTRA), ("decaying", False)])
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_equals_brute_force(spectrum, metric, joined):
    rows, labels, groups = rows_of(spectrum), torch.arange(N) // 3 % 5, torch.arange(N) % 4
    labels[::50] = -1
    generator = torch.Generator().manual_seed(4)
    low = -1 + 1.5 * torch.rand(N, generator=generator)
    along = 0
    for name, (k, want, farthest, windowed) in SEARCHES.items():
        found = []
        for compiled in (True, False):
            precision = "int16" if compiled else "float32"
            index = ExactIndex(metric=metric, precision=precision).fit(rows, labels, groups=groups)
            window = (low - 2 * (metric == "euclidean"), low + 0.4) if windowed else None
            with by(compiled):
                if joined:
                    found.append(index.self_join(k, want=want, farthest=farthest, window=window))
                else:
                    some = slice(100, 300)
                    part = None if window is None else tuple(bound[some] for bound in window)
                    own = {"labels": labels[some], "ids": torch.arange(N)[some], "groups": groups[some]}
                    found.append(index.search(rows[some], k, **own, want=want, farthest=farthest, window=part))
        ours, oracle = found
        assert torch.equal(ours.ids, oracle.ids), name
        assert torch.equal(ours.similarities, oracle.similarities), name
        along += ours.stats.details.get("axes", 0) > 0
    assert along == len(SEARCHES) or metric == "dot"  # whose terms may be too large for int16


@pytest.mark.usefixtures("_forced")
@pytest.mark.parametrize("want", ["any", "positive"])
@pytest.mark.parametrize("k", [1, N])
def test_rows_of_very_many_lengths_and_more_neighbours_than_a_class_has(k, want):
    lengths = 10 ** torch.linspace(-15, 15, N)[torch.randperm(N, generator=torch.Generator().manual_seed(0)), None]
    rows, labels = rows_of("decaying") * lengths, torch.arange(N) % 5
    answers = []
    for compiled in (True, False):
        index = ExactIndex(metric="dot", precision="int16" if compiled else "float32").fit(rows, labels)
        with by(compiled):
            answers.append(index.self_join(k, want=want))
    ours, oracle = answers
    assert "axes" in ours.stats.details
    assert torch.equal(ours.ids, oracle.ids)
    assert torch.equal(ours.similarities, oracle.similarities)


@pytest.mark.usefixtures("_forced")
@pytest.mark.parametrize("kept", [1.0, 0.0])
@pytest.mark.parametrize("step", ["first_heads", "heads_of"])
def test_without_the_tails_it_goes_wrong(step, kept, monkeypatch):
    """Scores of heads alone, by which rows would be dropped, are no answer: at first, nor at the closer look."""
    turned = getattr(axes, step)

    def without(*given):
        heads = turned(*given)
        return replace(heads, tail=kept * heads.tail)

    monkeypatch.setattr(solve, step, without)
    rows, labels = rows_of("decaying"), torch.arange(N) // 3
    with by(True):
        found = ExactIndex(precision="int16").fit(rows, labels).self_join(1)
    with by(False):
        exact = ExactIndex(precision="float32").fit(rows, labels).self_join(1)
    assert torch.equal(found.ids, exact.ids) == (kept == 1.0)


@pytest.mark.parametrize("farthest", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("length", [16, None])
def test_no_head_errs_by_more_than_its_bound(length, spectrum, metric, farthest):
    rows = rows_of(spectrum)
    if metric == "cosine":
        rows = torch.nn.functional.normalize(rows.double()).float()
    frame = choose_frame([rows], metric, farthest=farthest)
    directions = axes.principal_axes(rows, frame)
    longer = axes.heads_of(rows, frame, directions)
    heads = longer if length is None else axes.first_heads(longer, length, directions)
    frame = with_steps(frame, [rows], [heads])
    table = make_table(rows, frame, torch.int16, heads, packed=False)
    left, right = table.left.double()[:N], table.right.double()[:N]
    whole = left @ right.T + table.offset[:N, None] + table.offset[:N]
    assert whole.abs().max() < 2**31
    assert max(left.abs().max(), right.abs().max()) < 2**15
    true = rows.double() @ rows.double().T if metric != "euclidean" else -torch.cdist(rows.double(), rows.double())
    over = whole / frame.steps**2 - frame.score(true.flatten()).view(N, N)
    certificate = certify(table, table, frame, 2048)
    slack = certificate.weights[:N, -1:] * certificate.bounds[0, -1]
    bound = certificate.missed()[:N, None]
    assert bool((-over <= bound).all())
    assert bool((over <= bound + slack).all())
    if spectrum == "decaying":
        assert over.max() > 0.3 * slack.max()  # the bound is not idle
    if spectrum == "zero tails" and metric == "cosine":
        assert slack.max() < 1e-3


def test_flat_rows_and_small_searches_are_not_turned():
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(3000, 64, generator=generator)
    few = flat * torch.arange(1, 65).float() ** -1
    frame = choose_frame([flat], "dot", farthest=False)
    assert not axes.may_pay(flat, frame, 10**9)
    assert axes.may_pay(few, frame, 10**9)
    assert not axes.may_pay(few, frame, 3000)


def test_rows_that_recur_do_not_stand_for_all():
    """Every other row lies along few axes: a sample at even steps would take them for all."""
    rows = torch.randn(8192, 64, generator=torch.Generator().manual_seed(0))
    rows[::2, 8:] *= 1e-3
    frame = choose_frame([rows], "dot", farthest=False)
    assert axes.may_pay(rows[::2], frame, 10**9)
    assert not axes.may_pay(rows, frame, 10**9)


def test_as_many_axes_as_pay():
    """None where all pairs stay open, where another dtype takes all of d faster, or where there are too few."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(300, 64, generator=generator) * torch.arange(1, 65) ** -1.0)
    frame = choose_frame([rows], "cosine", farthest=False)
    directions = axes.principal_axes(rows, frame)
    heads, some = [axes.heads_of(rows, frame, directions)], torch.arange(300)

    def count(floor: float, lead: float) -> int | None:
        level = torch.full((300,), floor)
        sample = axes.Sample(level, level + math.inf, torch.ones(300, 300, dtype=torch.bool), some, some)
        return axes.fewer_axes(heads, sample, frame, 10**12, 64, (1.0, lead))

    assert count(2.0, 1.0) == 16
    assert count(2.0, 4.0) is None
    assert count(-2.0, 1.0) is None
    assert count(0.9, 1.0) in (16, 32)
    assert not axes.may_pay(rows[:, :31], frame, 10**9)
    assert axes.may_pay(rows[:, :32], frame, 10**9)
    assert not axes.may_pay(rows[:15], frame, 10**12)  # which span fewer axes
    assert axes.may_pay(rows[:16], frame, 10**12)
