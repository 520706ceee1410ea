"""The example scripts run, each in its smallest form."""

import importlib
from pathlib import Path

import pytest
import torch
from processes import interpret, python, torchrun

from legolas_metric.datasets import split_omniglot

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALLEST = {
    "collapse_guard.py": (["--rounds", "2", "--steps", "2", "--drawings", "400"], "Rank@1"),
    "ecg_other_day.py": (["--steps", "4", "--refresh", "1"], "cross-day, trained: Rank@1 0."),
    "train_with_global_mining.py": (["--epochs", "3", "--steps", "2", "--drawings", "800"], "epoch 3: Rank@1 0."),
    "drop_into_pml.py": (["--epochs", "1", "--steps", "2", "--drawings", "800"], "'precision_at_1': 0."),
    "ecg_to_a_threshold.py": (["--steps", "4"], "on others: FAR 0."),
    "few_shot.py": (["--steps", "2", "--episodes", "30"], "2 steps: 20-way 1-shot within an alphabet 0."),
    "mine_a_corpus.py": (["--drawings", "600"], "wrote triplets.jsonl: 600 triplets"),
    "own_lightning_module.py": (["--epochs", "2", "--steps", "2", "--drawings", "800"], "epoch 2: Rank@1 0."),
    "probe_checkpoints.py": (["--steps", "4", "--every", "2", "--drawings", "600"], "   4  point collapse"),
    "several_processes.py": (["--epochs", "1", "--steps", "2", "--drawings", "800"], "1 processes: unseen Rank@1 0."),
    "smallest_loop.py": (["--steps", "4", "--drawings", "800"], "after 4 steps: Rank@1 0."),
    "mine_in_a_plain_loop.py": (["--rounds", "1", "--steps", "2", "--drawings", "800"], "unseen: Rank@1 0."),
}


@pytest.mark.parametrize("script", sorted(SMALLEST))
def test_example(script, tmp_path):
    options, expected = SMALLEST[script]
    assert expected in python(EXAMPLES / script, *options, cwd=tmp_path, check=True).stdout


def test_the_example_of_several_processes_under_torchrun(tmp_path):
    script, options = str(EXAMPLES / "several_processes.py"), SMALLEST["several_processes.py"][0]
    torchrun(tmp_path, interpret, [script, *options], tmp_path)
    said = {f"{path.parent.name}/{path.stem}": path.read_text() for path in sorted(tmp_path.rglob("std*.log"))}
    assert not list(tmp_path.rglob("agent.txt")), said
    assert "epoch 0, 2 processes: unseen Rank@1 0." in said["0/stdout"]


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


def test_the_table_of_ecg_id_is_made(tmp_path):
    script = EXAMPLES.parent / "benchmarks/ecg_id.py"
    done = python(script, "--steps", "4", "--refresh", "1", "--folds", "2", cwd=tmp_path, check=True)
    assert "ensemble of both, templates | 0." in done.stdout


def test_every_example_is_run_and_short():
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert {path.name for path in scripts} == set(SMALLEST)
    assert not [path.name for path in scripts if len(path.read_text(encoding="utf-8").splitlines()) >= 100]


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    for name in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))  # not at home, where nothing may be written
    book = nbformat.read(EXAMPLES / "first_look.ipynb", as_version=4)
    for cell in book.cells:  # the same at a smaller size
        cell.source = cell.source.replace("arange(2000)", "arange(600)").replace(
            "steps_per_epoch=25", "steps_per_epoch=2"
        )
    waiting = {"timeout": 600, "startup_timeout": 600}  # seconds, of a machine that does much else
    nbclient.NotebookClient(book, **waiting, resources={"metadata": {"path": str(tmp_path)}}).execute()
    texts = [str(cell.get("outputs")) for cell in book.cells if cell.cell_type == "code"]
    assert "600" in texts[0]
    assert "Rank@1" in texts[1]
    assert "text/html" in texts[1]
    assert "FullHardMiner found 600 triplets" in texts[4]
    assert "baseline" in texts[5]
