"""Few-shot: 20-way 1-shot and 5-shot accuracy on characters of alphabets that were never seen.

    python examples/few_shot.py --steps 300

Episodes within one alphabet are the harder question: its characters look alike. About a minute.
"""

import argparse

import torch
from torch.utils.data import DataLoader

from legolas_metric import EmbeddingBank, PKSampler, RetrievalProtocol, SupConLoss, evaluate_ranking
from legolas_metric.datasets import Omniglot, split_omniglot
from legolas_metric.encoders import Conv4

QUESTIONS = {
    "20-way 1-shot": {"shots": 1},
    "20-way 5-shot, prototypes": {"shots": 5, "prototypes": True},
    "20-way 1-shot within an alphabet": {"shots": 1, "within_group": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--episodes", type=int, default=1000, help="of each kind")
    options = parser.parse_args()

    torch.manual_seed(0)
    train, unseen = split_omniglot()
    encoder, loss = Conv4(), SupConLoss(temperature=0.02)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3)
    tell("untrained", encoder, unseen, options.episodes)
    sampler = PKSampler(train.labels, 24, 4, batches_per_epoch=options.steps)
    for images, labels in DataLoader(train, batch_sampler=sampler):
        optimizer.zero_grad()
        loss(encoder(images), labels).backward()
        optimizer.step()
    tell(f"{options.steps} steps", encoder, unseen, options.episodes)


def tell(when: str, encoder: torch.nn.Module, data: Omniglot, episodes: int) -> None:
    """Print the accuracy in so many episodes of each kind."""
    bank = EmbeddingBank.encode(encoder, data, labels=data.labels, groups=data.alphabets, progress=False)
    for question, settings in QUESTIONS.items():
        protocol = RetrievalProtocol.few_shot(ways=20, episodes=episodes, **settings)
        print(f"{when}: {question} {evaluate_ranking(bank, protocol=protocol).rank[1]:.3f}")


if __name__ == "__main__":
    main()
