"""Exact mining against a flat FAISS search in the same run: time as a ratio, peak memory, and agreement of the answers.

`--full` prints the tables of docs/engine.md and writes them, dated, under benchmarks/results/.
"""

import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from memory import peak_mb

from legolas_metric import ExactIndex, Neighbors

RESULTS = Path(__file__).parent / "results"
PER_CLASS = 20
SEED = 0
JOBS = {
    "nearest": {"k": 1},
    "32 nearest": {"k": 32},
    "semi-hard": {"k": 1, "window": True},
}


def bank(kind: str, n: int, d: int) -> torch.Tensor:
    """Unit rows, 20 of a class, of a kind of data."""
    generator = torch.Generator().manual_seed(SEED)
    rows = torch.randn(n, d, generator=generator)
    centres = torch.randn(-(-n // PER_CLASS), d, generator=generator).repeat_interleave(PER_CLASS, 0)[:n]
    if kind == "clustered":
        rows = rows + 2 * centres
    elif kind == "collapsed":  # mean cosine 0.99
        rows = rows + 10 * torch.randn(1, d, generator=generator)
    elif kind == "duplicates":
        rows = rows[torch.randint(0, n // 10, (n,), generator=generator)]
    return torch.nn.functional.normalize(rows.double()).float()


def flat_faiss(rows: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """What one writes today: search for k + the class, drop one's own class, keep the first k."""
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    _, found = index.search(rows, k + PER_CLASS)
    other = labels[found] != labels[:, None]
    order = np.argsort(~other, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(found, order, 1)


def window(rows: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Semi-hard with margin 0.2: below the similarity of the farthest positive."""
    s_ap = ExactIndex().fit(rows, labels).self_join(1, want="positive", farthest=True).similarities[:, 0].double()
    d_an = (2 - 2 * s_ap).clamp_min(0).sqrt() + 0.2
    return 1 - d_an.square() / 2, s_ap


def compare(kind: str, job: str, n: int, d: int, precision: str, repeats: int) -> dict[str, object]:
    """FAISS and the engine in turn, in one process; medians."""
    rows, labels = bank(kind, n, d), torch.arange(n) // PER_CLASS
    k = JOBS[job]["k"]
    bounds = window(rows, labels) if "window" in JOBS[job] else None
    times: dict[str, list[float]] = {"faiss": [], "exact": []}
    for _ in range(repeats):
        start = time.perf_counter()
        baseline = flat_faiss(rows.numpy(), labels.numpy(), k)
        times["faiss"].append(time.perf_counter() - start)
        start = time.perf_counter()
        found = ExactIndex(precision=precision).fit(rows, labels).self_join(k, window=bounds)
        times["exact"].append(time.perf_counter() - start)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    agreement = float((found.ids.numpy() == baseline).mean()) if bounds is None else None
    return {
        "data": kind,
        "job": job,
        "n": n,
        "d": d,
        "asked": precision,
        "screened_in": found.stats.precision,
        "seconds": round(seconds["exact"], 3),
        "faiss_seconds": round(seconds["faiss"], 3),
        "ratio": round(seconds["faiss"] / seconds["exact"], 2),
        "ns_per_element": round(seconds["exact"] / n / n * 1e9, 3),
        "agreement": agreement,
        "certified": found.stats.certified,
        **{name: round(value, 3) for name, value in found.stats.details.items()},
    }


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("n", [2_000, 8_000])
def test_nearest_negative(benchmark, n, precision):
    rows, labels = bank("plain", n, 128), torch.arange(n) // PER_CLASS

    def join() -> Neighbors:
        return ExactIndex(precision=precision).fit(rows, labels).self_join(1)

    found = benchmark.pedantic(join, rounds=3, warmup_rounds=1)
    baseline = flat_faiss(rows.numpy(), labels.numpy(), 1)
    benchmark.extra_info["agreement"] = float((found.ids.numpy() == baseline).mean())
    benchmark.extra_info["peak_mb"] = peak_mb(join)
    assert benchmark.extra_info["agreement"] > 0.999


@pytest.mark.parametrize("n", [2_000, 8_000])
def test_flat_faiss(benchmark, n):
    rows, labels = bank("plain", n, 128).numpy(), (torch.arange(n) // PER_CLASS).numpy()
    benchmark.pedantic(lambda: flat_faiss(rows, labels, 1), rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("b", [128, 256, 1024, 2048])
def test_a_batch_is_a_small_bank(benchmark, b):
    rows, labels = bank("plain", b, 128), torch.arange(b) // 4
    benchmark(lambda: ExactIndex().fit(rows, labels).self_join(1))


def test_tables(full, capsys):
    """Every figure of docs/engine.md, each with FAISS in the same run."""
    if not full:
        pytest.skip("the long tables: --full")
    cases = [("plain", job, 50_000, d, p) for job in JOBS for d in (64, 128, 512) for p in ("bfloat16", "float32")]
    cases += [(kind, job, 50_000, 128, "auto") for kind in ("clustered", "collapsed", "duplicates") for job in JOBS]
    cases += [("plain", "nearest", n, 128, "auto") for n in (2_000, 10_000, 100_000)]
    rows = []
    for case in cases:
        rows.append(compare(*case, repeats=5 if case[2] <= 50_000 else 1))
        with capsys.disabled():
            print(json.dumps(rows[-1]), flush=True)
    memory = peak_of_200k()
    with capsys.disabled():
        print(json.dumps(memory))
    write({"tables": rows, "memory": memory})
    assert all(row["agreement"] is None or row["agreement"] > 0.99 for row in rows if row["data"] != "duplicates")


def peak_of_200k() -> dict[str, float]:
    """Peak memory above the input of n = 200,000, d = 128, in a process of its own."""
    script = (
        "import resource, time, torch\n"
        "from legolas_metric import ExactIndex\n"
        "rows = torch.nn.functional.normalize(torch.randn(200_000, 128)); labels = torch.arange(200_000) // 20\n"
        "ExactIndex().fit(rows[:4000], labels[:4000]).self_join(1)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; start = time.perf_counter()\n"
        "ExactIndex().fit(rows, labels).self_join(1)\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print((after - before) / 1024, time.perf_counter() - start)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    above, seconds = map(float, done.stdout.split())
    return {"n": 200_000, "d": 128, "mb_above_input": round(above), "seconds": round(seconds, 1)}


def write(results: dict[str, object]) -> None:
    """A dated file with what was run, and on what."""
    RESULTS.mkdir(exist_ok=True)
    machine = {
        "date": datetime.date.today().isoformat(),
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "faiss": faiss.__version__,
        "python": platform.python_version(),
        "seed": SEED,
    }
    path = RESULTS / f"{machine['date']}-index.json"
    path.write_text(json.dumps(machine | results, indent=1) + "\n")
