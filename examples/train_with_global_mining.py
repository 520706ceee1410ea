"""Train on the bundled characters with global mining, and rank characters that were never seen.

    python examples/train_with_global_mining.py --epochs 8

Needs the extra `train`. The full comparison, with a report, is `legolas-metric demo`.
"""

import argparse

import lightning as L
import torch

from legolas_metric import FullHardMiner, MiningSchedule, RandomMiner, SemiHardMiner, SupConLoss
from legolas_metric.datasets import split_omniglot
from legolas_metric.encoders import Conv4
from legolas_metric.training import GlobalMining, MetricLearner, ValidationMonitor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, help="steps an epoch (default: one pass over the data)")
    parser.add_argument("--drawings", type=int, default=None, help="of each split (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    L.seed_everything(options.seed, verbose=False)
    train, validation = (
        part.take(torch.arange(len(part))[: options.drawings]) for part in split_omniglot(seed=options.seed)
    )
    third = max(1, options.epochs // 3)
    schedule = MiningSchedule([(0, RandomMiner()), (third, SemiHardMiner()), (2 * third, FullHardMiner())])
    mining = GlobalMining(
        train, train.labels, schedule=schedule, turns=("mined", "random"), steps_per_epoch=options.steps
    )
    monitor = ValidationMonitor(validation, validation.labels)
    trainer = L.Trainer(
        max_epochs=options.epochs,
        callbacks=[mining, monitor],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(MetricLearner(Conv4(), SupConLoss()), mining.loader())

    for record in monitor.history:
        print(f"epoch {record.epoch}: Rank@1 {record.ranking.rank[1]:.3f}, MAP@R {record.ranking.map_at_r:.3f}")
    for mined in mining.rounds:
        print(f"epoch {mined.epoch}: {mined.miner}, {len(mined.triplets)} triplets, drift {mined.drift}")


if __name__ == "__main__":
    main()
