"""Probing a table: time beside a plain float32 Gram matrix and a full SVD, and agreement with the SVD.

The table is made once; `--full` adds hubness and the long stream of wide rows in constant memory.
"""

import resource

import numpy as np
import pytest
import torch

from legolas_metric import CollapseProbe, ExactIndex, probe_embeddings

N, D, CLASSES = 50_000, 128, 2_500


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, D, generator=generator) * torch.linspace(0.2, 2, D) + 0.2


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return torch.randint(0, CLASSES, (N,), generator=torch.Generator().manual_seed(1))


def effective_rank_by_svd(rows: torch.Tensor) -> float:
    unit = torch.nn.functional.normalize(rows.double())
    sigma = torch.linalg.svdvals(unit - unit.mean(0))
    p = sigma / sigma.sum()
    return float((-(p * p.log()).sum()).exp())


def note(benchmark, report, rows):
    benchmark.extra_info["error_of_effective_rank"] = abs(report.effective_rank - effective_rank_by_svd(rows))


def test_gram_matrix_in_float32(benchmark, rows):
    """The yardstick: one product of the table with itself, which every spectrum takes."""
    benchmark(lambda: rows.T @ rows)


def test_effective_rank_by_svd(benchmark, rows):
    benchmark.pedantic(effective_rank_by_svd, (rows,), rounds=3)


def test_probe(benchmark, rows):
    note(benchmark, benchmark(lambda: probe_embeddings(rows)), rows)


def test_probe_with_labels(benchmark, rows, labels):
    note(benchmark, benchmark(lambda: probe_embeddings(rows, labels)), rows)


def test_stream_in_batches_of_512(benchmark, rows, labels):
    def stream():
        probe = CollapseProbe()
        for x, y in zip(rows.split(512), labels.split(512)):
            probe.update(x, y)
        return probe.compute()

    note(benchmark, benchmark.pedantic(stream, rounds=3), rows)


def test_hubness(benchmark, rows, full):
    table = rows if full else rows[:5_000]
    report = benchmark.pedantic(lambda: probe_embeddings(table, index=ExactIndex()), rounds=1)
    benchmark.extra_info |= {"n": len(table), "hubness": report.hubness, "of_iid_rows": report.baseline.hubness}


def test_hubness_of_normal_rows_is_that_of_the_paper(benchmark, full):
    """19.2 (normal) and 5.45 (uniform) at n = 10^4, d = 100, k = 5, Euclidean."""
    if not full:
        pytest.skip("10,000 rows take some seconds: pass --full")
    from legolas_metric import hubness_of

    rng = np.random.default_rng(0)
    tables = {"normal": rng.normal(size=(10_000, 100)), "uniform": rng.random((10_000, 100))}

    def skewness():
        return {
            name: hubness_of(ExactIndex(metric="euclidean").fit(table).self_join(5, want="any"), range(10_000)).hubness
            for name, table in tables.items()
        }

    benchmark.extra_info |= benchmark.pedantic(skewness, rounds=1)


def test_stream_of_100k_rows_of_4096(benchmark, full):
    if not full:
        pytest.skip("100,000 rows of 4,096 take some minutes: pass --full")
    generator = torch.Generator().manual_seed(0)

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def stream():
        probe = CollapseProbe()
        for number in range(200):
            batch = torch.randn(500, 4096, generator=generator)
            probe.update(batch, (torch.arange(500) + 500 * number) % 1000)
            if number == 1:
                benchmark.extra_info["peak_mb_after_1k_rows"] = round(peak())
        benchmark.extra_info["peak_mb_after_100k_rows"] = round(peak())
        return probe.compute()

    report = benchmark.pedantic(stream, rounds=1)
    benchmark.extra_info |= {"peak_mb_after_compute": round(peak()), "effective_rank": report.effective_rank}
