"""The example scripts run, each in its smallest form."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALLEST = {
    "collapse_guard.py": (["--rounds", "2", "--steps", "2", "--drawings", "400"], "Rank@1"),
    "ecg_other_day.py": (["--steps", "4", "--refresh", "1"], "cross-day, trained: Rank@1 0."),
    "train_with_global_mining.py": (["--epochs", "3", "--steps", "2", "--drawings", "800"], "epoch 3: Rank@1 0."),
    "mine_in_a_plain_loop.py": (["--rounds", "1", "--steps", "2", "--drawings", "800"], "unseen: Rank@1 0."),
}


@pytest.mark.parametrize("script", sorted(SMALLEST))
def test_example(script, tmp_path):
    options, expected = SMALLEST[script]
    command = [sys.executable, str(EXAMPLES / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SMALLEST)
