"""Run what is left of the plan, one trial after the other, until a time of day; begin it again at any time.

python -m benchmarks.recipes.queue --data FOLDER --until 07:05
python -m benchmarks.recipes.queue --part claim & python -m benchmarks.recipes.queue --part rest
python -m benchmarks.recipes.queue --left
python -m benchmarks.recipes.table benchmarks/results/arena.jsonl

One thread. A line is added to the file of results as each trial ends; what stands there is not run again.
"""

import argparse
import json
import os
from datetime import datetime
from pathlib import Path
from typing import get_args

import torch

from benchmarks.recipes.fitting import run
from benchmarks.recipes.plan import MOST_TRIALS, RECIPES, Part, remaining
from benchmarks.recipes.table import read

RESULTS = Path("benchmarks/results/arena.jsonl")


def main(arguments: list[str] | None = None) -> None:
    """Parse, then run or list."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes.queue", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of clinc150.npz")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"file of results (default: {RESULTS})")
    parser.add_argument("--until", metavar="HH:MM", help="begin no trial after this time of day")
    parser.add_argument("--trials", type=int, default=MOST_TRIALS, help="of each contender in the selection")
    parser.add_argument("--part", choices=get_args(Part), default="all", help="of the plan, for several processes")
    parser.add_argument("--left", action="store_true", help="list what is left, and stop")
    options = parser.parse_args(arguments)
    if options.left:
        for trial in remaining(read(options.out), options.trials, options.part):
            print(trial.key())
        return
    torch.set_num_threads(1)
    while options.until is None or datetime.now().strftime("%H:%M") < options.until:
        trial = next(remaining(read(options.out), options.trials, options.part), None)
        if trial is None:
            print("nothing is left")
            return
        line = run(trial, RECIPES[trial.recipe], options.data)
        add(options.out, json.dumps(line))
        figures = " ".join(f"{name} {line[name]:.4f}" for name in ("rank1", "map_at_r", "train_rank1"))
        print(f"{line['ended'][11:]} {trial.key()}: {figures}, {line['cpu_s']:.0f} s", flush=True)


def add(path: Path, line: str) -> None:
    """Append a line in one write, so that a broken-off run leaves whole lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, (line + "\n").encode())
    finally:
        os.close(file)


if __name__ == "__main__":
    main()
