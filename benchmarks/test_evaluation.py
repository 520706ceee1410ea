"""Ranking and verification, beside pytorch-metric-learning's AccuracyCalculator in the same run.

Each row notes how far the shared measures lie apart. `--full` adds n = 20,000 and the memory at n = 50,000.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from legolas_metric import evaluate_ranking, evaluate_verification

D, PER_CLASS = 128, 20
TOP = {"precision_at_1": "rank_at_1", "r_precision": "r_precision", "mean_average_precision_at_r": "map_at_r"}
FULL = TOP | {"mean_average_precision": "mean_average_precision"}

MEMORY = """
import torch
from memory import peak_mb
from legolas_metric import evaluate_ranking
generator = torch.Generator().manual_seed(0)
labels = torch.arange({n}) // 20
rows = torch.randn({n}, 128, generator=generator)
evaluate_ranking(rows[:9000], labels[:9000], full={full})
print(peak_mb(lambda: evaluate_ranking(rows, labels, full={full})))
"""


def table(n):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) // PER_CLASS
    centres = torch.randn(n // PER_CLASS, D, generator=generator)
    rows = 0.5 * centres[labels] + torch.randn(n, D, generator=generator)
    return torch.nn.functional.normalize(rows), labels


def skip_unless(wanted, full):
    if wanted and not full:
        pytest.skip("a long table: pass --full")


@pytest.mark.parametrize(("n", "whole", "long"), [(5_000, True, False), (20_000, False, True)])
def test_ranking(benchmark, full, n, whole, long):
    """Ours and theirs in turns; the table shows ours, and the ratio of the medians stands below it."""
    skip_unless(long, full)
    rows, labels = table(n)
    benchmark.group = f"ranking, n={n}, {'whole' if whole else 'first R'}"
    evaluate_ranking(rows, labels, full=whole)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    theirs = {}
    for _ in range(2 if whole else 5):
        theirs |= timed(seconds["theirs"], lambda: calculator(whole).get_accuracy(rows, labels))
        timed(seconds["ours"], lambda: evaluate_ranking(rows, labels, full=whole))
    report = benchmark.pedantic(evaluate_ranking, (rows, labels), {"full": whole}, rounds=3)
    names = FULL if whole else TOP
    medians = {who: statistics.median(taken) for who, taken in seconds.items()}
    benchmark.extra_info |= {
        "accuracy_calculator_s": medians["theirs"],
        "times_as_fast": medians["theirs"] / medians["ours"],
        "difference": max(abs(report.shares()[own] - theirs[name]) for name, own in names.items()),
    }


def timed(seconds, call):
    start = time.perf_counter()
    result = call()
    seconds.append(time.perf_counter() - start)
    return result


def calculator(whole):
    names = tuple(FULL if whole else TOP)
    return AccuracyCalculator(include=names, k=None if whole else "max_bin_count", device=torch.device("cpu"))


@pytest.mark.parametrize(("n", "long"), [(5_000, False), (20_000, True)])
@pytest.mark.parametrize("exact", [True, False])
def test_verification(benchmark, full, n, long, exact):
    skip_unless(long, full)
    rows, labels = table(n)
    benchmark.group = f"verification, n={n}"
    report = benchmark.pedantic(evaluate_verification, (rows, labels), {"exact": exact}, rounds=3, warmup_rounds=1)
    benchmark.extra_info["pairs_per_second"] = (report.genuine + report.impostor) / benchmark.stats["median"]
    benchmark.extra_info["auc_error"] = report.auc_error


@pytest.mark.parametrize("whole", [False, True])
def test_memory_above_the_input(benchmark, full, whole):
    """In a process of its own, which has loaded and compiled what it needs on fewer rows."""
    skip_unless(True, full)
    script = MEMORY.format(n=50_000, full=whole)
    command = ([sys.executable, "-c", script],)
    options = {"capture_output": True, "check": True, "cwd": Path(__file__).parent}
    done = benchmark.pedantic(subprocess.run, command, options, rounds=1)
    benchmark.extra_info["peak_mb_above_input"] = float(done.stdout)


PAIRS = """
import resource, time, torch
from legolas_metric import evaluate_verification
generator = torch.Generator().manual_seed(0)
labels = torch.arange(200_000) // 20
rows = torch.randn(200_000, 128, generator=generator) + 0.5 * torch.randn(10_000, 128, generator=generator)[labels]
start = time.perf_counter()
report = evaluate_verification(rows, labels, exact=False)
seconds = time.perf_counter() - start
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, report.genuine + report.impostor)
"""


def test_all_pairs_of_many_rows_on_the_grid(benchmark, full):
    """200,000 rows of 128 in a process of its own: within four minutes and 2 GB on two cores."""
    skip_unless(True, full)
    command = ([sys.executable, "-c", PAIRS],)
    options = {"capture_output": True, "check": True, "env": {**os.environ, "OMP_NUM_THREADS": "2"}}
    done = benchmark.pedantic(subprocess.run, command, options, rounds=1)
    seconds, peak, pairs = map(float, done.stdout.split())
    assert pairs == 200_000 * 199_999 // 2
    benchmark.extra_info |= {"seconds": seconds, "peak_mb": peak}
    assert seconds < 240
    assert peak < 2_000


PROMISED = """
import torch
from memory import peak_mb
from legolas_metric import evaluate_ranking, evaluate_verification
from legolas_metric.index.exact.warm_up import warm_up
n, c = {n}, {c}
rows, labels = torch.randn(n, 64, generator=torch.Generator().manual_seed(0)), torch.arange(n) // c
warm_up()
{call}(rows[:2000], torch.arange(2000) // 4)
print(peak_mb(lambda: {call}(rows, labels)))
"""


@pytest.mark.parametrize(
    ("call", "n", "c", "promised", "long"),
    [
        ("evaluate_ranking", 50_000, 5, 24 * 64 * 50_000 + 128e6 + 50_000 * (8 * 5 * 11 + 1_200 + 72 * 10), False),
        ("evaluate_ranking", 200_000, 5, 24 * 64 * 200_000 + 128e6 + 200_000 * (8 * 5 * 11 + 1_200 + 72 * 10), True),
        ("evaluate_verification", 4_000, 1_000, 24 * 64 * 4_000 + 128e6 + 206 * 4 * 499_500, False),
        ("evaluate_verification", 4_000, 2_000, 24 * 64 * 4_000 + 128e6 + 206 * 2 * 1_999_000, True),
    ],
)
def test_peaks_are_what_the_docstrings_promise(full, call, n, c, promised, long):
    """On one thread, in a process of its own, which has loaded what it needs on fewer rows."""
    skip_unless(long, full)
    script = PROMISED.format(call=call, n=n, c=c)
    where, one = Path(__file__).parent, {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, cwd=where, env=one)
    took = done.stdout.decode().strip()
    assert took == "None" or 0.3 * promised < float(took) * 2**20 < promised
