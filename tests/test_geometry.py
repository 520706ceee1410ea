import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import similarity as oracle_similarity
from oracles import unit

from legolas_metric import geometry

METRICS = ["cosine", "dot", "euclidean"]


def rows(n: int, d: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@given(n=st.integers(0, 40), size=st.integers(1, 50))
def test_chunks_cover_everything_once(n, size):
    parts = list(geometry.chunks(n, size))
    assert [row for part in parts for row in range(n)[part]] == list(range(n))
    assert all(part.stop - part.start <= size for part in parts)


def test_normalise_by_hand():
    assert torch.equal(geometry.normalise(torch.tensor([[3.0, 4.0], [0.0, -2.0]])), torch.tensor([[0.6, 0.8], [0, -1]]))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), d=st.integers(1, 70), scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e6, 1e30]))
def test_normalise_equals_float64_and_changes_nothing_twice(seed, d, scale):
    x = rows(9, d, seed, scale)
    once = geometry.normalise(x)
    np.testing.assert_allclose(once.numpy(), unit(x.numpy()), rtol=0, atol=3e-7)
    assert torch.equal(geometry.normalise(once), once)


def test_rows_that_are_unit_but_for_rounding_keep_their_bits():
    x = torch.tensor([[1 + 2.0**-23, 0.0], [1 - 2.0**-23, 0.0], [1 + 2.0**-21, 0.0]])
    assert geometry.normalise(x)[:, 0].tolist() == [1 + 2.0**-23, 1 - 2.0**-23, 1.0]


def test_normalise_in_chunks_is_normalise(monkeypatch):
    x = rows(50, 7)
    whole = geometry.normalise(x)
    monkeypatch.setattr(geometry, "CACHE", 12 * 21)
    assert torch.equal(geometry.normalise(x), whole)


def test_prepare_touches_only_cosine():
    x = rows(4, 3)
    assert torch.equal(geometry.prepare(x, "cosine"), geometry.normalise(x))
    assert geometry.prepare(x, "dot") is x
    assert geometry.prepare(x, "euclidean") is x


@pytest.mark.parametrize("metric", METRICS)
def test_similarities_equal_the_oracle(metric):
    x, y = rows(6, 33, 1), rows(6, 33, 2)
    expected = [[oracle_similarity(a, b, metric) for b in y.numpy()] for a in x.numpy()]
    px, py = geometry.prepare(x, metric), geometry.prepare(y, metric)
    every_pair = px[:, None].expand(6, 6, 33), py[None].expand(6, 6, 33)
    exact = geometry.pair_similarity(*every_pair, metric)
    assert exact.dtype == torch.float32
    np.testing.assert_allclose(exact.numpy(), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(geometry.similarity_matrix(px, py, metric).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_decision_does_not_hang_on_the_order_of_adding():
    """Rows of a lattice, their columns permuted: equal distances, in float64 but for the order of the terms."""
    x = geometry.normalise(torch.tensor([[1.0, 2, 3, 4, 5, 6, 7]]))
    centre = geometry.normalise(torch.ones(1, 7))
    permuted = torch.stack([x[0, torch.randperm(7)] for _ in range(50)])
    for metric in METRICS:
        assert len(geometry.exact_similarity(centre.expand(50, 7), permuted, metric).unique()) == 1


def test_a_decision_does_not_hang_on_how_many_pairs_are_compared():
    """torch's root of a long float64 tensor is another one than that of a short one."""
    x = torch.arange(2000.0).sqrt()[:, None]
    whole = geometry.exact_similarity(x, torch.zeros(2000, 1), "euclidean")
    each = [geometry.exact_similarity(row, torch.zeros(1), "euclidean") for row in x]
    assert whole.tolist() == [value.item() for value in each]
    assert whole.tolist() == [-math.sqrt(value) for value in geometry.settled(x[:, 0].double().square()).tolist()]


def test_a_narrow_cone_keeps_its_differences_and_one_direction_is_a_tie():
    x = geometry.normalise(torch.tensor([[1.0, 0.0], [1.0, 1e-4], [1.0, 2e-4]]))
    near, far = geometry.exact_similarity(x[:1].expand(2, 2), x[1:], "cosine")
    assert 1 > near > far
    base = rows(40, 33)
    one, other = geometry.normalise(base), geometry.normalise(base * torch.linspace(0.01, 300, 40)[:, None])
    assert not torch.equal(one, other)
    assert geometry.exact_similarity(one, other, "cosine").eq(1).all()


def test_euclidean_similarity_of_equal_far_rows_is_exactly_zero():
    x = rows(3, 8) + 1e4
    assert torch.equal(geometry.similarity_matrix(x, x, "euclidean").diagonal(), torch.zeros(3))
    assert torch.equal(geometry.pair_similarity(x, x, "euclidean"), torch.zeros(3))


def test_cosine_distance_is_the_euclidean_distance_of_unit_rows():
    x, y = geometry.normalise(rows(20, 5, 1)), geometry.normalise(rows(20, 5, 2))
    d = geometry.distance(geometry.pair_similarity(x, y, "cosine"), "cosine")
    assert torch.allclose(d, (x - y).norm(dim=1), atol=1e-5)
    assert geometry.distance(torch.tensor([1.0, 0.0, -1.0, 1.0 + 1e-7]), "cosine").tolist() == [
        0.0,
        pytest.approx(math.sqrt(2)),
        2.0,
        0.0,
    ]


@pytest.mark.parametrize("metric", METRICS)
def test_similarity_inverts_distance(metric):
    d = torch.tensor([0.0, 0.3, 1.0, 1.9], dtype=torch.float64)
    assert torch.allclose(geometry.distance(geometry.similarity(d, metric), metric), d, atol=1e-12)


def test_closer_is_larger_in_every_metric():
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.9, 0.1], [-1.0, 0.2]])
    for metric in METRICS:
        near, far = geometry.similarity_matrix(x, y, metric)[0]
        assert near > far
        assert geometry.distance(near, metric) < geometry.distance(far, metric)


def test_masked_logsumexp_by_hand():
    values = torch.tensor([[0.0, math.log(3.0), 100.0], [5.0, 6.0, 7.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    out = geometry.masked_logsumexp(values, mask)
    assert out[0].item() == pytest.approx(math.log(4.0))
    assert out[1].item() == -math.inf


def test_masked_logsumexp_has_no_nan_gradient():
    values = torch.tensor([[1.0, 2.0], [3.0, math.inf]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True], [False, False]])
    out = geometry.masked_logsumexp(values, mask)
    out[out.isfinite()].sum().backward()
    assert values.grad is not None
    e = math.exp(1) + math.exp(2)
    assert torch.allclose(values.grad, torch.tensor([[math.exp(1) / e, math.exp(2) / e], [0, 0]], dtype=torch.float64))


def test_masked_logsumexp_survives_large_values():
    out = geometry.masked_logsumexp(torch.tensor([[1000.0, 999.0]]), torch.ones(1, 2, dtype=torch.bool))
    assert out.item() == pytest.approx(1000 + math.log1p(math.exp(-1)))


@pytest.mark.parametrize("by_onednn", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_is_that_of_float64_however_the_rows_lie(dtype, by_onednn, monkeypatch):
    """Rows that are slices, transposed, of a stride, or none."""
    if not by_onednn:
        monkeypatch.setattr("legolas_metric.geometry._has_onednn", lambda: False)
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(300, 200, generator=generator, dtype=dtype)
    sides = [wide[7:60, :33], wide[:33, 5:50].T, wide[::3, :33], wide[:0, :33], wide[:33].T, wide[:40, 1:67:2]]
    for x, y in itertools.product(sides, sides):
        wanted = x.double() @ y.double().T
        assert geometry.product(x, y).dtype == dtype
        assert torch.allclose(geometry.product(x, y).double(), wanted, atol=(33 + 3) * 2.0**-24 * 33, rtol=0)
