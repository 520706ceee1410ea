import gc
import os
import sys
from pathlib import Path
from types import SimpleNamespace

ALONGSIDE = "PYTEST_XDIST_WORKER" in os.environ
if ALONGSIDE:  # one thread for each of the processes that share the machine, and for those that their tests start
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import checked_calls  # noqa: E402, F401  # before the library is imported
import pytest  # noqa: E402
import torch  # noqa: E402
from cli_files import write_files  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

if ALONGSIDE:
    torch.set_num_threads(1)

# The same cases in each run, on a machine however slow; --hypothesis-profile=default draws others.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

LONGEST = [
    *("training_processes", "examples", "docs", "losses_stability", "index_lance", "index_sharded", "export", "runs"),
    *("compiled", "training_hf", "cli", "training_resume", "stored_search", "index_exact", "probes_verdict", "demo"),
]


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that workers that share the files end together."""
    place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # what was imported stays: each later collection, such as at the end of a fit, need not go through it


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture(params=["compiled", "plain"])
def both_ways(request, monkeypatch):
    """Pairs are counted by compiled loops, however small the job, and as on a device that has none."""
    loops = SimpleNamespace(worth=lambda device, seconds: request.param == "compiled")
    monkeypatch.setattr("legolas_metric.evaluation.tally.COUNTING", loops)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder, with the files of `cli_files`."""
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(folder, monkeypatch, capsys):
    """Run the command line: (exit status, stdout, stderr)."""
    from legolas_metric.cli.app import main

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["legolas-metric", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        return end.value.code, shown.out, shown.err

    return run
