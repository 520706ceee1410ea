"""From heartbeats to a decision: a threshold for a false accept rate of 1 %, and what it does to other persons.

    python examples/ecg_to_a_threshold.py --steps 120

A third of the persons trains the encoder, a third chooses the threshold, a third tries it. About half a minute.
"""

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from legolas_metric import (
    DecisionRule,
    EmbeddingBank,
    PKSampler,
    SupConLoss,
    class_disjoint_folds,
    evaluate_verification,
)
from legolas_metric.datasets import EcgBeats, load_ecg_id
from legolas_metric.encoders import ResNet1D

BUNDLED = Path(__file__).parent / "data/ecgid_dev.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=BUNDLED)
    parser.add_argument("--steps", type=int, default=120)
    options = parser.parse_args()

    torch.manual_seed(0)
    beats = load_ecg_id(options.data)
    train, choosing, trying = (beats.take(unseen) for _, unseen in class_disjoint_folds(beats.labels, 3, seed=0))
    encoder, loss = ResNet1D(), SupConLoss(temperature=0.05)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3)
    sampler = PKSampler(train.labels, min(12, len(train.labels.unique())), 4, batches_per_epoch=options.steps)
    for signals, labels in DataLoader(TensorDataset(train.signals, train.labels), batch_sampler=sampler):
        optimizer.zero_grad()
        loss(encoder(signals), labels).backward()
        optimizer.step()

    for whom, part in (("persons that it was trained on", train), ("persons that it never saw", choosing)):
        rule = DecisionRule.fit(evaluate_verification(embedded(encoder, part), fars=0.01), far=0.01)
        decision = rule.apply(embedded(encoder, trying))
        print(f"threshold {rule.threshold:.3f} for a FAR of 0.01, chosen on {whom}")
        print(f"  on others: FAR {decision.far:.4f}, FRR {decision.frr:.3f}")


def embedded(encoder: torch.nn.Module, part: EcgBeats) -> EmbeddingBank:
    """The beats with the recording that each is from."""
    return EmbeddingBank.encode(encoder, part.signals, labels=part.labels, groups=part.recordings, progress=False)


if __name__ == "__main__":
    main()
