"""Global mining without a framework: embed, mine, co-batch, step; the bank is refreshed every few steps.

python examples/mine_in_a_plain_loop.py --rounds 4
"""

import argparse

import torch
from torch.utils.data import DataLoader

from legolas_metric import EmbeddingBank, SemiHardMiner, SupConLoss, TripletSampler, evaluate_ranking, probe_embeddings
from legolas_metric.datasets import split_omniglot
from legolas_metric.encoders import Conv4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100, help="between two refreshes of the bank")
    parser.add_argument("--drawings", type=int, default=None, help="of each split (default: all)")
    options = parser.parse_args()

    torch.manual_seed(0)
    train, validation = (part.take(torch.arange(len(part))[: options.drawings]) for part in split_omniglot())
    encoder, loss, miner = Conv4(), SupConLoss(temperature=0.1), SemiHardMiner(margin=0.2, on_empty="hardest")
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)

    for number in range(options.rounds):
        bank = EmbeddingBank.encode(encoder, train, labels=train.labels, step=number * options.steps)
        triplets = miner.mine(bank)
        print(f"round {number}: {len(triplets)} triplets, {triplets.stats}")
        sampler = TripletSampler(triplets, batch_size=128, seed=number)
        for (images, labels), _ in zip(DataLoader(train, batch_sampler=sampler), range(options.steps)):
            value = loss(encoder(images), labels)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

        judged = EmbeddingBank.encode(encoder, validation, labels=validation.labels)
        ranking, collapse = evaluate_ranking(judged.embeddings, judged.labels), probe_embeddings(judged.embeddings)
        print(
            f"  unseen: Rank@1 {ranking.rank[1]:.3f}, effective rank {collapse.effective_rank:.1f}, {collapse.verdict}"
        )


if __name__ == "__main__":
    main()
