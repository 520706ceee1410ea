"""Global mining on several processes: each embeds its share, all hold the same bank and triplets, batches are disjoint.

    torchrun --nproc_per_node 2 examples/several_processes.py --epochs 2

Runs alone, too: `python examples/several_processes.py`. On GPUs, set the device and "nccl". One to two minutes.
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from legolas_metric import EmbeddingBank, HardMiner, MiningLoop, SupConLoss, evaluate_ranking
from legolas_metric.datasets import split_omniglot
from legolas_metric.distributed import World
from legolas_metric.encoders import Conv4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60, help="an epoch")
    parser.add_argument("--drawings", type=int, default=None, help="of each split (default: all)")
    options = parser.parse_args()

    if "RANK" in os.environ:  # under torchrun
        dist.init_process_group("gloo")
    train(options, World.current(averages_gradients=True))
    # Only now, when the DistributedDataParallel is gone: if it held the group last, PyTorch could wait for itself.
    if dist.is_initialized():
        dist.destroy_process_group()


def train(options: argparse.Namespace, world: World) -> None:
    torch.manual_seed(0)
    seen, unseen = (part.take(torch.arange(len(part))[: options.drawings]) for part in split_omniglot())
    encoder = Conv4()
    model = DistributedDataParallel(encoder) if world.size > 1 else encoder
    loss = SupConLoss(temperature=0.05, gather=world)  # over the joint batch
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    loop = MiningLoop(
        seen,
        seen.labels,
        miner=HardMiner(ranks=(1, 10)),
        batch_size=96 // world.size,
        steps_per_epoch=options.steps,
        world=world,
        progress=False,
    )
    for epoch in range(options.epochs):
        for images, labels, _ in loop.epoch(encoder):
            optimizer.zero_grad()
            loss(model(images), labels).backward()
            optimizer.step()
        if world.rank == 0:
            bank = EmbeddingBank.encode(encoder, unseen, labels=unseen.labels, progress=False)
            print(f"epoch {epoch}, {world.size} processes: unseen Rank@1 {evaluate_ranking(bank).rank[1]:.3f}")


if __name__ == "__main__":
    main()
