"""`--full` for the long tables; each benchmark notes the machine it ran on."""

import platform

import faiss
import pytest
import torch


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
