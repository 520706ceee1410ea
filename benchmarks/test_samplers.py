"""Planning an epoch: processor time, and what the epoch is worth, beside pytorch-metric-learning's sampler.

Times are processor seconds of one thread, so that what else the machine does counts less. Each row notes in
`extra_info` what was counted: batches, rows, classes and examples that an epoch reaches, how hard its negatives are.
"""

import time

import numpy as np
import pytest
import torch
from pytorch_metric_learning.samplers import MPerClassSampler

from legolas_metric import (
    EmbeddingBank,
    FullHardMiner,
    HardMiner,
    MiningStats,
    NeighborPKSampler,
    PKSampler,
    RandomMiner,
    Triplets,
    TripletSampler,
)
from legolas_metric.datasets import load_omniglot
from legolas_metric.records import SearchStats

pytestmark = pytest.mark.benchmark(timer=time.process_time)

P, K = 32, 4
SMALL, LARGE = "100k rows, 10k classes", "1M rows, 100k classes"
SIZES = {SMALL: (100_000, 10_000), LARGE: (1_000_000, 100_000)}
MINERS = {miner.__name__: miner for miner in (RandomMiner, HardMiner, FullHardMiner)}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def table(size):
    """Labels, about 10 rows a class, and groups, of 2 or 3 rows each."""
    rng = np.random.default_rng(0)
    n, classes = SIZES[size]
    return rng.integers(0, classes, n), rng.integers(0, 4, n)


def note(benchmark, sampler, labels, batches):
    rows = torch.cat(list(batches)).numpy()
    benchmark.extra_info |= {
        "batches": len(sampler),
        "rows": len(rows),
        "classes_reached": round(len(np.unique(labels[rows])) / len(np.unique(labels)), 4),
        "rows_reached": round(len(np.unique(rows)) / len(labels), 4),
    }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"distinct_groups": True}, {"weights": "sqrt"}, {"weights": "proportional"}],
    ids=["balanced", "groups", "sqrt", "proportional"],
)
def test_pk(benchmark, size, settings):
    labels, groups = table(size)

    def build():
        sampler = PKSampler(labels, P, K, groups=groups, short="repeat", **settings)
        return sampler, sampler.plan()

    sampler, batches = benchmark.pedantic(build, rounds=2)
    note(benchmark, sampler, labels, batches)


@pytest.mark.parametrize("size", SIZES)
def test_pml_m_per_class(benchmark, size, full):
    if size == LARGE and not full:
        pytest.skip("over a minute: it shuffles the list of all classes for each batch (--full)")
    labels, _ = table(size)
    epoch = -(-SIZES[size][1] // P) * P * K

    def build():
        sampler = MPerClassSampler(labels, K, P * K, epoch)
        return torch.tensor(list(sampler)).split(P * K)

    batches = benchmark.pedantic(build, rounds=1)
    note(benchmark, batches, labels, batches)


def test_neighbor_pk(benchmark):
    labels, _ = table(LARGE)
    rows = torch.randn(len(labels), 64, generator=torch.Generator().manual_seed(0))
    bank = EmbeddingBank(rows, labels)

    def build():
        sampler = NeighborPKSampler(bank, P, K, short="repeat", batches_per_epoch=-(-SIZES[LARGE][1] // P))
        return sampler, sampler.plan()

    sampler, batches = benchmark.pedantic(build, rounds=2)
    note(benchmark, sampler, labels, batches)


def test_triplets(benchmark):
    """A triplet of each row: its positive of the same class, its negative from the next 20 classes."""
    labels, _ = table(LARGE)
    order, place = np.argsort(labels, kind="stable"), np.arange(len(labels))
    far = np.random.default_rng(1).integers(10, 200, len(labels))
    rows = (order, order[(place + 1) % len(order)], order[(place + far) % len(order)])
    nothing = torch.zeros(len(labels))
    stats = MiningStats(anchors=len(labels), search=SearchStats(engine="none"), seconds=0.0)
    triplets = Triplets(*map(torch.from_numpy, rows), nothing, nothing, stats)

    def build():
        sampler = TripletSampler(triplets, P * K)
        return sampler, sampler.plan()

    sampler, batches = benchmark.pedantic(build, rounds=2)
    note(benchmark, sampler, labels, batches)
    benchmark.extra_info["triplets_a_batch"] = round(len(triplets) / len(sampler), 1)


# What the batches are worth, on the pixels of Omniglot (14 x 14 means, cosine: an encoder that has learned nothing)


@pytest.fixture(scope="module")
def characters():
    data = load_omniglot()
    pixels = torch.nn.functional.avg_pool2d(data.images.float()[:, None], 2).flatten(1)
    return EmbeddingBank(pixels, data.labels)


def hardness(bank, batches):
    """Mean over anchors of the highest similarity to a negative in the batch."""
    found = []
    for batch in batches:
        rows, labels = bank.embeddings[batch], bank.labels[batch]
        found.append((rows @ rows.T).masked_fill(labels[:, None] == labels, -1).amax(1))
    return float(torch.cat(found).mean())


@pytest.mark.parametrize("pool", [None, 15, 30, 60, 120], ids=lambda pool: f"pool={pool}" if pool else "random")
def test_hardness_on_omniglot(benchmark, characters, pool):
    p, k = 16, 4

    def build():
        if pool is None:
            return PKSampler(characters.labels, p, k).plan()
        return NeighborPKSampler(characters, p, k, pool=pool).plan()

    batches = benchmark.pedantic(build, rounds=1)
    visits = torch.cat(list(batches)).bincount(minlength=len(characters))
    benchmark.extra_info |= {
        "batches": len(batches),
        "top_negative": round(hardness(characters, batches), 4),
        "rows_reached": round(float((visits > 0).float().mean()), 4),
    }


@pytest.fixture(scope="module")
def mined(characters):
    return {name: miner().mine(characters) for name, miner in MINERS.items()}


@pytest.mark.parametrize("batch_size", [64, 128, 512])
@pytest.mark.parametrize("miner", MINERS)
def test_packing_on_omniglot(benchmark, characters, mined, miner, batch_size):
    triplets = mined[miner]
    sampler = TripletSampler(triplets, batch_size)
    batches = benchmark.pedantic(sampler.plan, rounds=1)
    located = sum(len(triplets.locate(batch)[0]) for batch in batches)
    benchmark.extra_info |= {
        "triplets_a_batch": round(len(triplets) / len(batches), 1),
        "without_sharing": batch_size // 3,
        "located_a_batch": round(located / len(batches), 1),
        "rows_a_triplet": round(sum(map(len, batches)) / len(triplets), 2),
        "fill": round(sum(map(len, batches)) / (len(batches) * batch_size), 3),
        "classes_a_batch": round(float(np.mean([len(characters.labels[b].unique()) for b in batches])), 1),
    }
