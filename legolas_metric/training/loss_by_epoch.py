"""The loss of a recipe's warm-up, and then its own."""

import lightning as L

from legolas_metric.recipes import Recipe


class LossByEpoch(L.Callback):
    """Gives a `MetricLearner` the loss that its recipe has in each epoch: warm-ups end."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Change the loss."""
        pl_module.loss = self.recipe.build_loss(trainer.current_epoch)
