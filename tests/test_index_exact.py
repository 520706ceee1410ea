"""The exact engine, held against brute force in float64, in every way that it takes."""

import numpy as np
import pytest
import torch
from exact_ways import WAYS, by
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import neighbors

from legolas_metric import ExactIndex
from legolas_metric.index.exact import answer as routing
from legolas_metric.index.exact import processor
from legolas_metric.index.exact.duplicates import needed_rows
from legolas_metric.rows import fitted_rows

WANTS = ("any", "negative", "positive", "cross_group_positive")
METRICS = ("cosine", "dot", "euclidean")


@pytest.fixture(autouse=True, scope="module")
def _small_pieces():
    """Classes of a size that small data fills several of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "_LARGE_CLASS", 8)
        yield


def embeddings(kind: str, n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of a kind that is easy, or built to defeat screening."""
    rows = rng.standard_normal((n, d))
    if kind == "near ties":  # far inside the bound of bfloat16, and of float32
        rows = rng.standard_normal((1, d)) + 1e-6 * rows
    elif kind == "narrow cone":  # their float32 similarities all round to 1
        rows = rng.standard_normal((1, d)) + 1e-4 * rows
    elif kind == "one direction":  # of different lengths
        rows = rows[rng.integers(0, max(1, n // 9), n)] * 10.0 ** rng.uniform(-3, 3, (n, 1))
    elif kind == "duplicates":
        rows = rows[rng.integers(0, max(1, n // 6), n)]
    elif kind == "lattice":
        rows = np.round(rows)
    elif kind == "collapsed":
        rows = rows + 10
    elif kind == "all negative":
        rows = np.abs(rows) * np.where(np.arange(n) % 2, 1, -1)[:, None]
    elif kind == "huge":
        rows = rows * 10.0 ** rng.integers(0, 16, (n, 1))
    elif kind == "denormal":
        rows = rows * 10.0 ** rng.integers(-44, -18, (n, 1))
    rows = rows.astype(np.float32)
    rows[(rows == 0).all(1)] = 1
    return rows


KINDS = (
    *("plain", "near ties", "narrow cone", "one direction", "duplicates", "lattice"),
    *("collapsed", "all negative", "huge", "denormal"),
)


def labelling(layout: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Labels of a layout, unlabelled rows among them."""
    labels = {
        "twos": np.arange(n) // 2,
        "few": rng.integers(0, 4, n),
        "half": np.where(rng.random(n) < 0.5, 0, np.arange(n)),
        "one": np.zeros(n, dtype=int),
        "uneven": (rng.pareto(1, n) * 2).astype(int),
    }[layout]
    return np.where(rng.random(n) < rng.choice([0, 0.2]), -1, labels).astype(np.int64)


def window_of(rows: np.ndarray, n: int, metric: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Windows about the similarities that occur, some of them open."""
    some = ExactIndex(metric=metric, precision="float32").fit(rows).self_join(4, want="any").similarities.numpy()
    values = np.where(np.isfinite(some), some, 0).astype(np.float64)
    low, high = values.min(1), values[:, rng.integers(0, 4)]
    low[rng.random(n) < 0.4] = np.nan
    high[rng.random(n) < 0.2] = np.nan
    return low, high


def expected(rows, labels, ids, groups, k, *, queries=None, **options):
    table = list(zip(rows, labels.tolist(), ids.tolist(), groups.tolist()))
    return neighbors(table if queries is None else queries, table, k, **options)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 170),
    d=st.sampled_from([1, 2, 3, 17, 40]),
    k=st.sampled_from([1, 1, 2, 7]),
    kind=st.sampled_from(KINDS),
    layout=st.sampled_from(["twos", "few", "half", "one", "uneven"]),
    metric=st.sampled_from(METRICS),
    want=st.sampled_from(WANTS),
    farthest=st.booleans(),
    windowed=st.booleans(),
    way=st.sampled_from(WAYS),
)
def test_equals_brute_force(seed, n, d, k, kind, layout, metric, want, farthest, windowed, way):
    precision, compiled = way
    rng = np.random.default_rng(seed)
    rows, labels, groups = embeddings(kind, n, d, rng), labelling(layout, n, rng), rng.integers(0, 3, n)
    ids = rng.permutation(n + 9)[:n]
    window = window_of(rows, n, metric, rng) if windowed else None
    index = ExactIndex(metric=metric, precision=precision).fit(rows, labels, ids=ids, groups=groups)
    with by(compiled):
        found = index.self_join(k, want=want, farthest=farthest, window=window)
    wide = index.rows.embeddings.numpy()  # the oracle's own normalisation may differ in the last bit
    true_ids, true_values = expected(
        wide, labels, ids, groups, k, want=want, metric=metric, farthest=farthest, window=window
    )
    np.testing.assert_allclose(found.similarities.numpy(), true_values, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.ids.numpy(), true_ids)


@pytest.mark.parametrize(("precision", "compiled"), [("auto", True), *WAYS])
@pytest.mark.parametrize("want", WANTS)
def test_queries_of_their_own_equal_brute_force(want, precision, compiled):
    rng = np.random.default_rng(5)
    n, q, d = 300, 140, 9
    rows, labels, groups = embeddings("lattice", n, d, rng), labelling("few", n, rng), rng.integers(0, 3, n)
    ids = rng.permutation(n)
    asked = rng.standard_normal((q, d)).astype(np.float32)
    own_labels, own_groups = rng.integers(-1, 5, q), rng.integers(0, 4, q)
    own_ids = rng.integers(-1, n + 20, q)  # repeated, absent, or of a row with another label
    index = ExactIndex(metric="dot", precision=precision).fit(rows, labels, ids=ids, groups=groups)
    with by(compiled):
        found = index.search(asked, 3, labels=own_labels, ids=own_ids, groups=own_groups, want=want)
    queries = list(zip(asked, own_labels.tolist(), own_ids.tolist(), own_groups.tolist()))
    true_ids, true_values = expected(rows, labels, ids, groups, 3, queries=queries, want=want, metric="dot")
    np.testing.assert_array_equal(found.ids.numpy(), true_ids)
    np.testing.assert_allclose(found.similarities.numpy(), true_values, rtol=1e-6)


def test_ties_go_to_the_smaller_id():
    rows = torch.ones(400, 8)
    labels, ids = torch.arange(400) % 200, torch.arange(400).flip(0) + 3
    found = ExactIndex(precision="bfloat16").fit(rows, labels, ids=ids).self_join(2)
    for label, own in zip(labels.tolist(), found.ids.tolist()):
        others = sorted(int(i) for i, other in zip(ids, labels) if int(other) != label)
        assert own == others[:2]


@pytest.mark.parametrize(("precision", "compiled"), WAYS)
def test_a_narrow_cone_is_searched_as_euclidean_distance_searches_it(precision, compiled, generator):
    """Mean cosine 0.9999999: similarities that differ from 1 by less than float32 tells."""
    base = torch.nn.functional.normalize(torch.randn(1, 64, generator=generator))
    rows = base + 4e-5 * torch.randn(1500, 64, generator=generator)
    labels = torch.randint(0, 90, (1500,), generator=generator)
    unit = ExactIndex().fit(rows).rows.embeddings
    true = torch.cdist(unit.double(), unit.double()).masked_fill(labels[:, None] == labels, torch.inf)
    with by(compiled):
        found = ExactIndex(precision=precision).fit(rows, labels).self_join(2)
        window = (1 - (1.02 * true.amin(1)) ** 2 / 2, torch.full((1500,), torch.nan))
        inside = ExactIndex(precision=precision).fit(rows, labels).self_join(9, window=window)
    assert torch.equal(found.ids, true.topk(2, largest=False).indices)
    assert torch.equal((inside.ids >= 0).sum(1), (true < 1.02 * true.amin(1, keepdim=True)).sum(1).clamp_max(9))
    if compiled:
        assert found.stats.certified is not None
        assert found.stats.certified > (0.9 if precision != "bfloat16" else 0)


def test_rows_that_occur_often_are_searched_once():
    rows = torch.eye(3).repeat_interleave(40, 0)
    labels = torch.arange(120) % 60
    fitted = fitted_rows(rows, labels, ids=None, groups=None, metric="cosine")
    kept = needed_rows(fitted, 1, "negative")
    assert kept is not None
    assert len(kept) <= 3 * 3 * 2
    assert needed_rows(fitted_rows(torch.eye(50), None, ids=None, groups=None, metric="cosine"), 1, "any") is None


def test_rows_that_cannot_be_separated_are_rescanned_and_counted(monkeypatch):
    monkeypatch.setattr(processor, "_DECIDED", 10**9)
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(900, 32, generator=generator))
    rows[:40] = rows[:1] + 1e-7 * torch.randn(40, 32, generator=generator)
    labels = torch.arange(900)
    found = ExactIndex(precision="bfloat16").fit(rows, labels).self_join(1)
    exact = ExactIndex(precision="float32").fit(rows, labels).self_join(1)
    torch.testing.assert_close(found.ids, exact.ids, rtol=0, atol=0)
    assert found.stats.details["rescanned"] >= 40
    assert found.stats.certified == pytest.approx(1 - found.stats.details["rescanned"] / 900)


def test_a_window_is_searched_however_deep_it_lies():
    """By hand: seven negatives above the window, one inside it, one below."""
    angles = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.2, 1.5])
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    labels = torch.tensor([0] + [1] * 9)
    bounds = torch.full((10,), float(np.cos(1.3))), torch.full((10,), float(np.cos(1.0)))
    found = ExactIndex(precision="bfloat16").fit(rows, labels).self_join(2, window=bounds)
    assert found.ids[0].tolist() == [8, -1]
    assert found.similarities[0, 0].item() == pytest.approx(np.cos(1.2), abs=1e-6)
    assert found.similarities[0, 1].item() == -np.inf


def test_the_caller_may_be_autocasting_or_in_inference_mode(generator):
    rows, labels = torch.randn(700, 24, generator=generator), torch.arange(700) // 2
    plain = ExactIndex(precision="float32").fit(rows, labels).self_join(1)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        cast = ExactIndex(precision="float32").fit(rows, labels).self_join(1)
        small = ExactIndex().fit(rows, labels).self_join(1)
    assert torch.equal(plain.ids, cast.ids)
    assert torch.equal(plain.ids, small.ids)


def test_more_neighbours_than_rows_are_padded():
    index = ExactIndex(precision="bfloat16").fit(torch.eye(3), [0, 1, 1])
    found = index.self_join(5)
    assert found.ids.tolist() == [[1, 2, -1, -1, -1], [0, -1, -1, -1, -1], [0, -1, -1, -1, -1]]
    assert ExactIndex(precision="bfloat16").fit(torch.ones(1, 2)).self_join(1, want="any").ids.tolist() == [[-1]]


def test_refuses_what_it_cannot_answer():
    index = ExactIndex().fit(torch.eye(4))
    with pytest.raises(ValueError, match="compares labels: pass labels to fit"):
        index.self_join(1)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        index.self_join(0, want="any")
    with pytest.raises(ValueError, match="holds no rows: call fit"):
        ExactIndex().self_join(1)
    with pytest.raises(ValueError, match="workspace_mb must be at least 1"):
        ExactIndex(workspace_mb=0)
    with pytest.raises(ValueError, match="would overflow float32"):
        ExactIndex(metric="dot").fit(1e25 * torch.eye(4)).self_join(1, want="any")
