"""Hubness against counting by hand, scipy's skewness, and the figures of the paper."""

import numpy as np
import pytest
import torch
from scipy.stats import skew

from legolas_metric import ExactIndex, FaissIndex, hubness_of, probe_embeddings


def occurrences(x: np.ndarray, k: int) -> np.ndarray:
    """N_k by sorting every row's distances."""
    distance = ((x[:, None] - x[None]) ** 2).sum(2)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return np.bincount(nearest.ravel(), minlength=len(x))


def test_equals_counting(generator):
    x = torch.randn(150, 20, generator=generator)
    x[:, 0] += 1
    neighbors = ExactIndex(metric="euclidean").fit(x).self_join(5, want="any")
    counts = occurrences(x.numpy().astype(np.float64), 5)
    found = hubness_of(neighbors, torch.arange(150))
    assert found.hubness == pytest.approx(skew(counts))
    assert found.hubs == pytest.approx((counts > counts.mean() + 2 * counts.std()).mean())
    assert found.orphans == pytest.approx((counts == 0).mean())
    assert found.orphans > 0


def test_ids_need_not_be_row_numbers(generator):
    x = torch.randn(60, 8, generator=generator)
    ids = torch.randperm(60, generator=generator) * 11 + 5
    plain = hubness_of(ExactIndex().fit(x).self_join(4, want="any"), range(60))
    named = ExactIndex().fit(x, ids=ids).self_join(4, want="any")
    assert hubness_of(named, ids) == plain
    with pytest.raises(ValueError, match="pass the ids of all rows that were searched"):
        hubness_of(named, ids + 1)


def test_a_ring_has_no_hubs():
    """Sixteen points on a circle: each is chosen by both of its neighbours."""
    angle = torch.arange(16) * torch.pi / 8
    rows = torch.stack([angle.cos(), angle.sin()], 1)
    report = probe_embeddings(rows, index=ExactIndex(), hubness_k=2)
    assert (report.hubness, report.hubs, report.orphans) == (0, 0, 0)


def test_probes_hold_hubness_beside_iid_rows_at_the_same_n_d_and_k(generator):
    x = torch.randn(800, 64, generator=generator)
    report = probe_embeddings(x, index=ExactIndex())
    assert report.baseline.hubness == pytest.approx(report.hubness, rel=0.5)
    shifted = probe_embeddings(x + 3 * torch.randn(800, 1, generator=generator) * torch.ones(64), index=ExactIndex())
    assert shifted.hubness != report.hubness
    assert shifted.baseline.hubness == report.baseline.hubness  # same seed
    assert probe_embeddings(x, index=FaissIndex()).hubness == pytest.approx(report.hubness, rel=0.02)
    assert probe_embeddings(x).hubness is None


def test_normal_rows_have_more_hubs_than_uniform_ones(generator):
    """Radovanovic et al.: the Euclidean skewness grows with d, and more for normal rows than for uniform ones."""

    def skewness(rows: torch.Tensor) -> float:
        index = ExactIndex(metric="euclidean").fit(rows)
        return hubness_of(index.self_join(5, want="any"), torch.arange(len(rows))).hubness

    normal = skewness(torch.randn(1500, 60, generator=generator))
    uniform = skewness(torch.rand(1500, 60, generator=generator))
    plane = skewness(torch.rand(1500, 3, generator=generator))
    assert normal > uniform > plane
    assert plane < 0.5


def test_k_must_leave_neighbours_to_find():
    with pytest.raises(ValueError, match="hubness_k must be below the number of rows, got 5 for 5 rows"):
        probe_embeddings(torch.eye(5), index=ExactIndex(), hubness_k=5)
    with pytest.raises(ValueError, match="hubness_k must be at least 1, got 0"):
        probe_embeddings(torch.eye(5), index=ExactIndex(), hubness_k=0)
