"""Run recipes, or print the table of what was run.

python -m benchmarks.recipes --task omniglot --seeds 0 1 2 --out FILE.jsonl
python -m benchmarks.recipes --table FILE.jsonl

A line is added to the file as each run ends; what it already holds is not run again. Seeds are the outer loop, so that
a broken-off job is balanced.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.recipes.catalogue import RECIPES
from benchmarks.recipes.table import read, table
from benchmarks.recipes.tasks import clinc, ecg, omniglot
from benchmarks.recipes.training import run


def main(arguments: list[str] | None = None) -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=__doc__)
    parser.add_argument("--task", choices=sorted(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", metavar="NAME", help="only these, in this order (default: all)")
    parser.add_argument("--data", type=Path, help="the .npz of ecg or clinc")
    parser.add_argument("--steps", type=int, help="(default: the task's)")
    parser.add_argument("--float32", action="store_true", help="no bfloat16, which some processors imitate slowly")
    parser.add_argument("--out", type=Path, help="file of results, one JSON line a run")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a file of results, and stop")
    parser.add_argument("--against", metavar="NAME", help="of the table: the recipe to compare each seed with")
    options = parser.parse_args(arguments)
    if options.table:
        print(table(read(options.table), against=options.against))
        return
    if not (options.task and options.out):
        parser.error("give --task and --out, or --table FILE")
    known = {recipe.name: recipe for recipe in RECIPES[options.task]}
    if missing := set(options.recipes or ()) - set(known):
        parser.error(f"no recipe {', '.join(sorted(missing))}; there are: {', '.join(known)}")
    if options.steps is not None and options.steps < 3:
        parser.error("--steps must be at least 3: the rate rises, and falls")
    if options.task != "omniglot" and options.data is None:
        parser.error(f"--task {options.task} reads a file: give --data")
    task = {"omniglot": lambda _: omniglot(), "ecg": ecg, "clinc": clinc}[options.task](options.data)
    task = replace(task, steps=options.steps) if options.steps else task
    task = replace(task, bfloat16=False) if options.float32 else task
    torch.set_num_threads(1)
    done = {(line["task"], line["recipe"], line["seed"], line["steps"]) for line in read(options.out)}
    for seed in options.seeds:
        for name in options.recipes or known:
            if (task.name, name, seed, task.steps) in done:
                continue
            line = run(known[name], task, seed)
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name} | seed {seed} | Rank@1 {line['rank1']:.4f} | MAP@R {line['map_at_r']:.4f}", flush=True)


if __name__ == "__main__":
    main()
