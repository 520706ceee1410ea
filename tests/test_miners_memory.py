"""Peaks of memory that the docstrings promise, of large cases; and a k beyond the rows that there are."""

import pytest
from processes import python

MEASURE = """
import ctypes, resource, torch
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: no page is larger than what is asked for, on any machine
from legolas_metric import *
g = torch.Generator().manual_seed(0)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def rows(n, classes, d=16):
    return torch.randn(n, d, generator=g), torch.arange(n) % classes
FullHardMiner()(*rows(512, 64)); SemiHardMiner().mine(EmbeddingBank(*rows(64, 8)))
{case}
print(peak() - before, size)
"""
CASES = {
    # 600 rows of two classes: 180,000 pairs; at 1,000 rows once 2.6 GB. benchmarks/test_miners.py has two million
    "every positive of a bank": (
        "x, y = rows(600, 2); bank = EmbeddingBank(x, y); before = peak()\n"
        "size = len(SemiHardMiner(positive='all').mine(bank))",
        lambda triplets: 64 * triplets + (300 << 20),
    ),
    # 4,096 rows: most pairs are kept, 16 bytes each
    "pairs of a batch": (
        "x, y = rows(4096, 64); before = peak()\n"
        "found = MultiSimilarityMiner()(x, y); size = len(found[0]) + len(found[2])",
        lambda pairs: 16 * pairs + 4096**2 + (100 << 20),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_peak_is_what_is_promised(name):
    case, promised = CASES[name]
    code = MEASURE.format(case=case)
    done = python("-c", code, check=True)
    used, size = map(int, done.stdout.split())
    assert size > 100_000
    assert used < promised(size)


def test_ranks_and_neighbours_beyond_the_rows_are_clipped():
    code = MEASURE.format(
        case="x, y = rows(300, 10); bank = EmbeddingBank(x, y); before = peak()\n"
        "miner = HardMiner(ranks=(1, 10**6), guard=FalseNegativeGuard(neighbours=10**6, depth=10**6))\n"
        "size = len(miner.mine(bank)); size += len(miner(x, y)[0])\n"
        "size += len(HardMiner(per_anchor=10**6).mine(bank)) + len(RandomMiner(per_anchor=299)(x, y)[0])"
    )
    done = python("-c", code, check=True)
    used, size = map(int, done.stdout.split())
    assert size == 600 + 2 * 300 * 270
    assert used < 200 << 20
