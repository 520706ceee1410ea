"""A bad set-up on purpose (hardest negatives from the first step, margin 1, high rate), without a guard and with one.

python examples/collapse_guard.py --rounds 8
"""

import argparse

import torch

from legolas_metric import (
    CollapseGuard,
    EmbeddingBank,
    FullHardMiner,
    MiningSchedule,
    RandomMiner,
    TripletLoss,
    TripletSampler,
    evaluate_ranking,
    probe_embeddings,
)
from legolas_metric.datasets import Omniglot, split_omniglot
from legolas_metric.encoders import Conv4


def run(train: Omniglot, validation: Omniglot, *, guarded: bool, rounds: int, steps: int, rate: float) -> float:
    """Train, look at the bank after every round, and act on it if guarded; Rank@1 on characters never seen."""
    torch.manual_seed(0)
    encoder, loss = Conv4(), TripletLoss(margin=1.0)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=rate)
    # Full-hard from round 1, with which training starts; after a step back, random negatives to the end.
    schedule = MiningSchedule([(0, RandomMiner()), (1, FullHardMiner())], hold=rounds)
    guard = CollapseGuard("step_back", schedule=schedule, plateau=loss.margin) if guarded else None
    images = train.images[:, None].float() / 255
    bank = EmbeddingBank.encode(encoder, train, labels=train.labels, progress=False)
    for number in range(1, rounds + 1):
        triplets = schedule.advance(number).mine(bank)
        values: list[float] = []
        for batch, _ in zip(TripletSampler(triplets, batch_size=128, seed=number), range(steps)):
            rows = torch.tensor(batch)
            value = loss(encoder(images[rows]), train.labels[rows], triplets.locate(rows))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
        bank = EmbeddingBank.encode(encoder, train, labels=train.labels, progress=False)
        report, mean = probe_embeddings(bank.embeddings, bank.labels), sum(values) / len(values)
        miner = type(schedule.miner).__name__
        print(f"round {number:2} {miner:13} loss {mean:.3f} R {report.resultant_length:.4f} {report.verdict}")
        action = guard.check(report, epoch=number + 1, loss=mean) if guard else None
        if action:
            print(f"         {action.act}: {'; '.join(action.evidence)}")
    judged = EmbeddingBank.encode(encoder, validation, labels=validation.labels, progress=False)
    return evaluate_ranking(judged.embeddings, judged.labels).rank[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=25, help="of a round, after which the bank is embedded anew")
    parser.add_argument("--rate", type=float, default=1e-2, help="learning rate")
    parser.add_argument("--drawings", type=int, default=3000, help="of each split")
    options = parser.parse_args()
    train, validation = (part.take(torch.arange(len(part))[: options.drawings]) for part in split_omniglot())
    for guarded in (False, True):
        print("with a guard" if guarded else "without a guard")
        rank = run(train, validation, guarded=guarded, rounds=options.rounds, steps=options.steps, rate=options.rate)
        print(f"         unseen characters: Rank@1 {rank:.3f}")


if __name__ == "__main__":
    main()
