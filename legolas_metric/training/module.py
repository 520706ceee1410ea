"""The training loop's module: an encoder, a loss, and the triplets that were mined for the batch."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from legolas_metric.checks import check_at_least
from legolas_metric.datasets.embedding import call_encoder
from legolas_metric.losses.bank_loss import BankLoss
from legolas_metric.records import Triplets
from legolas_metric.training.module_encoder import world_of


class MetricLearner(L.LightningModule):
    """Minimise a metric loss over batches of (inputs, labels) or (inputs, labels, ids), by AdamW on one cycle.

    The loss may have parameters, as proxies are, which are trained with the encoder's. A `BankLoss` is given the ids
    and the step. Prediction (`Trainer.predict`) embeds: the inputs alone, or the first part of a batch.

    `GlobalMining` sets `triplets` to have the loss see only the mined ones that lie in the batch; None leaves every
    pair of the batch to the loss. The mean loss of an epoch is logged as `train_loss`, its mean rate as `lr`.

    Args:
        encoder: maps inputs to [b, d]; a tuple of inputs as positional arguments, anything else as one.
        loss: PML's call, `loss(embeddings, labels, indices_tuple)`; None to predict only.
        lr: highest learning rate of the cycle.
        weight_decay: of AdamW.
        loss_lr: learning rate of the loss's parameters (default: lr); they are not decayed.
        gather: on several processes, have the loss compare each row with the rows of all, so that a run is that of one
            process on the joint batch; for losses with a `gather` of their own, which is set when training begins.
        optimizer: makes the optimiser of parameter groups with their lr: `lambda groups: torch.optim.SGD(groups)`.
        schedule: makes the scheduler of the optimiser, stepped after every batch: `lambda optimizer: ...`; a function
            that returns None leaves the rate as it is. The default, one cycle over all steps, needs to know how many
            there are: max_epochs or max_steps of the Trainer.

    Raises:
        TypeError: a loss, optimiser or schedule that can't be called.
        ValueError: a rate or decay below 0; when training begins, a cycle over a run without end.

    Example:
        >>> from legolas_metric import SupConLoss
        >>> from legolas_metric.encoders import Conv4
        >>> from legolas_metric.training import MetricLearner
        >>> learner = MetricLearner(Conv4(), SupConLoss(temperature=0.1), lr=2e-3)

    From a checkpoint: `MetricLearner.load_from_checkpoint(path, encoder=Conv4())` has the weights; pass `loss=` too to
    train on.

    Source: ours.
    """

    triplets: Triplets | None = None

    def __init__(
        self,
        encoder: nn.Module,
        loss: Callable[..., Tensor] | None = None,
        *,
        lr: float | int = 2e-3,
        weight_decay: float | int = 1e-4,
        loss_lr: float | int | None = None,
        gather: bool = False,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer] | None = None,
        schedule: Callable[[Optimizer], Any] | None = None,
    ) -> None:
        super().__init__()
        for name, given in (("loss", loss), ("optimizer", optimizer), ("schedule", schedule)):
            if given is not None and (isinstance(given, type) or not callable(given)):
                raise TypeError(f"{name} must be a function, or an object that can be called, got {given!r}")
        for name, rate in (("lr", lr), ("weight_decay", weight_decay), ("loss_lr", 0 if loss_lr is None else loss_lr)):
            check_at_least(name, rate, 0)
        if gather and not hasattr(loss, "gather"):
            raise ValueError(f"gather=True needs a loss that has it, such as SupConLoss(), got {loss!r}")
        self.encoder, self.loss, self.gather = encoder, loss, gather
        self.lr, self.loss_lr, self.weight_decay = lr, loss_lr, weight_decay
        self._optimizer, self._schedule = optimizer, schedule
        self.save_hyperparameters({"lr": lr, "loss_lr": loss_lr, "weight_decay": weight_decay})

    def forward(self, *inputs: Any) -> Float[Tensor, "b d"]:
        """Embed a batch."""
        return self.encoder(*inputs)

    def on_fit_start(self) -> None:
        """Tell the loss of the processes that train together, where it is to gather their rows."""
        if self.gather:
            self.loss.gather = world_of(self.trainer)  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue, reportFunctionMemberAccess]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step: the loss over a batch, or over its mined triplets.

        Raises:
            ValueError: no loss, or mined triplets and a batch without ids.
        """
        if self.loss is None:
            raise ValueError("this MetricLearner has no loss: pass loss, to train it")
        inputs, labels, ids = _parts(batch)
        if ids is None and (self.triplets is not None or isinstance(self.loss, BankLoss)):
            raise ValueError(
                "mined triplets and BankLoss need the ids of the batch's rows: train on mining.loader(), or on batches "
                "of (inputs, labels, ids), as WithIds(dataset) gives them"
            )
        embeddings = call_encoder(self.encoder, inputs)
        if isinstance(self.loss, BankLoss):
            assert ids is not None
            loss = self.loss(embeddings, labels, self.triplets, ids=ids, step=self.global_step)
        elif self.triplets is None or ids is None:
            loss = self.loss(embeddings, labels, None)
        elif self.gather:
            loss = self.loss(embeddings, labels, *self._joint(self.triplets, embeddings, labels, ids))
        else:
            loss = self.loss(embeddings, labels, self.triplets.locate(ids))
        assert isinstance(loss, Tensor)
        self.log(
            "train_loss",
            loss.detach(),
            prog_bar=True,
            on_step=False,
            on_epoch=True,
            batch_size=len(labels),
            sync_dist=True,
        )
        if self._trainer is not None:  # a step that is taken by hand has none
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            self.log("lr", rate, on_step=False, on_epoch=True, batch_size=len(labels), sync_dist=True)
        return loss

    def _joint(self, triplets: Triplets, embeddings: Tensor, labels: Tensor, ids: Tensor) -> tuple[Any, Tensor, Tensor]:
        """The mined triplets of the joint batch whose anchors are this process's, and those rows."""
        world = world_of(self.trainer)
        begin = world.offset(len(ids), ids.device)
        a, p, n = triplets.locate(world.gather(ids))
        own = (a >= begin) & (a < begin + len(ids))
        return (a[own] - begin, p[own], n[own]), world.gather(embeddings), world.gather(labels)

    def predict_step(self, batch: Any, batch_idx: int = 0) -> Float[Tensor, "b d"]:
        """Embed the inputs of a batch."""
        return call_encoder(self.encoder, batch[0] if isinstance(batch, tuple | list) else batch)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Without a loss of its own, a module for prediction leaves the saved one's parameters behind."""
        if self.loss is None:
            weights: Mapping[str, Any] = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: part for name, part in weights.items() if not name.startswith("loss.")}

    def configure_optimizers(self) -> Any:
        """AdamW on one cycle, or what was asked for; the loss's parameters in a group of their own.

        Raises:
            ValueError: a cycle over a run that has no end.
        """
        groups = [{"params": list(self.encoder.parameters()), "lr": self.lr, "weight_decay": self.weight_decay}]
        own = list(self.loss.parameters()) if isinstance(self.loss, nn.Module) else []
        if own:
            rate = self.lr if self.loss_lr is None else self.loss_lr
            groups.append({"params": own, "lr": rate, "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups) if self._optimizer is None else self._optimizer(groups)
        if self._schedule is not None:
            schedule = self._schedule(optimizer)
            return optimizer if schedule is None else _each_step(optimizer, schedule)
        if self.trainer.max_epochs == -1 and self.trainer.max_steps == -1:
            raise ValueError(
                "one cycle of the learning rate goes over all steps, and this run has no end: set max_epochs or "
                "max_steps of the Trainer, or pass MetricLearner(schedule=...) (lambda optimizer: None keeps the rate)"
            )
        # A function has no state, whereas a scheduler saves the attributes of a method.
        cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._share_of_lr(step))
        return _each_step(optimizer, cycle)

    def _share_of_lr(self, step: int) -> float:
        # The scheduler asks for step 0 when it is built. To count the steps then would have the loader's workers draw
        # batches before `GlobalMining` has mined any.
        return one_cycle(step, int(self.trainer.estimated_stepping_batches) if step else 1)


def one_cycle(step: int, total: int, *, warm_up: float = 0.1, start: float = 1 / 25, end: float = 1e-4) -> float:
    """Share of the highest rate at a step of `total`: start -> 1 -> end, each on half a cosine.

    Source: Smith and Topin (2017), Super-Convergence, arXiv:1708.07120.
    """
    peak = warm_up * total
    low, through = (start, step / peak) if step < peak else (end, 1 - (step - peak) / max(total - peak, 1))
    return low + (1 - low) * (1 - math.cos(math.pi * min(max(through, 0.0), 1.0))) / 2


def _parts(batch: Any) -> tuple[Any, Tensor, Tensor | None]:
    """Inputs, labels and, where they came, ids."""
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        what = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
        raise ValueError(f"MetricLearner trains on batches of (inputs, labels) or (inputs, labels, ids), got {what}")
    inputs, labels, *ids = batch
    return inputs, labels, ids[0] if ids else None


def _each_step(optimizer: Optimizer, schedule: Any) -> dict[str, Any]:
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
