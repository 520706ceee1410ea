"""Forward and backward of the pair losses against PML in the same run, alternating; peak memory beside the time.

d = 128, four per class, float32; `ratio` is PML's median over ours. PML is left out where it would list millions of
triplets.
"""

import statistics
import time

import pytest
import torch
from memory import peak_mb
from pytorch_metric_learning import losses, miners

from legolas_metric.losses import MultiSimilarityLoss, SupConLoss, TripletLoss

hard = miners.BatchHardMiner()
pml_triplet = losses.TripletMarginLoss(margin=0.2)

PAIRS = {
    "supcon": (SupConLoss(), losses.SupConLoss(), 2048),
    "multi-similarity": (MultiSimilarityLoss(), losses.MultiSimilarityLoss(), 2048),
    "triplet, all": (TripletLoss(selection="all"), pml_triplet, 512),
    "triplet, hard": (TripletLoss(), lambda x, y: pml_triplet(x, y, hard(x, y)), 2048),
}
SIZES = (256, 512, 1024, 2048, 8192, 32768)


def step(loss, x, y):
    x.grad = None
    start = time.perf_counter()
    loss(x, y).backward()
    return time.perf_counter() - start


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", PAIRS)
def test_loss(benchmark, name, n, full):
    if not full and n not in (512, 2048):
        pytest.skip("--full only")
    if n > 2048 and name.startswith("triplet"):
        pytest.skip("a batch of triplets is not as large")
    ours, theirs, largest = PAIRS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 128, generator=generator, requires_grad=True)
    y = (torch.arange(n) // 4)[torch.randperm(n, generator=generator)]
    rounds = 9 if n <= 2048 else 1
    seconds, pml_seconds = [], []
    for _ in range(rounds + (n <= 2048)):
        seconds.append(step(ours, x, y))
        if n <= largest:
            pml_seconds.append(step(theirs, x, y))
    benchmark.extra_info.update(
        n=n, seed=0, ours_ms=1e3 * statistics.median(seconds), ours_peak_mb=peak_mb(lambda: step(ours, x, y))
    )
    if pml_seconds:
        value, expected = ours(x, y).item(), theirs(x, y).item()
        benchmark.extra_info.update(
            pml_ms=1e3 * statistics.median(pml_seconds),
            ratio=statistics.median(pml_seconds) / statistics.median(seconds),
            pml_peak_mb=peak_mb(lambda: step(theirs, x, y)),
            difference=abs(value - expected) / expected,
        )
    benchmark.pedantic(step, (ours, x, y), rounds=rounds, warmup_rounds=0)
