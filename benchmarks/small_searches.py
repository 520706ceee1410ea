"""Small searches beside what one writes with FAISS: `python -m benchmarks.small_searches --threads 1`.

A program of its own, as the tests' checks of shapes at run time would be timed with it. Fit and search, in turn with
FAISS, medians in milliseconds; the compiled loops are loaded, as in a process after its first larger searches.
"""

import argparse
import json
import math
import statistics
import time

import faiss
import numpy as np
import torch

from legolas_metric import ExactIndex, Neighbors
from legolas_metric.index.exact import MINING

PER_CLASS, FEW = 20, 10
JOBS = [("negative", 1), ("negative", 5), ("negative", 21), ("positive", 1), ("any", 1), ("any", 21), ("few", 5)]
"""What is sought, and how many of it; few: negatives of ten queries."""


def bank(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in clusters of 20, not yet unit."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(-(-n // PER_CLASS), d, generator=generator).repeat_interleave(PER_CLASS, 0)[:n]
    return torch.randn(n, d, generator=generator) + centres, torch.arange(n) // PER_CLASS


def ours(rows: torch.Tensor, labels: torch.Tensor, want: str, k: int) -> Neighbors:
    index = ExactIndex().fit(rows, labels)
    if want == "few":
        return index.search(rows[:FEW], k, labels=labels[:FEW], ids=range(FEW), want="negative")
    return index.self_join(k, want=want)


def theirs(rows: np.ndarray, labels: np.ndarray, want: str, k: int) -> np.ndarray:
    """Normalise, add, search for k + 20, and drop what was not sought; positives may stand anywhere."""
    n, q, rows = len(rows), FEW if want == "few" else len(rows), rows.copy()
    faiss.normalize_L2(rows)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    sought = {"positive": n, "any": k + 1}.get(want, k + PER_CLASS)
    _, found = index.search(rows[:q], min(n, sought))
    same, other = labels[found] == labels[:q, None], found != np.arange(q)[:, None]
    fits = {"positive": same & other, "any": other}.get(want, ~same)
    return np.take_along_axis(found, np.argsort(~fits, axis=1, kind="stable")[:, :k], 1)


def compared(n: int, d: int, rounds: int) -> dict[str, dict[str, float]]:
    """By job: the milliseconds of both, their ratio, and the share of equal ids."""
    rows, labels = bank(n, d)
    told = {}
    for want, k in JOBS:
        sides = (lambda: ours(rows, labels, want, k).ids.numpy(), lambda: theirs(rows.numpy(), labels.numpy(), want, k))  # noqa: B023
        agreement = float((sides[0]() == sides[1]()).mean())
        taken: list[list[float]] = [[], []]
        for _ in range(rounds):
            for side, seconds in zip(sides, taken):
                start = time.perf_counter()
                side()
                seconds.append(1e3 * (time.perf_counter() - start))
        mine, its = (round(statistics.median(seconds), 2) for seconds in taken)
        told[f"{want} {k}"] = {
            "ms": mine,
            "faiss": its,
            "ratio": round(mine / its, 2),
            "agreement": round(agreement, 4),
        }
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[100, 300, 1_000, 2_000, 3_000])
    parser.add_argument("--d", type=int, nargs="+", default=[64, 128, 512])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    faiss.omp_set_num_threads(asked.threads)
    MINING.worth(torch.device("cpu"), math.inf)
    for n in asked.n:
        for d in asked.d:
            told = compared(n, d, asked.rounds)
            print(json.dumps({"n": n, "d": d, "threads": asked.threads, "jobs": told}), flush=True)


if __name__ == "__main__":
    main()
