"""What a user waits for in the first minute: seconds after `import torch`, in fresh processes, cache cold and warm.

Run it alone on a quiet machine. Cold is an empty NUMBA_CACHE_DIR; warm is that folder after `warm_up()`.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_S = 2.0
"""For each of the first steps, cold and warm."""

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BATCH = "rows, labels = torch.randn(256, 128), torch.arange(256) // 4\n"
STEPS = {
    "FullHardMiner()(batch)": BATCH + "from legolas_metric import FullHardMiner\nFullHardMiner()(rows, labels)",
    "SupConLoss, forward and backward": BATCH
    + "from legolas_metric import SupConLoss\nSupConLoss()(rows.requires_grad_(), labels).backward()",
    "mine(bank) of 4,000 rows": "from legolas_metric import EmbeddingBank, FullHardMiner\n"
    "FullHardMiner().mine(EmbeddingBank(torch.randn(4000, 128), torch.arange(4000) // 20))",
    "README's first block": re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0],
}


def seconds_of(step: str, cache: Path) -> tuple[float, str]:
    """Wall seconds of a step in a process of its own, and what it says on the screen."""
    script = (
        "import sys, time, torch\nstarted = time.perf_counter()\n"
        f"{step}\nprint(f'\\nseconds {{time.perf_counter() - started}}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
    )
    return float(done.stdout.rsplit("seconds ", 1)[1]), done.stderr


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> Path:
    """A cache that `warm_up` has filled."""
    folder = tmp_path_factory.mktemp("warm")
    seconds_of("from legolas_metric.index.exact.warm_up import warm_up\nwarm_up()", folder)
    return folder


@pytest.mark.parametrize("step", STEPS)
def test_a_first_step_compiles_nothing(step, tmp_path, warm, capsys):
    cold_s, said = seconds_of(STEPS[step], tmp_path)
    warm_s, _ = seconds_of(STEPS[step], warm)
    with capsys.disabled():
        print(json.dumps({"step": step, "cold_s": round(cold_s, 2), "warm_s": round(warm_s, 2)}), flush=True)
    assert "compiling" not in said
    assert not list(tmp_path.rglob("*.nbi")), "machine code was made"
    assert max(cold_s, warm_s) < LIMIT_S


def test_what_compiles_says_so_once_and_how_long(tmp_path, capsys):
    """A search that takes plain torch longer than the compilation; and processor seconds of all loops of the engine."""
    join = (
        "from legolas_metric import ExactIndex\n"
        "index = ExactIndex().fit(torch.randn(60_000, 128), torch.arange(60_000) // 20)\n"
        "index.self_join(1)\nindex.self_join(2)"
    )
    seconds, said = seconds_of(join, tmp_path / "one")
    assert said.count("compiling the mining loops, once: about 10 s") == 1
    again_s, said_again = seconds_of(join, tmp_path / "one")
    assert "compiling" not in said_again
    compiling = (
        "from legolas_metric.index.exact.warm_up import warm_up\nwarm_up()\nprint('processor', time.process_time())"
    )
    made = subprocess.run(
        [sys.executable, "-c", f"import time, torch\n{compiling}"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "two")},
    )
    processor_s = float(made.stdout.split("processor ")[1])
    with capsys.disabled():
        print(
            json.dumps(
                {
                    "first join": round(seconds, 1),
                    "again": round(again_s, 1),
                    "all loops, processor": round(processor_s, 1),
                }
            )
        )
    assert processor_s < 11.0, "half of the 22 s that it took before"
