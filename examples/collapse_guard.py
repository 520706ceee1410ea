"""A bad set-up on purpose (hardest negatives from the first step, margin 1, high rate), without a guard and with one.

python examples/collapse_guard.py --seed 0
"""

import argparse
from copy import deepcopy

import torch
from torch import Tensor, nn

from legolas_metric import (
    CollapseGuard,
    CollapseReport,
    FullHardMiner,
    MiningSchedule,
    PKSampler,
    SemiHardMiner,
    TripletLoss,
    evaluate_ranking,
    probe_embeddings,
)
from legolas_metric.datasets import Omniglot, split_omniglot
from legolas_metric.encoders import Conv4


@torch.no_grad()
def embed(encoder: nn.Module, data: Omniglot) -> Tensor:
    """Embeddings of all drawings, by the encoder as it would be used."""
    encoder.eval()
    parts = [encoder(images[:, None].float() / 255) for images in data.images.split(500)]
    encoder.train()
    return torch.cat(parts)


def run(
    train: Omniglot, *, guarded: bool, rounds: int, steps: int, rate: float, seed: int
) -> tuple[Conv4, CollapseReport, float]:
    """Train, probe after every round, and act on it if guarded: the encoder, the last report and the last mean loss."""
    torch.manual_seed(seed)
    encoder, loss = Conv4(), TripletLoss(margin=1.0)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=rate)
    # Full-hard from round 1, with which training starts; after a step back, semi-hard to the end.
    schedule = MiningSchedule([(0, SemiHardMiner()), (1, FullHardMiner())], hold=rounds)
    guard = CollapseGuard("step_back", schedule=schedule) if guarded else None
    sampler = PKSampler(train.labels, p=16, k=8, batches_per_epoch=steps, seed=seed)
    some = train.take(torch.arange(0, len(train), 3))
    report, mean = probe_embeddings(embed(encoder, some), some.labels), float("nan")
    healthy = deepcopy(encoder.state_dict())
    print(f"round  0 {'untrained':13}            R {report.resultant_length:.5f} {report.verdict}")
    for number in range(1, rounds + 1):
        miner = schedule.advance(number)
        sampler.set_epoch(number)
        values: list[float] = []
        for batch in sampler:
            embeddings, labels = encoder(train.images[batch, None].float() / 255), train.labels[batch]
            value = loss(embeddings, labels, miner(embeddings.detach(), labels))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
        report, mean = probe_embeddings(embed(encoder, some), some.labels), sum(values) / len(values)
        used = type(miner).__name__
        print(f"round {number:2} {used:13} loss {mean:.3f} R {report.resultant_length:.5f} {report.verdict}")
        action = guard.check(report, epoch=number + 1) if guard else None
        if action is None:
            healthy = deepcopy(encoder.state_dict())
        else:  # the schedule has stepped back; go on from the last healthy weights
            print(f"         {action.act}: {'; '.join(action.evidence)}")
            encoder.load_state_dict(healthy)
            optimizer = torch.optim.Adam(encoder.parameters(), lr=rate)
    return encoder, report, mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=25, help="of a round, after which the embeddings are probed")
    parser.add_argument("--rate", type=float, default=0.1, help="learning rate")
    parser.add_argument("--drawings", type=int, default=3000, help="of each split")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the batches")
    options = parser.parse_args()
    train, unseen = (part.take(torch.arange(len(part))[: options.drawings]) for part in split_omniglot())
    settings = {"rounds": options.rounds, "steps": options.steps, "rate": options.rate, "seed": options.seed}
    for guarded in (False, True):
        print("with a guard" if guarded else "without a guard")
        encoder, _, _ = run(train, guarded=guarded, **settings)
        print(
            f"         unseen characters: Rank@1 {evaluate_ranking(embed(encoder, unseen), unseen.labels).rank[1]:.3f}"
        )


if __name__ == "__main__":
    main()
