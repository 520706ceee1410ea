"""What checkpoints hold: random generators and records, as plain values that are loaded without unpickling code."""

import random
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
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


def as_plain(value: Any) -> Any:
    """A record, and those in it, as dicts of plain values; functions become their names."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = f"{type(value).__module__}:{type(value).__qualname__}"
        return {"record": kind, "fields": {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}}
    if isinstance(value, Mapping):
        return {key: as_plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(as_plain(part) for part in value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return getattr(value, "__name__", repr(value)) if callable(value) and not isinstance(value, torch.Tensor) else value


def as_record(plain: Any) -> Any:
    """What `as_plain` was given. Records of this library alone are made, so that a file names no foreign code."""
    if isinstance(plain, Mapping):
        if plain.keys() != {"record", "fields"}:
            return {key: as_record(part) for key, part in plain.items()}
        module, name = plain["record"].split(":")
        kind = getattr(import_module(module), name, None) if module.startswith("legolas_metric.") else None
        if not is_dataclass(kind) or not isinstance(kind, type):
            raise ValueError(f"{plain['record']!r} in the saved state is no record of this library")
        record = object.__new__(kind)
        for field in fields(kind):
            if field.name not in plain["fields"]:
                raise ValueError(f"the saved {name} lacks {field.name}: it was written by another version")
            object.__setattr__(record, field.name, as_record(plain["fields"][field.name]))
        return record
    return type(plain)(map(as_record, plain)) if isinstance(plain, tuple | list) else plain
