"""Rows with hundreds of exact ties: candidates that fill an anchor's slots are decided at once."""

import numpy as np
import pytest
import torch
from exact_ways import WAYS, by

from legolas_metric import ExactIndex
from legolas_metric.index.exact import processor, solve
from legolas_metric.rows import fitted_rows

COMPILED = [precision for precision, compiled in WAYS if compiled]
KINDS = ("two words", "signs", "levels")


def tied(kind: str, n: int, generator: torch.Generator) -> torch.Tensor:
    """Rows of which nearly each has more ties than slots."""
    if kind == "signs":
        return torch.randint(2, (n, 8), generator=generator) * 2.0 - 1
    if kind == "levels":
        return torch.randint(1, 4, (n, 5), generator=generator).float()
    rows = torch.zeros(n, 24)
    for _ in range(2):
        rows[torch.arange(n), torch.randint(24, (n,), generator=generator)] += 1
    return rows


def truth(rows, labels, ids, metric, k, farthest, window):
    """All pairs in float64, sorted by the similarity of 33 bits, then the id."""
    unit = fitted_rows(rows, None, ids=None, groups=None, metric=metric).embeddings.double().numpy()
    if metric == "dot":
        total = unit @ unit.T
    else:
        total = ((unit[:, None] - unit) ** 2).sum(2)
    wide = (2.0**20 + 1) * total
    total = wide - (wide - total)
    if metric == "cosine":
        total = np.where(total <= 2.0**-42, 1.0, np.maximum(1 - total / 2, -1))
    elif metric == "euclidean":
        total = -np.sqrt(total)
    barred = labels[:, None] == labels
    if window is not None:
        barred |= ~((total > window[0][:, None]) & (total < window[1][:, None]))
    key = np.where(barred, np.inf, total if farthest else -total)
    order = np.lexsort((np.broadcast_to(ids, key.shape), key), axis=1)[:, :k]
    found = np.where(np.take_along_axis(key, order, 1) < np.inf, ids[order], -1)
    return found, np.take_along_axis(total, order, 1)


@pytest.mark.parametrize("precision", COMPILED)
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("kind", KINDS)
def test_ties_are_decided_without_a_rescan(kind, metric, precision, generator, monkeypatch):
    """Also where they lie on the edge of a window, and in a bank that is screened about its mean."""
    monkeypatch.setattr(processor, "_DECIDED", 1)
    n = 900
    rows, labels = tied(kind, n, generator), (torch.arange(n) // 3).numpy()
    ids = torch.randperm(n, generator=generator).numpy()
    level = np.unique(truth(rows, labels, ids, metric, n, False, None)[1].round(12))[-3]
    edges = np.full(n, -np.inf), np.full(n, np.nextafter(level, -np.inf))
    index = ExactIndex(metric=metric, precision=precision).fit(rows, labels, ids=ids)
    for k, farthest, window in (
        (1, False, None),
        (7, False, None),
        (2, True, None),
        (3, False, edges),
        (2, True, edges),
    ):
        with by(True):
            found = index.self_join(k, farthest=farthest, window=window)
        expected, similarity = truth(rows, labels, ids, metric, k, farthest, window)
        np.testing.assert_array_equal(found.ids.numpy(), expected)
        here = expected >= 0
        np.testing.assert_array_equal(found.similarities.numpy()[here], similarity.astype(np.float32)[here])
        assert found.stats.details["rescanned"] == 0


@pytest.mark.parametrize("precision", COMPILED)
@pytest.mark.parametrize("share", [1.0, 0.2])
def test_too_many_ties_are_left_to_the_plain_scan(share, precision, generator, monkeypatch):
    """Of all rows at once, where a sample says so, without a pass in vain; else of those that have them."""
    monkeypatch.setattr(processor, "_DECIDED", 10**9)
    monkeypatch.setattr(solve, "_FEWEST_SAMPLED", 500)
    n, kinds = 900, int(share * 900)
    rows, labels = torch.rand(n, 24, generator=generator), (torch.arange(n) // 3).numpy()
    rows[torch.randperm(n, generator=generator)[:kinds]] = tied("two words", kinds, generator)
    ids = torch.randperm(n, generator=generator).numpy()
    with by(True):
        found = ExactIndex(precision=precision).fit(rows, labels, ids=ids).self_join(2, farthest=True)
    np.testing.assert_array_equal(found.ids.numpy(), truth(rows, labels, ids, "cosine", 2, True, None)[0])
    details = found.stats.details
    assert (details["tiles"] == 0) == (share == 1.0)
    assert details["rescanned"] == n if share == 1.0 else 0 < details["rescanned"] < n


@pytest.mark.skipif("int16" not in COMPILED, reason="needs AVX2")
@pytest.mark.parametrize(("kind", "precision"), [("ties", "int16"), ("outliers", "float32")])
def test_float32_is_taken_for_what_it_separates(kind, precision, generator, monkeypatch):
    """Not for ties, which every dtype leaves; but for short rows among long ones."""
    monkeypatch.setattr(solve, "_FEWEST_SAMPLED", 500)
    monkeypatch.setattr(processor, "_DECIDED", 1)
    n = 1500
    rows, labels = tied("two words", n, generator), (torch.arange(n) // 3).numpy()
    if kind == "outliers":
        rows = torch.randn(n, 24, generator=generator) / torch.rand(n, 1, generator=generator).clamp_min(1e-3)
    with by(True):
        found = ExactIndex(metric="dot", precision="int16").fit(rows, labels).self_join(3)
    np.testing.assert_array_equal(found.ids.numpy(), truth(rows, labels, np.arange(n), "dot", 3, False, None)[0])
    assert found.stats.precision == precision
