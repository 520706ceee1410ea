"""Label-free measures against closed forms, the original definitions and iid samples."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import begin, python, start

from legolas_metric import CollapseProbe, CollapseReport, EmbeddingBank, ExactIndex, hubness_of, probe_embeddings
from legolas_metric.budgets import BLOCK
from legolas_metric.distributed import World
from legolas_metric.probes.collapse import iid_report
from legolas_metric.probes.plane import principal_plane
from legolas_metric.probes.spectrum import decay


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


STREAMED = [
    name
    for name, value in probe_embeddings(torch.randn(9, 3), [0, 0, 0, 1, 1, 1, 2, 2, 2]).scalars().items()
    if value is not None and name not in ("uniformity", "nearest_share", "nc4", "class_effective_rank")
]


def labelled_rows(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Uneven classes, some rows unlabelled, a mean far from 0, axes of different length."""
    y = torch.randint(-1, 12, (400,), generator=generator).square() % 37
    y[::9] = -1
    x = torch.randn(37, 24, generator=generator)[y] + torch.randn(400, 24, generator=generator)
    return x * torch.linspace(0.1, 2, 24) + 0.3, y


def assert_same(report: CollapseReport, other: CollapseReport) -> None:
    for name in STREAMED:
        value = getattr(other, name)
        assert getattr(report, name) == pytest.approx(value, rel=1e-9, abs=1e-9), name
    torch.testing.assert_close(report.spectrum, other.spectrum, rtol=1e-9, atol=1e-9)
    assert (report.verdict, report.evidence) == (other.verdict, other.evidence)
    for name in ("uniformity", "nearest_share", "nc4", "class_effective_rank", "class_ranks", "hubness"):
        assert getattr(report, name) is None


def test_batches_give_what_the_table_gives(generator):
    x, y = labelled_rows(generator)
    order = torch.randperm(len(x), generator=generator)
    whole, probe = probe_embeddings(x, y), CollapseProbe()
    for part in order.split([1, 7, 300, 92]):
        assert probe.update(x[part], y[part]) is probe
    assert len(STREAMED) >= 17
    assert_same(probe.compute(), whole)
    assert_same(probe.compute(), whole)  # compute() takes nothing away


def test_probes_merge_by_addition(generator):
    x, y = labelled_rows(generator)
    parts = [CollapseProbe().update(x[rows], y[rows]) for rows in torch.arange(400).split([50, 150, 200])]
    joint = CollapseProbe().merge(parts[0]).merge(CollapseProbe()).merge(parts[1]).merge(parts[2])
    assert_same(joint.compute(), probe_embeddings(x, y))
    assert parts[1].compute().n == 150


def test_rows_without_labels_stay_out_of_the_classes_only(generator):
    x, y = labelled_rows(generator)
    y[200:] = -1
    probe = CollapseProbe().update(x[:200], y[:200]).update(x[200:])
    assert_same(probe.compute(), probe_embeddings(x, y))
    plain = probe_embeddings(x)
    assert probe.compute().effective_rank == pytest.approx(plain.effective_rank, rel=1e-9)
    assert probe.compute().class_share == pytest.approx(probe_embeddings(x[:200], y[:200]).class_share, rel=1e-9)


def _process(rank: int, size: int, port: int) -> None:
    begin(rank, size, port)
    x, y = labelled_rows(torch.Generator().manual_seed(7))
    own = CollapseProbe()
    if rank < 2:  # the third process has no rows
        own.update(x[rank::2], y[rank::2])
    joint = own.reduced(World.current(averages_gradients=False))
    assert_same(joint.compute(), probe_embeddings(x, y))
    if rank < 2:
        assert own.compute().n == 200
    dist.destroy_process_group()


def test_processes_reduce_to_one():
    start(_process, 3)


def test_a_single_process_reduces_to_itself(generator):
    x, y = labelled_rows(generator)
    assert_same(CollapseProbe().update(x, y).reduced(World()).compute(), probe_embeddings(x, y))
    with pytest.raises(ValueError, match="rows of one d, got no rows on any"):
        CollapseProbe().reduced(World())


def test_any_float_width_layout_and_scale(generator):
    x = torch.randn(60, 8, generator=generator)
    whole = probe_embeddings(x).effective_rank
    assert probe_embeddings(x.numpy().astype(np.float64)).effective_rank == pytest.approx(whole, rel=1e-12)
    assert probe_embeddings(x.T.contiguous().T).effective_rank == pytest.approx(whole, rel=1e-12)
    assert probe_embeddings(x * 1e-20).effective_rank == pytest.approx(whole, rel=1e-6)
    assert probe_embeddings(x * 1e18).effective_rank == pytest.approx(whole, rel=1e-6)
    assert probe_embeddings(x.half()).effective_rank == pytest.approx(whole, rel=1e-3)
    assert probe_embeddings(x.clone().requires_grad_()).effective_rank == whole


def test_decay_of_a_power_law():
    values = torch.arange(1, 101, dtype=torch.float64).pow(-1.7)
    alpha, (first, last) = decay(values)
    assert alpha == pytest.approx(1.7)
    assert (first, last) == (6, 50)
    assert decay(torch.tensor([3.0, 2.0, 0.0], dtype=torch.float64)) is None


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
    with pytest.raises(ValueError, match="the other probe has 3 dimensions, this one 2"):
        CollapseProbe().update(torch.eye(2)).merge(CollapseProbe().update(torch.eye(3)))


def test_one_row_or_two_have_no_verdict_and_no_perfect_figures():
    """A mean cosine, a spread, a skewness of so few rows is undefined, and never the best value there is."""
    for n in (1, 2):
        report = probe_embeddings(torch.randn(n, 5), torch.arange(n))
        assert report.verdict is None
        assert "a verdict needs 3 rows" in report.evidence[0]
        assert CollapseProbe().update(torch.randn(n, 5)).compute().verdict is None
        for name in ("nc1", "nc4", "nearest_share", "within_class_spread", "nc2_norms", "nc2_cosines", "lidar"):
            assert getattr(report, name) is None, name
    one = probe_embeddings(torch.randn(1, 5))
    for name in ("mean_cosine", "effective_rank", "top1_variance", "participation_ratio", "norm_std"):
        assert np.isnan(getattr(one, name)), name
    with pytest.raises(ValueError, match="reference is a report of 1 rows, which tell nothing"):
        probe_embeddings(torch.randn(9, 5), reference=one)


def test_what_would_be_perfect_for_any_rows_is_none():
    """Classes of one row have no spread within; two classes are a simplex, one class is always found."""
    x = torch.randn(12, 5)
    alone, two, one = (probe_embeddings(x, y) for y in (torch.arange(12), torch.arange(12) % 2, torch.zeros(12).long()))
    assert (alone.within_class_spread, alone.nc1, alone.nc4, alone.nearest_share) == (None,) * 4
    assert (two.nc2_norms, two.nc2_cosines) == (None, None)
    assert two.nc4 is not None
    assert (one.nc4, one.nearest_share) == (None, None)
    for report in (alone, two, one):
        mine, chance = report.scalars(), report.baseline.scalars()
        assert {name for name in mine if mine[name] is None} == {
            name for name in chance if chance[name] is None and name not in ("norm_mean", "norm_std")
        }


@pytest.mark.parametrize("scale", [1e20, 2.0**60, 1e-30, 1e-38])
def test_the_length_of_rows_bends_nothing(scale, generator):
    x, y = torch.randn(300, 16, generator=generator), torch.arange(300) // 6
    plain, scaled = probe_embeddings(x, y, index=ExactIndex()), probe_embeddings(x * scale, y, index=ExactIndex())
    for name, value in plain.scalars().items():
        factor = scale if name.startswith("norm") else 1
        assert getattr(scaled, name) == (
            value if value is None else pytest.approx(value * factor, rel=1e-4, abs=1e-5)
        ), name
    assert scaled.verdict == plain.verdict
    assert principal_plane(x * scale).shares == pytest.approx(principal_plane(x).shares, rel=1e-5)


def test_a_bank_stands_for_its_rows_and_labels(generator):
    x, y = torch.randn(60, 8, generator=generator), torch.arange(60) // 6
    bank = EmbeddingBank(x, y)
    assert probe_embeddings(bank).scalars() == probe_embeddings(bank.embeddings, y).scalars()
    found = ExactIndex().fit(bank.embeddings, ids=bank.ids).self_join(3, want="any")
    assert hubness_of(found, bank) == hubness_of(found, bank.ids)
    with pytest.raises(ValueError, match="labels were given beside a bank"):
        probe_embeddings(bank, y)


def test_a_report_prints_as_a_table_and_as_html():
    report = probe_embeddings(torch.randn(30, 4), torch.arange(30) // 3)
    assert len(str(report).splitlines()) < 25
    assert str(report).startswith(f"{report.verdict}: 30 rows of 4, 10 classes")
    assert "| effective_rank |" in repr(report)
    assert report._repr_html_().count("<tr>") == 1 + len(report.table().rows)


def test_memory_is_what_the_formula_says():
    """400,000 rows of 64 in 2,500 classes, in a process of its own: 32 d^2 + 40 C d + 120 n bytes and two blocks."""
    n, d, classes = 400_000, 64, 2_500
    code = f"""
import resource, torch
from legolas_metric import probe_embeddings
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
x, y = torch.rand({n}, {d}), torch.arange({n}) % {classes}
probe_embeddings(x[:5000], y[:5000])
before = peak()
probe_embeddings(x, y)
print(peak() - before)
"""
    done = python("-c", code, check=True)
    assert int(done.stdout) < 32 * d**2 + 40 * classes * d + 120 * n + 2 * BLOCK
