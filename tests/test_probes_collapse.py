"""Label-free measures against closed forms, the original definitions and iid samples."""

import numpy as np
import pytest
import torch

from legolas_metric import CollapseProbe, probe_embeddings
from legolas_metric.probes.collapse import iid_report


def unit_rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=1, keepdim=True)


def oracle(x: np.ndarray) -> dict[str, float]:
    """The definitions, by loops over pairs and a full SVD."""
    x = x.astype(np.float64)
    x = x / np.sqrt((x**2).sum(1, keepdims=True))
    n = len(x)
    cosines = [x[i] @ x[j] for i in range(n) for j in range(n) if i != j]
    centred = x - x.mean(0)
    covariance = centred.T @ centred / n
    values = np.linalg.eigvalsh(covariance)

    def rank(matrix):
        sigma = np.linalg.svd(matrix, compute_uv=False)
        p = sigma / sigma.sum()
        p = p[p > 1e-12]
        return np.exp(-(p * np.log(p)).sum())

    return {
        "mean_cosine": np.mean(cosines),
        "resultant_length": np.linalg.norm(x.mean(0)),
        "effective_rank": rank(centred),
        "effective_rank_uncentred": rank(x),
        "top1_variance": values[-1] / values.sum(),
        "participation_ratio": np.trace(covariance) ** 2 / (covariance**2).sum(),
    }


@pytest.mark.parametrize(("n", "d"), [(30, 5), (12, 40), (2, 3), (40, 1)])
def test_equals_the_definitions(n, d):
    rng = np.random.default_rng(n)
    x = (rng.normal(size=(n, d)) * rng.uniform(0.2, 3, size=d) + 0.5).astype(np.float32)
    report = probe_embeddings(x)
    for name, value in oracle(x).items():
        assert getattr(report, name) == pytest.approx(value, abs=1e-9), name
    centred = x.astype(np.float64)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    centred -= centred.mean(0)
    sigma = np.linalg.svd(centred, compute_uv=False)[: min(n - 1, d)]
    np.testing.assert_allclose(report.spectrum.numpy(), sigma, atol=1e-6)
    assert report.norm_mean == pytest.approx(np.linalg.norm(x.astype(np.float64), axis=1).mean())
    assert report.norm_std == pytest.approx(np.linalg.norm(x.astype(np.float64), axis=1).std(), abs=1e-6)


def test_one_point():
    report = probe_embeddings(torch.full((50, 6), 0.3))
    assert report.resultant_length == pytest.approx(1)
    assert report.mean_cosine == pytest.approx(1)
    assert (report.effective_rank, report.top1_variance, report.participation_ratio) == (1, 1, 1)
    assert report.verdict == "point collapse"


def test_a_line():
    report = probe_embeddings(torch.tensor([[3.0, 4.0, 0.0]]) * torch.linspace(-1, 1, 40)[:, None])
    assert report.resultant_length == pytest.approx(0, abs=1e-7)
    assert report.mean_cosine == pytest.approx(-1 / 39)
    for value in (report.effective_rank, report.effective_rank_uncentred, report.top1_variance):
        assert value == pytest.approx(1)


def test_k_orthogonal_clusters():
    """k points of n/k rows each, at right angles: k-1 equal centred singular values, k uncentred ones."""
    k, n = 5, 60
    report = probe_embeddings(torch.eye(8)[torch.arange(n) % k])
    assert report.mean_cosine == pytest.approx((n / k - 1) / (n - 1))
    assert report.resultant_length == pytest.approx(k**-0.5)
    assert report.effective_rank == pytest.approx(k - 1)
    assert report.effective_rank_uncentred == pytest.approx(k)
    assert report.participation_ratio == pytest.approx(k - 1)
    assert report.top1_variance == pytest.approx(1 / (k - 1))


@pytest.mark.parametrize(("n", "d"), [(1000, 2), (20, 3), (10, 30), (64, 64), (300, 64), (100, 400), (3000, 64)])
def test_the_baseline_is_what_iid_samples_give(n, d):
    samples = [probe_embeddings(unit_rows(n, d, seed)) for seed in range(200 if n * d <= 5000 else 8)]
    expected = iid_report(n, d, torch.zeros(0, dtype=torch.float64))
    for name, tolerance in [
        ("effective_rank", 0.01),
        ("effective_rank_uncentred", 0.01),
        ("participation_ratio", 0.04),
        ("top1_variance", 0.07),
    ]:
        mean = np.mean([getattr(sample, name) for sample in samples])
        assert getattr(expected, name) == pytest.approx(mean, rel=tolerance), name
    spectrum = torch.stack([sample.spectrum for sample in samples]).mean(0)
    assert float((expected.spectrum - spectrum).norm() / spectrum.norm()) < 0.06
    assert expected.mean_cosine == 0
    assert expected.resultant_length == pytest.approx(n**-0.5)
    assert expected.baseline is None


def test_iid_rows_are_healthy_and_stand_beside_their_baseline():
    report = probe_embeddings(unit_rows(500, 32))
    assert report.verdict == "healthy"
    assert report.baseline is not None
    assert report.baseline.effective_rank == pytest.approx(report.effective_rank, rel=0.01)
    assert len(report.baseline.spectrum) == len(report.spectrum) == 32


def test_rows_in_a_few_dimensions_are_a_dimensional_collapse(generator):
    x = torch.randn(400, 3, generator=generator) @ torch.randn(3, 64, generator=generator)
    report = probe_embeddings(x)
    assert report.verdict == "dimensional collapse"
    assert "effective rank" in report.evidence[0]
    assert report.remedy


def test_batches_give_what_the_table_gives(generator):
    x = torch.randn(300, 24, generator=generator) * torch.linspace(0.1, 2, 24) + 0.3
    whole, probe = probe_embeddings(x), CollapseProbe()
    for part in x.split([1, 7, 200, 92]):
        assert probe.update(part) is probe
    for name, value in whole.scalars().items():
        assert probe.compute().scalars()[name] == pytest.approx(value, rel=1e-9), name


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"all zero.*drop these rows"):
        probe_embeddings(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"NaN or inf.*in 1 of 2 rows"):
        probe_embeddings(torch.tensor([[1.0, 0.0], [torch.nan, 0.0]]))
    with pytest.raises(ValueError, match="labels has 1 entries for 2 rows"):
        probe_embeddings(torch.eye(2), [0])
    with pytest.raises(TypeError, match="labels must be integers"):
        probe_embeddings(torch.eye(2), [0.5, 1.0])
    with pytest.raises(ValueError, match="needs rows before compute"):
        CollapseProbe().compute()
    with pytest.raises(ValueError, match="embeddings has 3 dimensions, the rows before had 2"):
        CollapseProbe().update(torch.eye(2)).update(torch.eye(3))
