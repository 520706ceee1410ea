"""Global mining in a training loop of pytorch-metric-learning: its loss, its batch miner, our batches.

    python examples/drop_into_pml.py --epochs 3

The bank is embedded anew before each epoch; batches hold mined triplets, of which PML's loss is given those that lie
whole in the batch. About a minute.
"""

import argparse

import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from legolas_metric import EmbeddingBank, ExactIndex, HardMiner, MiningLoop
from legolas_metric.datasets import split_omniglot
from legolas_metric.encoders import Conv4
from legolas_metric.interop.pml import as_knn_func


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80, help="an epoch")
    parser.add_argument("--drawings", type=int, default=None, help="of each split (default: all)")
    options = parser.parse_args()

    torch.manual_seed(0)
    train, unseen = (part.take(torch.arange(len(part))[: options.drawings]) for part in split_omniglot())
    encoder, loss = Conv4(), losses.TripletMarginLoss(margin=0.2)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    loop = MiningLoop(
        train,
        train.labels,
        miner=HardMiner(ranks=(1, 10)),
        batch_size=96,
        steps_per_epoch=options.steps,
        progress=False,
    )
    for epoch in range(options.epochs):
        for images, labels, ids in loop.epoch(encoder):
            value = loss(encoder(images), labels, loop.indices(ids))  # a tuple of anchors, positives, negatives
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        print(f"epoch {epoch}: last loss {value.item():.3f}; {loop.last.summary()}")

    bank = EmbeddingBank.encode(encoder, unseen, labels=unseen.labels, progress=False)
    measures = ("precision_at_1", "mean_average_precision_at_r")
    calculator = AccuracyCalculator(measures, knn_func=as_knn_func(ExactIndex()))
    print(calculator.get_accuracy(bank.embeddings, bank.labels))


if __name__ == "__main__":
    main()
