"""What bounds the unseen alphabets: how far several encoders together come, and which mistakes all of them make.

python -m benchmarks.recipes.ceiling --out benchmarks/results/ceiling.jsonl

Encoders that differ in recipe and weights are trained on the same alphabets. Their joined rows (unit rows side by side)
tell what the luck of one run costs. A drawing that every one of them takes for the same other character is ambiguous at
this size, or needs features that none of them has.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.recipes.arenas import arena
from benchmarks.recipes.fitting import embed, fit
from benchmarks.recipes.plan import PK, RATE, RECIPES, SELECTION_SEED, SHORT
from benchmarks.recipes.queue import add
from benchmarks.recipes.trial import Trial
from legolas_metric import RetrievalProtocol, __version__, evaluate_ranking

MEMBERS = ("near, hard drawings + SupCon", "PK + batch-hard", "near + SupCon")


def shared_mistakes(members: Sequence[Tensor], labels: Tensor) -> dict[str, float]:
    """Shares of the drawings that no member, and that not all members, put next to their own character.

    Args:
        members: [n, d] unit rows of each encoder.
        labels: [n] of the drawings.

    Returns:
        missed_by_all: share whose nearest drawing is of another character for every member.
        same_mistake: share for which that is the same other character for every member.
        missed_by_one: share that one member at least misses.
    """
    found = []
    for rows in members:
        similar = (rows @ rows.T).fill_diagonal_(-torch.inf)
        found.append(labels[similar.argmax(1)])
    nearest = torch.stack(found)
    wrong = nearest != labels
    same = (nearest == nearest[0]).all(0)
    return {
        "missed_by_all": float(wrong.all(0).float().mean()),
        "same_mistake": float((wrong.all(0) & same).float().mean()),
        "missed_by_one": float(wrong.any(0).float().mean()),
    }


def measure(seed: int, steps: int, data: Path) -> dict[str, Any]:
    """Train the members on the alphabets of a seed, and judge each and all together."""
    members, each = [], {}
    for number, name in enumerate(MEMBERS):
        recipe = RECIPES[name]
        trial = Trial(
            task="omniglot", recipe=name, head=False, rate=RATE, value=recipe.values[0], steps=steps, seed=seed
        )
        stage = arena(trial, recipe, data)
        encoder, _ = fit(replace(trial, seed=seed + 100 * number), recipe, stage)
        rows = torch.nn.functional.normalize(embed(encoder, stage, stage.unseen_inputs, bfloat16=False))
        members.append(rows)
        each[name] = _judged(rows, stage.unseen_labels)
    stage = arena(replace(trial, recipe=PK.name), PK, data)
    joined = torch.cat(members, 1)
    return {
        "seed": seed,
        "steps": steps,
        "members": each,
        "joined": _judged(joined, stage.unseen_labels),
        **shared_mistakes(members, stage.unseen_labels),
        "threads": torch.get_num_threads(),
        "versions": {"legolas_metric": __version__, "torch": torch.__version__},
    }


def _judged(rows: Tensor, labels: Tensor) -> dict[str, float]:
    ranking = evaluate_ranking(rows, labels)
    few = RetrievalProtocol.few_shot(ways=20, shots=1, episodes=1000)
    return {
        "rank1": ranking.rank[1],
        "map_at_r": ranking.map_at_r,
        "few": evaluate_ranking(rows, labels, protocol=few).rank[1],
    }


def main() -> None:
    """Measure, and add a line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes.ceiling", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ceiling.jsonl"))
    parser.add_argument("--steps", type=int, default=SHORT)
    parser.add_argument("--seed", type=int, default=SELECTION_SEED)
    options = parser.parse_args()
    torch.set_num_threads(1)
    add(options.out, json.dumps(measure(options.seed, options.steps, options.data)))


if __name__ == "__main__":
    main()
