"""The states of the process's random generators, as plain values that a checkpoint can hold."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def generator_states() -> dict[str, Any]:
    """Of PyTorch on every device, of NumPy and of Python."""
    of_numpy = np.random.get_state(legacy=False)  # noqa: NPY002  (the global one, which a data set may draw from)
    assert isinstance(of_numpy, dict)
    inner = of_numpy["state"]
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "numpy": of_numpy | {"state": inner | {"key": torch.from_numpy(inner["key"].astype(np.int64))}},
        "python": [version, list(numbers), gauss],
    }


def restore_generators(states: Mapping[str, Any]) -> None:
    """Take up what `generator_states` gave."""
    torch.set_rng_state(states["torch"].cpu())
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    of_numpy = states["numpy"]
    key = of_numpy["state"]["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state({**of_numpy, "state": {**of_numpy["state"], "key": key}})  # noqa: NPY002
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
