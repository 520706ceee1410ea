"""`--full` for the long tables; each benchmark notes the machine it ran on."""

import platform

import faiss
import jaxtyping
import pytest
import torch

# The tests' checks of shapes at run time would be timed too; users have none.
jaxtyping.config.update("jaxtyping_disable", True)


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="the long tables: larger sizes, more repeats (half an hour)")


@pytest.fixture(scope="session")
def full(request) -> bool:
    return request.config.getoption("--full")


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.update(
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        faiss=faiss.__version__,
        python=platform.python_version(),
    )


def pytest_terminal_summary(terminalreporter, config):
    """What pytest-benchmark's own table leaves out: ratio to the peer, peak memory, agreement with the oracle."""
    session = getattr(config, "_benchmarksession", None)
    measured = [bench for bench in session.benchmarks if bench.extra_info] if session else []
    if measured:
        terminalreporter.section("beside the peers, in the same run")
    for bench in measured:
        figures = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in bench.extra_info.items()
        )
        terminalreporter.line(f"{bench.name}: {figures}")
