"""Exact mining against a flat FAISS search in the same run: time as a ratio, peak memory, and agreement of the answers.

`--full` prints the tables of docs/engine.md and writes them, dated, under benchmarks/results/.
"""

import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from memory import peak_mb

from legolas_metric import EmbeddingBank, ExactIndex, Neighbors, PKSampler, SupConLoss
from legolas_metric.datasets import split_omniglot
from legolas_metric.encoders import Conv4
from legolas_metric.index.auto import estimate
from legolas_metric.index.exact import MINING
from legolas_metric.training.mining import Examples

RESULTS = Path(__file__).parent / "results"
CLINC = os.environ.get("CLINC150")
PER_CLASS = 20
SEED = 0
JOBS = {
    "nearest": (1, False),
    "32 nearest": (32, False),
    "semi-hard": (1, True),
}
"""Neighbours, and whether inside a window."""


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


def falling(n: int, d: int, power: float) -> torch.Tensor:
    """Unit rows whose singular values fall as j^-power, along axes that are not the coordinates."""
    generator = torch.Generator().manual_seed(SEED)
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q
    rows = torch.randn(n, d, generator=generator) * torch.arange(1, d + 1) ** -power @ turn
    return torch.nn.functional.normalize(rows)


def flat_faiss(rows: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """What one writes today: search for k + the largest class, drop one's own class, keep the first k."""
    largest = int(np.bincount(labels[labels >= 0]).max())
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    _, found = index.search(rows, k + largest)
    other = labels[found] != labels[:, None]
    order = np.argsort(~other, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(found, order, 1)


def window(rows: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Semi-hard with margin 0.2: below the similarity of the farthest positive."""
    s_ap = ExactIndex().fit(rows, labels).self_join(1, want="positive", farthest=True).similarities[:, 0].double()
    d_an = (2 - 2 * s_ap).clamp_min(0).sqrt() + 0.2
    return 1 - d_an.square() / 2, s_ap


def compare(
    rows: torch.Tensor, labels: torch.Tensor, cases: list[tuple[str, str]], repeats: int
) -> list[dict[str, object]]:
    """FAISS, which finds one negative, and the engine at each (job, precision), in turn, in one process; medians."""
    n = len(rows)
    bounds = window(rows, labels)
    times: dict[object, list[float]] = {case: [] for case in ["faiss", *cases]}
    found: dict[tuple[str, str], Neighbors] = {}
    for _ in range(repeats):
        start = time.perf_counter()
        baseline = flat_faiss(rows.numpy(), labels.numpy(), 1)
        times["faiss"].append(time.perf_counter() - start)
        for job, precision in cases:
            k, windowed = JOBS[job]
            start = time.perf_counter()
            index = ExactIndex(precision=precision).fit(rows, labels)
            found[job, precision] = index.self_join(k, window=bounds if windowed else None)
            times[job, precision].append(time.perf_counter() - start)
    seconds = {case: statistics.median(values) for case, values in times.items()}
    return [
        {
            "job": job,
            "n": n,
            "d": rows.shape[1],
            "asked": precision,
            "screened_in": answer.stats.precision,
            "seconds": round(seconds[job, precision], 3),
            "faiss_seconds": round(seconds["faiss"], 3),
            "ratio": round(seconds["faiss"] / seconds[job, precision], 2),
            "ns_per_element": round(seconds[job, precision] / n / n * 1e9, 3),
            "agreement": None if JOBS[job][1] else float((answer.ids[:, 0].numpy() == baseline[:, 0]).mean()),
            "certified": answer.stats.certified,
            **{name: round(value, 3) for name, value in answer.stats.details.items()},
        }
        for (job, precision), answer in found.items()
    ]


def encoder_outputs(steps: tuple[int, ...]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Omniglot as a Conv4 embeds it after so many steps of SupCon on PK batches."""
    train, _ = split_omniglot(seed=SEED)
    torch.manual_seed(SEED)
    encoder, loss = Conv4(), SupConLoss(0.1)
    optimiser = torch.optim.Adam(encoder.parameters(), 2e-3)
    examples = Examples(train, train.labels)
    batches = iter(PKSampler(examples.labels, 32, 4, batches_per_epoch=max(steps) + 1, seed=SEED))
    found = {}
    for step in range(max(steps) + 1):
        if step in steps:
            encoder.eval()
            made = EmbeddingBank.encode(encoder, examples.inputs, labels=examples.labels, progress=False)
            found[step] = made.embeddings, made.labels
            encoder.train()
        batch = next(batches)
        optimiser.zero_grad()
        inputs = torch.stack([examples.inputs[row] for row in batch])
        loss(encoder(inputs), examples.labels[batch]).backward()
        optimiser.step()
    return found


@pytest.mark.parametrize("precision", ["auto", "float32"])
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


NO_SLOWER = {100: 3.0, 300: 1.5, 1_000: 1.0, 3_000: 0.9}
"""Of a small join on one thread, how many times FAISS's time it may take, by n."""


@pytest.mark.parametrize("d", [64, 512])
@pytest.mark.parametrize("n", NO_SLOWER)
def test_small_searches_against_faiss(benchmark, n, d, capsys):
    """Held by the ratios of one run; `python -m benchmarks.small_searches` prints the table of docs/engine.md."""
    command = [sys.executable, "-m", "benchmarks.small_searches", "--n", str(n), "--d", str(d)]
    told = benchmark.pedantic(
        lambda: subprocess.run(command, capture_output=True, text=True, check=True, cwd=RESULTS.parents[1]).stdout,
        rounds=1,
    )
    jobs = json.loads(told)["jobs"]
    benchmark.extra_info.update({f"{job}, of FAISS": figures["ratio"] for job, figures in jobs.items()})
    with capsys.disabled():
        print(told, end="")
    assert all(figures["agreement"] > 0.98 or job.startswith("positive") for job, figures in jobs.items())
    assert all(figures["ratio"] < NO_SLOWER[n] for job, figures in jobs.items() if job != "few 5")


@pytest.mark.parametrize("b", [128, 256, 1024, 2048])
def test_a_batch_is_a_small_bank(benchmark, b):
    rows, labels = bank("plain", b, 128), torch.arange(b) // 4
    benchmark(lambda: ExactIndex().fit(rows, labels).self_join(1))


def banks(table: str) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """The banks of a table: what they are, rows, labels."""
    if table == "encoder":
        for step, found in encoder_outputs((0, 50, 300)).items():
            yield f"Omniglot, step {step}", *found
    elif table == "clinc":
        assert CLINC is not None
        with np.load(CLINC) as data:
            rows, labels = torch.from_numpy(data["x"]).double(), torch.from_numpy(data["y"]).long()
        there = rows.norm(dim=1) > 0
        yield "CLINC150", torch.nn.functional.normalize(rows[there]).float(), labels[there]
    elif table == "structured":
        for kind in ("clustered", "collapsed", "duplicates"):
            yield kind, bank(kind, 20_000, 128), torch.arange(20_000) // PER_CLASS
    elif table == "spectrum":
        for d in (512, 2048):
            for power in (0.7, 0.0):
                yield f"j^-{power}", falling(50_000, d, power), torch.arange(50_000) // PER_CLASS
    elif table == "growth":
        for n in (2_000, 5_000, 10_000, 20_000, 100_000, 200_000):
            yield "plain", bank("plain", n, 128), torch.arange(n) // PER_CLASS
    else:
        yield "plain", bank("plain", 50_000, int(table)), torch.arange(50_000) // PER_CLASS


@pytest.mark.parametrize("table", ["64", "128", "512", "structured", "encoder", "clinc", "spectrum", "growth"])
def test_tables(table, full, capsys):
    """Every figure of docs/engine.md, each with FAISS in the same run."""
    if not full:
        pytest.skip("the long tables: --full")
    if table == "clinc" and CLINC is None:
        pytest.skip("its data are not in the package: CLINC150=/path/to/clinc150.npz")
    precisions = ("auto", "float32") if table.isdecimal() else ("auto",)
    cases = [(job, precision) for job in JOBS for precision in precisions]
    rows: list[dict[str, object]] = []
    for data, embeddings, labels in banks(table):
        repeats = 1 if len(labels) > 50_000 or table == "spectrum" else 5 if table.isdecimal() else 3
        for row in compare(embeddings, labels, cases[:1] if table in ("growth", "spectrum") else cases, repeats):
            rows.append({"data": data} | row)
            with capsys.disabled():
                print(json.dumps(rows[-1]), flush=True)
    write(table, rows)
    ties_or_unlabelled = ("duplicates", "CLINC150")  # FAISS breaks ties its way, and has no label filter for -1
    told = [row["agreement"] for row in rows if row["data"] not in ties_or_unlabelled]
    assert all(share is None or share > 0.99 for share in told)


@pytest.mark.parametrize("n", [20_000, 50_000, 200_000])
def test_the_budget_is_estimated_within_a_factor_of_two(n, full, capsys):
    """`AutoIndex`'s estimate of a join, against the join."""
    if n > 50_000 and not full:
        pytest.skip("half a minute: --full")
    rows, labels = bank("clustered", n, 128), torch.arange(n) // PER_CLASS
    index = ExactIndex().fit(rows, labels)
    MINING.worth(rows.device, math.inf)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(SEED))

    def ask(part: torch.Tensor) -> Neighbors:
        return index.search(rows[part], 1, labels=labels[part], ids=part, want="negative")

    _, estimated = estimate(ask, order, joined=True)
    times = []
    for _ in range(2 if n > 50_000 else 4):
        start = time.perf_counter()
        index.self_join(1)
        times.append(time.perf_counter() - start)
    real = min(times)
    with capsys.disabled():
        print(json.dumps({"n": n, "estimated_s": round(estimated, 2), "real_s": round(real, 2)}), flush=True)
    assert 0.5 < estimated / real < 2


def test_memory_is_what_the_formula_says(capsys):
    """A window over 150,000 rows, whose slots alone would take 700 MB at 384 a row."""
    n, d = 150_000, 32
    rows, labels = bank("clustered", n, d), torch.arange(n) // PER_CLASS
    index = ExactIndex().fit(rows, labels)
    window = torch.full((n,), -1.0), torch.full((n,), 0.6)
    room = max(32, min(384, (256 << 20) // (12 * n) - 2))
    promised = (8 * n * d + n * (16 + 28 * (2 + room) + 150)) / 2**20 + 2 * torch.get_num_threads()
    above = peak_mb(lambda: index.self_join(1, window=window))
    with capsys.disabled():
        print(json.dumps({"promised_mb": round(promised), "peak_mb": above}))
    assert above is None or above < promised


def test_memory_of_200k_rows(full, capsys):
    if not full:
        pytest.skip("the long tables: --full")
    memory = peak_of_200k()
    with capsys.disabled():
        print(json.dumps(memory))
    write("memory", memory)
    assert memory["mb_above_input"] < 1024


def peak_of_200k() -> dict[str, float]:
    """Peak memory above the input of n = 200,000, d = 128, in a process of its own."""
    script = (
        "import time, torch\n"
        "from memory import peak_mb\n"
        "from legolas_metric import ExactIndex\n"
        "rows = torch.nn.functional.normalize(torch.randn(200_000, 128)); labels = torch.arange(200_000) // 20\n"
        "start = time.perf_counter()\n"
        "above = peak_mb(lambda: ExactIndex().fit(rows, labels).self_join(1))\n"
        "print(above, time.perf_counter() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=RESULTS.parent
    )
    above, seconds = map(float, done.stdout.split())
    return {"n": 200_000, "d": 128, "mb_above_input": round(above), "seconds": round(seconds, 1)}


def write(table: str, results: object) -> None:
    """Put a table into today's file, with what it was run on."""
    RESULTS.mkdir(exist_ok=True)
    machine = {
        "processor": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "faiss": faiss.__version__,
        "python": platform.python_version(),
        "seed": SEED,
    }
    path = RESULTS / f"{datetime.date.today().isoformat()}-index.json"
    tables = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(tables | {table: {"machine": machine, "results": results}}, indent=1) + "\n")
