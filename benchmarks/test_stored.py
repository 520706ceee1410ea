"""Anchors mined against a bank on disk: time, peak memory of the whole process, and growth with the bank.

`--full` mines 20,000 anchors against 2 million rows of 256 dimensions and prints the table of docs/engine.md.
"""

import datetime
import json
import subprocess
import sys
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
SCRIPT = """
import json, sys, time
import torch
from legolas_metric import FullHardMiner, StoredBank

path, n, d, anchors, storage, memory_mb = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5], int(sys.argv[6])
per_class, block = 20, 20_000


def status(field):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(field))) / 1024


def blocks():
    # clustered rows, as a trained encoder gives them: a centre for each class of 20
    for first in range(0, n, block):
        generator = torch.Generator().manual_seed(first)
        count = min(block, n - first)
        centres = torch.randn(-(-count // per_class), d, generator=generator).repeat_interleave(per_class, 0)
        yield torch.randn(count, d, generator=generator) + centres[:count]


imported = status("VmRSS")
start = time.perf_counter()
bank = StoredBank.write(path, blocks(), torch.arange(n) // per_class, storage=storage, memory_mb=memory_mb)
written = time.perf_counter() - start
asked = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:anchors]
start = time.perf_counter()
mined = FullHardMiner().mine(bank, anchors=asked)
seconds = time.perf_counter() - start
start = time.perf_counter()
bank.verify()
checked = time.perf_counter() - start
print(json.dumps({
    "n": n, "d": d, "anchors": anchors, "storage": storage, "memory_mb": memory_mb,
    "error": bank.error, "write_s": round(written, 1), "verify_s": round(checked, 1), "mine_s": round(seconds, 1),
    "triplets": len(mined), "precision": mined.stats.precision, "certified": mined.stats.certified,
    "peak_mb": round(status("VmHWM")), "imports_mb": round(imported), "threads": torch.get_num_threads(),
    "processor_s": round(time.process_time(), 1),
}))
"""


def mined(folder: Path, n: int, d: int, anchors: int, storage: str, memory_mb: int) -> dict[str, float]:
    """One bank written and mined in a process of its own."""
    path = folder / "bank"
    told = [str(value) for value in (path, n, d, anchors, storage, memory_mb)]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *told], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    result["file_mb"] = round(path.stat().st_size / 1e6)
    path.unlink()
    return result


def test_anchors_against_a_bank_on_disk(tmp_path, full, capsys):
    sizes = (125_000, 500_000, 2_000_000) if full else (50_000,)
    d, anchors, ceiling = (256, 20_000, 2048) if full else (64, 2_000, 64)
    results = []
    for n in sizes:
        results.append(mined(tmp_path, n, d, anchors, "int8", ceiling))
        with capsys.disabled():
            print(json.dumps(results[-1]), flush=True)
    largest = results[-1]
    assert largest["triplets"] == anchors
    assert largest["peak_mb"] - largest["imports_mb"] < ceiling + 512  # what torch and numba load beside
    if full:
        assert largest["peak_mb"] < 4096
        hours = largest["mine_s"] * largest["n"] / anchors / 3600
        largest["whole_self_join_extrapolated_h"] = round(hours, 1)
        RESULTS.mkdir(exist_ok=True)
        machine = {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()}
        told = {"machine": machine, "results": results}
        (RESULTS / f"{datetime.date.today().isoformat()}-stored.json").write_text(json.dumps(told, indent=1) + "\n")
