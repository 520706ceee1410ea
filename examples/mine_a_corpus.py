"""Hard negatives of queries from a corpus, written as other trainers read them.

    python examples/mine_a_corpus.py --out triplets.jsonl

Queries and corpus are drawings here, by pixels; texts or pictures embedded by any encoder go the same way. Positives
and negatives come from the corpus alone. Seconds.
"""

import argparse
import json
from pathlib import Path

import torch

from legolas_metric import EmbeddingBank, FalseNegativeGuard, HardMiner
from legolas_metric.datasets import load_omniglot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("triplets.jsonl"))
    parser.add_argument("--drawings", type=int, default=4000)
    options = parser.parse_args()

    data = load_omniglot().take(torch.arange(options.drawings))
    names = [f"{data.alphabet_names[a]} {label}" for a, label in zip(data.alphabets.tolist(), data.labels.tolist())]
    bank = EmbeddingBank(data.images.flatten(1).float(), names)  # labels may be names
    queries, corpus = bank.ids[data.drawers < 5], bank.ids[data.drawers >= 5]  # five people ask, fifteen answer

    miner = HardMiner(guard=FalseNegativeGuard(), per_anchor=4, ranks=(1, 30))
    triplets = miner.mine(bank, queries, candidates=corpus)
    print(triplets.stats)
    triplets.to_jsonl(options.out)
    print(f"wrote {options.out}: {len(triplets)} triplets; the first:")
    print(json.loads(options.out.read_text(encoding="utf-8").splitlines()[0]))


if __name__ == "__main__":
    main()
