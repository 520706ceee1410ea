"""Global mining in a LightningModule of your own: two callbacks, and the module stays as it is.

    python examples/own_lightning_module.py --epochs 4

The encoder is found by name, the module's batches gain the ids of their rows. Needs the extra `train`. About a minute.
"""

import argparse

import lightning as L
import torch

from legolas_metric import FullHardMiner, MiningSchedule, SemiHardMiner, TripletLoss
from legolas_metric.datasets import split_omniglot
from legolas_metric.encoders import Conv4
from legolas_metric.training import GlobalMining, ValidationMonitor


class MyModule(L.LightningModule):
    """As one has it: a backbone under a name of its own, a loss, an optimiser."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Conv4()
        self.loss = TripletLoss(margin=0.2, selection="all")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(images)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels, _ids = batch
        value = self.loss(self(images), labels)
        self.log("train_loss", value)
        return value

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60, help="an epoch")
    parser.add_argument("--drawings", type=int, default=None, help="of each split (default: all)")
    options = parser.parse_args()

    L.seed_everything(0, verbose=False)
    train, unseen = (part.take(torch.arange(len(part))[: options.drawings]) for part in split_omniglot())
    mining = GlobalMining(
        train,
        train.labels,
        schedule=MiningSchedule([(0, SemiHardMiner(on_empty="hardest")), (options.epochs // 2, FullHardMiner())]),
        encoder="backbone",
        steps_per_epoch=options.steps,
    )
    monitor = ValidationMonitor(unseen, unseen.labels, encoder="backbone")
    trainer = L.Trainer(
        max_epochs=options.epochs,
        callbacks=[mining, monitor],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(MyModule(), mining.loader())
    for record in monitor.history:  # epoch 0 is the untrained encoder
        print(f"epoch {record.epoch}: Rank@1 {record.ranking.rank[1]:.3f}, MAP@R {record.ranking.map_at_r:.3f}")


if __name__ == "__main__":
    main()
