"""Measures from labels against loops over the definitions, closed forms, and iid samples."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from legolas_metric import probe_embeddings
from legolas_metric.probes.collapse import iid_report
from legolas_metric.probes.row_measures import iid_row_measures


def unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    return x / np.sqrt((x**2).sum(1, keepdims=True))


def root_of_inverse(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**-0.5) @ vectors.T


def perplexity(p: np.ndarray) -> float:
    p = p[p > 1e-12 * p.sum()] / p.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def oracle(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Row by row, pair by pair, as the papers write it; rows with label -1 do not take part."""
    x, y = unit(x)[y >= 0], y[y >= 0]
    n, d = x.shape
    classes = np.unique(y)
    means = {c: x[y == c].mean(0) for c in classes}
    middle = np.mean(list(means.values()), axis=0)
    within = sum(np.outer(row - means[c], row - means[c]) for row, c in zip(x, y)) / n
    between = sum(np.outer(mean - middle, mean - middle) for mean in means.values()) / len(classes)
    white = root_of_inverse(within + 1e-4 * np.eye(d))
    apart = [mean - middle for mean in means.values()]
    norms = [np.linalg.norm(a) for a in apart]
    cosines = [
        apart[i] @ apart[j] / norms[i] / norms[j] for i in range(len(apart)) for j in range(len(apart)) if i != j
    ]
    positives = [((x[i] - x[j]) ** 2).sum() for i in range(n) for j in range(n) if i != j and y[i] == y[j]]
    nearest = [classes[np.argmin([((row - means[c]) ** 2).sum() for c in classes])] for row in x]
    eta = 1 - np.trace(within) / ((x - x.mean(0)) ** 2).sum() * n
    chance = (len(classes) - 1) / (n - 1)
    ranks = {
        c: perplexity(np.linalg.svd(x[y == c] - means[c], compute_uv=False)) for c in classes if (y == c).sum() > 1
    }
    return {
        "classes": len(classes),
        "alignment": np.mean(positives),
        "within_class_spread": np.trace(within),
        "between_class_spread": np.trace(between),
        "class_share": (eta - chance) / (1 - chance),
        "lidar": perplexity(np.linalg.eigvalsh(white @ between @ white)),
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / len(classes),
        "nc2_norms": np.std(norms) / np.mean(norms),
        "nc2_cosines": np.std(cosines),
        "nc4": np.mean(nearest == y),
        "class_effective_rank": np.mean(list(ranks.values())),
    }


@pytest.mark.parametrize(("n", "d", "c"), [(60, 6, 4), (50, 12, 20), (40, 30, 3), (90, 5, 25)])
def test_equals_the_definitions(n, d, c):
    """More classes than dimensions and fewer, unequal sizes, unlabelled rows, labels that are not 0..C-1."""
    rng = np.random.default_rng(n)
    y = np.concatenate([np.arange(c), rng.integers(0, c, n - c)]) * 7 + 3
    x = (rng.normal(size=(c, d))[(y - 3) // 7] + 0.7 * rng.normal(size=(n, d))) * rng.uniform(0.3, 2, d)
    y[rng.permutation(np.arange(c, n))[:5]] = -1
    report = probe_embeddings(x, y, sample=None)
    for name, value in oracle(x.astype(np.float32), y).items():
        assert getattr(report, name) == pytest.approx(value, rel=1e-6, abs=1e-9), name


def test_uniformity_and_alignment_are_those_of_the_paper():
    """Wang and Isola's own code: `torch.pdist(x).pow(2).mul(-2).exp().mean().log()`, and mean |x - y|^2."""
    x = torch.nn.functional.normalize(torch.randn(80, 5, dtype=torch.float64) + 0.4)
    y = torch.arange(80) // 2
    report = probe_embeddings(x, y, sample=None)
    assert report.uniformity == pytest.approx(float(torch.pdist(x).pow(2).mul(-2).exp().mean().log()), abs=1e-6)
    assert report.alignment == pytest.approx(float((x[::2] - x[1::2]).norm(dim=1).pow(2).mean()), abs=1e-6)


def test_k_orthogonal_clusters_are_a_simplex():
    """By hand: k = 4 classes, each one point of the axes. mu = (1,1,1,1)/4, |mu_c - mu|^2 = 3/4, cosines -1/3."""
    k = 4
    report = probe_embeddings(torch.eye(6)[torch.arange(40) % k], torch.arange(40) % k)
    assert report.between_class_spread == pytest.approx(0.75)
    assert report.within_class_spread == pytest.approx(0, abs=1e-12)
    assert report.alignment == pytest.approx(0, abs=1e-12)
    assert report.class_share == pytest.approx(1)
    assert report.lidar == pytest.approx(k - 1)
    assert report.nc1 == pytest.approx(0, abs=1e-12)
    assert report.nc2_norms == pytest.approx(0, abs=1e-7)
    assert report.nc2_cosines == pytest.approx(0, abs=1e-7)
    assert report.nc4 == 1
    assert report.class_effective_rank == 1
    # Of the 39 other rows, 9 lie at d = 0 and 30 at d^2 = 2.
    assert report.uniformity == pytest.approx(math.log((9 + 30 * math.exp(-4)) / 39))


@pytest.mark.parametrize(("n", "d", "c"), [(400, 16, 40), (600, 32, 8), (1500, 24, 100), (600, 64, 150)])
def test_the_baseline_is_what_iid_samples_give(n, d, c):
    y = torch.arange(n) % c
    samples = [
        probe_embeddings(torch.randn(n, d, generator=torch.Generator().manual_seed(1000 + seed)), y, sample=None)
        for seed in range(40)
    ]
    expected = samples[0].baseline
    assert expected is not None
    for name, tolerance in [
        ("alignment", 0.01),
        ("within_class_spread", 0.01),
        ("between_class_spread", 0.05),
        ("lidar", 0.12),
        ("nc1", 0.12),
        ("nc2_norms", 0.12),
        ("nc2_cosines", 0.1),
        ("uniformity", 0.01),
        ("nc4", 0.1),
        ("class_effective_rank", 0.02),
    ]:
        mean = np.mean([getattr(sample, name) for sample in samples])
        assert getattr(expected, name) == pytest.approx(mean, rel=tolerance), name
    assert expected.class_share == 0
    assert np.mean([sample.class_share for sample in samples]) == pytest.approx(0, abs=0.005)


def test_uniformity_of_the_whole_circle_is_a_bessel_function():
    """E exp(-2 d^2) = exp(-4) I_0(4) for two points on a circle, and exp(-4) sinh(4) / 4 on a sphere."""
    none = torch.zeros(0, dtype=torch.float64)
    i0 = float(torch.special.i0(torch.tensor(4.0, dtype=torch.float64)))
    assert iid_row_measures(2, none, n=9).uniformity == pytest.approx(math.log(i0) - 4)
    assert iid_row_measures(3, none, n=9).uniformity == pytest.approx(math.log(math.sinh(4) / 4) - 4)


def test_ranks_of_single_classes():
    """A class on a line, one that fills the plane's four corners, one of a single row, one of one point."""
    x = torch.tensor(
        [
            [1.0, 0, 0],
            [-1.0, 0, 0],
            [0, 1.0, 0],
            [0, -1.0, 0],
            [1.0, 0, 0],
            [-1.0, 0, 0],
            [0, 0, 1.0],
            [1.0, 1, 1],
            [2.0, 2, 2],
        ]
    )
    report = probe_embeddings(x, [0, 0, 5, 5, 5, 5, 2, 9, 9])
    assert report.class_ranks == pytest.approx({0: 1.0, 5: 2.0, 9: 1.0})
    assert report.class_effective_rank == pytest.approx(4 / 3)


def test_a_draw_stays_near_the_whole_and_depends_on_its_seed_only():
    generator = torch.Generator().manual_seed(3)
    y = torch.randint(0, 40, (4000,), generator=generator)
    x = torch.randn(40, 16, generator=generator)[y] * 0.4 + torch.randn(4000, 16, generator=generator)
    whole = probe_embeddings(x, y, sample=None)
    drawn = [probe_embeddings(x, y, sample=1000, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0].scalars() == drawn[1].scalars()
    assert drawn[0].uniformity != drawn[2].uniformity
    assert drawn[0].uniformity == pytest.approx(whole.uniformity, rel=0.02)
    assert drawn[0].nc4 == pytest.approx(whole.nc4, abs=0.05)
    assert drawn[0].class_effective_rank == pytest.approx(whole.class_effective_rank, rel=0.02)
    assert len(drawn[0].class_ranks) < len(whole.class_ranks) == 40
    assert drawn[0].class_ranks.items() <= whole.class_ranks.items()


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=12), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_any_labels_give_a_report(labels, d):
    """One row, one class, classes of one row, nobody labelled, equal rows: figures in range or None, no error."""
    x = torch.randn(len(labels), d, generator=torch.Generator().manual_seed(len(labels)))
    for rows in (x, torch.ones_like(x)):
        report = probe_embeddings(rows, labels)
        for side in (report, report.baseline):
            for name, value in side.scalars().items():
                assert value is None or math.isfinite(value) or len(labels) == 1, name
            assert len(labels) == 1 or 1 <= side.effective_rank <= max(1, min(len(labels) - 1, d)) + 1e-9
        assert report.classes == len(set(labels) - {-1})


def test_labels_are_needed_for_what_takes_labels():
    report = probe_embeddings(torch.randn(20, 4))
    assert report.classes == 0
    for name in ("alignment", "class_share", "lidar", "nc1", "nc4", "class_effective_rank", "class_ranks"):
        assert getattr(report, name) is None
    assert report.uniformity is not None


def test_the_sample_must_hold_a_pair():
    with pytest.raises(ValueError, match="sample must be at least 2, got 1"):
        probe_embeddings(torch.eye(2), sample=1)


def test_nc1_of_iid_rows_has_a_pole_where_classes_and_dimensions_meet():
    assert iid_report(100, 9, torch.full((10,), 10.0, dtype=torch.float64)).nc1 is None


def test_the_nearest_share_is_rank_at_one_of_the_rows_drawn():
    """All rows drawn: Rank@1 of a full ranking, whatever is added to all rows; equal rows count with their share."""
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(120) % 17
    x = torch.nn.functional.normalize(
        torch.randn(17, 6, generator=generator)[y] + torch.randn(120, 6, generator=generator)
    )
    distance = torch.cdist(x.double(), x.double()).fill_diagonal_(9)
    right = float((y[distance.argmin(1)] == y).double().mean())
    assert probe_embeddings(x, y, sample=None).nearest_share == pytest.approx(right, abs=1e-9)
    assert probe_embeddings(torch.ones(120, 6), y).nearest_share == pytest.approx(
        float(torch.tensor([int((y == c).sum()) - 1 for c in y]).double().mean()) / 119
    )


def test_the_baseline_of_the_nearest_share_is_what_iid_rows_give():
    for n, c, sample in ((600, 30, None), (3000, 10, 256), (3000, 300, 256)):
        y = torch.arange(n) % c
        drawn = [
            probe_embeddings(torch.randn(n, 8, generator=torch.Generator().manual_seed(s)), y, sample=sample, seed=s)
            for s in range(40)
        ]
        mean = np.mean([report.nearest_share for report in drawn])
        assert drawn[0].baseline.nearest_share == pytest.approx(mean, rel=0.12), (n, c, sample)
