"""Asks the cases of `device_cases` of a pretended card and of the host: run as a program, a line for each case."""

import dataclasses
import json
import math
import sys
import traceback
import warnings
from pathlib import Path

import torch
from device_cases import CASES, COUNTED, REFUSED


def leaves(value, depth=0):
    """The numbers of a result, in order, but for seconds."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, bool | int | float):
        return [torch.tensor(float(value))]
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in leaves(one, depth + 1)]
    if isinstance(value, list | tuple):
        return [leaf for one in value for leaf in leaves(one, depth + 1)]
    if dataclasses.is_dataclass(value) and depth < 6:
        names = [field.name for field in dataclasses.fields(value) if field.name != "seconds"]
        return [leaf for name in names for leaf in leaves(getattr(value, name), depth + 1)]
    return []


def compared(here, there):
    """The largest difference, infinite where shapes differ, or one alone is no finite number."""
    if [one.shape for one in here] != [one.shape for one in there]:
        return math.inf
    pairs = [(a.detach().double(), b.detach().cpu().double()) for a, b in zip(here, there)]
    return max((apart(a, b) for a, b in pairs if a.numel()), default=0.0)


def apart(a, b):
    same = (a == b) | (a.isnan() & b.isnan())
    far = ((a - b).abs() - 1e-5 * a.abs()).nan_to_num(math.inf, math.inf, math.inf)
    return float(far.masked_fill(same, 0.0).max())


def told(name, crossed):
    """What came of a case, there and here."""
    torch.manual_seed(0)
    ask = (CASES | REFUSED | COUNTED)[name]
    here = leaves(ask(lambda tensor: tensor.clone())) if name in CASES else []
    crossed.clear()
    torch.manual_seed(0)
    there = leaves(ask(lambda tensor: tensor.to("card")))
    return {"crossed": dict(crossed), "difference": compared(here, there)}


def main():
    from pretended_card import CROSSED

    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or CASES | REFUSED | COUNTED:
        try:
            line = {"error": None} | told(name, CROSSED)
        except Exception as error:
            where = [
                f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
            ]
            line = {"error": f"{type(error).__name__}: {error} (at {', '.join(where[-6:])})"}
        print(json.dumps({"name": name} | line), flush=True)


if __name__ == "__main__":
    main()
