"""The smallest loop that trains an embedding: PK batches, one loss, and an honest look before and after.

    python examples/smallest_loop.py --steps 200

About half a minute. Everything is plain PyTorch but for the sampler, the loss and the ranking.
"""

import argparse

import torch
from torch.utils.data import DataLoader

from legolas_metric import EmbeddingBank, PKSampler, SupConLoss, evaluate_ranking
from legolas_metric.datasets import Omniglot, split_omniglot
from legolas_metric.encoders import Conv4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--drawings", type=int, default=None, help="of each split (default: all)")
    options = parser.parse_args()

    torch.manual_seed(0)
    train, unseen = (part.take(torch.arange(len(part))[: options.drawings]) for part in split_omniglot())
    encoder, loss = Conv4(), SupConLoss(temperature=0.05)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3)
    print(f"untrained: Rank@1 {judged(encoder, unseen):.3f}")

    sampler = PKSampler(train.labels, 24, 4, batches_per_epoch=options.steps)
    for images, labels in DataLoader(train, batch_sampler=sampler):
        optimizer.zero_grad()
        loss(encoder(images), labels).backward()
        optimizer.step()
    print(f"after {options.steps} steps: Rank@1 {judged(encoder, unseen):.3f}")


def judged(encoder: torch.nn.Module, data: Omniglot) -> float:
    """Share of the unseen drawings whose nearest other drawing is of the same character."""
    bank = EmbeddingBank.encode(encoder, data, labels=data.labels, progress=False)
    return evaluate_ranking(bank).rank[1]


if __name__ == "__main__":
    main()
