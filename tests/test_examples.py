"""The example scripts run, each in its smallest form."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from legolas_metric.datasets import split_omniglot

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALLEST = {
    "collapse_guard.py": (["--rounds", "2", "--steps", "2", "--drawings", "400"], "Rank@1"),
    "ecg_id.py": (["--steps", "4", "--refresh", "1", "--folds", "2"], "ensemble of both, templates | 0."),
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


def test_the_guard_saves_a_run_that_collapses_without_it(monkeypatch):
    """The demonstration of docs/probes.md in its short form: same seed, same steps, same rate."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    run = importlib.import_module("collapse_guard").run
    train = split_omniglot()[0].take(torch.arange(1000))
    settings = {"rounds": 3, "steps": 16, "rate": 0.1, "seed": 0}
    _, collapsed, loss = run(train, guarded=False, **settings)
    assert collapsed.verdict == "point collapse"
    assert loss == pytest.approx(1.0, abs=0.01)  # the margin
    _, saved, loss = run(train, guarded=True, **settings)
    assert saved.verdict == "healthy"
    assert loss < 0.99
    assert saved.class_share > collapsed.class_share


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SMALLEST)
