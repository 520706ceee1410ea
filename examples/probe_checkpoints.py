"""Probe saved checkpoints: when did the embedding collapse, and what was it worth meanwhile?

    python examples/probe_checkpoints.py --folder checkpoints

Trains with the hardest triplets at too high a rate, saves the weights every few steps, then reads them as one would
after the fact. Half a minute.
"""

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from legolas_metric import EmbeddingBank, PKSampler, TripletLoss, evaluate_ranking, probe_embeddings
from legolas_metric.datasets import Omniglot, split_omniglot
from legolas_metric.encoders import Conv4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("checkpoints"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--drawings", type=int, default=2000, help="of each split")
    options = parser.parse_args()

    train, unseen = (part.take(torch.arange(len(part))[: options.drawings]) for part in split_omniglot())
    train_badly(train, options.folder, options.steps, options.every)

    print("step  verdict         effective rank  mean cosine  Rank@1")
    for path in sorted(options.folder.glob("step_*.pt")):
        encoder = Conv4()
        encoder.load_state_dict(torch.load(path, weights_only=True))
        bank = EmbeddingBank.encode(encoder, unseen, labels=unseen.labels, progress=False)
        seen, rank = probe_embeddings(bank), evaluate_ranking(bank).rank[1]
        step = int(path.stem.removeprefix("step_"))
        print(f"{step:4}  {seen.verdict:14}  {seen.effective_rank:14.1f}  {seen.mean_cosine:11.3f}  {rank:6.3f}")


def train_badly(train: Omniglot, folder: Path, steps: int, every: int) -> None:
    """Batch-hard triplets with a margin of 1 at a rate of 0.1, from the first step on."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    encoder, loss = Conv4(), TripletLoss(margin=1.0)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1)
    sampler = PKSampler(train.labels, 16, 4, batches_per_epoch=steps)
    for step, (images, labels) in enumerate(DataLoader(train, batch_sampler=sampler)):
        if step % every == 0:
            torch.save(encoder.state_dict(), folder / f"step_{step:04}.pt")
        optimizer.zero_grad()
        loss(encoder(images), labels).backward()
        optimizer.step()
    torch.save(encoder.state_dict(), folder / f"step_{steps:04}.pt")


if __name__ == "__main__":
    main()
