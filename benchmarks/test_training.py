"""What embedding passes and rounds of mining cost: workers on files, and mining's share of an epoch on Omniglot.

Times are of the wall, since workers are processes of their own: run on a quiet machine of two cores or more.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from memory import peak_mb
from torch import nn

from legolas_metric import EmbeddingBank, FullHardMiner, SupConLoss
from legolas_metric.datasets import split_omniglot
from legolas_metric.encoders import Conv4
from legolas_metric.training import MiningLoop
from legolas_metric.training.embedder import Placed

FILES, SIDE = 1200, 256


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Files:
    """Compressed pictures on disk, which are read, decompressed and normalised as a training set's are."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / f"{number}.npz" for number in range(FILES)]
        rng = np.random.default_rng(0)
        for path in self.paths:
            np.savez_compressed(path, picture=rng.integers(0, 32, (3, SIDE, SIDE), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> torch.Tensor:
        picture = torch.from_numpy(np.load(self.paths[row])["picture"]).float() / 255
        small = nn.functional.interpolate(picture[None], size=64, mode="bilinear", antialias=True)[0]
        return (small - small.mean()) / small.std()


def test_two_workers_read_files(benchmark, tmp_path):
    """The claim: num_workers=2 takes at most 1 / 1.6 of the time of one process, on two cores."""
    files, labels = Files(tmp_path), torch.arange(FILES) // 10
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 64))

    def seconds(workers: int) -> float:
        begin = time.perf_counter()
        EmbeddingBank.encode(net, files, labels=labels, num_workers=workers, batch_size=64, progress=False)
        return time.perf_counter() - begin

    seconds(0)  # the files are in the system's memory from here on
    pairs = [(seconds(0), seconds(2)) for _ in range(3)]
    one, two = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    benchmark.extra_info |= {"one_process_s": one, "two_workers_s": two, "speed_up": one / two}
    benchmark.extra_info |= {"cores": os.cpu_count() or 0, "load_before": os.getloadavg()[0]}
    benchmark.pedantic(seconds, args=(2,), rounds=1)


def test_minings_share_of_an_epoch(benchmark, full):
    """The claim: mining and planning take under 5 % of an epoch on Omniglot, beside the embedding pass."""
    train, _ = split_omniglot()
    train = train if full else train.take(torch.arange(2000))
    loop = MiningLoop(train, train.labels, miner=FullHardMiner(), batch_size=128, progress=False)
    encoder, loss = Conv4(), SupConLoss()
    optimizer = torch.optim.AdamW(encoder.parameters(), 1e-3)

    def epoch() -> None:
        for x, y, _ in loop.epoch(encoder):
            optimizer.zero_grad()
            loss(encoder(x), y).backward()
            optimizer.step()

    epoch()
    begin = time.perf_counter()
    benchmark.pedantic(epoch, rounds=1)
    whole = time.perf_counter() - begin
    last = loop.last
    mining = last.mine_seconds + last.plan_seconds
    benchmark.extra_info |= {
        "rows": len(train),
        "epoch_s": whole,
        "embedding_s": last.encode_seconds,
        "mining_s": last.mine_seconds,
        "planning_s": last.plan_seconds,
        "share_without_embedding": mining / (whole - last.encode_seconds),
    }


def test_memory_of_a_refresh(benchmark):
    """The claim: a first embedding and a rewrite each take one bank and one batch."""
    n, d = 200_000, 256
    rows = torch.randn(n, 8)
    net = nn.Linear(8, d)
    loop = MiningLoop(rows, torch.arange(n) // 10, miner=FullHardMiner(), embed_dataset=rows, progress=False)
    bank = []
    first = peak_mb(lambda: bank.append(loop.embedder.embed(Placed(net), step=0)))
    again = peak_mb(lambda: loop.embedder.rewrite(bank[0], Placed(net), step=1))
    benchmark.extra_info |= {"bank_mib": n * d * 4 / 2**20, "first_mib": first, "rewrite_mib": again}
    benchmark.pedantic(lambda: None, rounds=1)
