"""A classifier on any encoder, on Lightning."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from legolas_metric.checks import UNLABELLED, check_number, check_whole
from legolas_metric.evaluation.classification import ClassificationReport
from legolas_metric.losses.focal import FocalLoss
from legolas_metric.training.class_balance import balancings, check_classes, mixed_accuracy, mixup
from legolas_metric.training.epoch_confusion import EpochConfusion
from legolas_metric.training.recording import record_event

Auxiliary = Mapping[str, tuple[float | int, Callable[[Tensor, Tensor], Tensor]]]


@dataclass(frozen=True, slots=True)
class TrainingEvent:
    """Something that happened to a run, as `history.jsonl` has it.

    Example:
        >>> from legolas_metric.training.classifier import TrainingEvent
        >>> TrainingEvent(3, 120, "one class", "all 40 rows were called 0").what
        'one class'
    """

    epoch: int
    step: int
    what: str
    why: str


class ClassifierLearner(L.LightningModule):
    """Train encoder and linear head as a classifier; batches are (inputs, labels) or (inputs, labels, ids).

    Logs `train_loss`, `train_accuracy`, `train_balanced_accuracy`, `train_macro_f1`, `train_mpca`, `train_precision`,
    `train_recall`, `train_f1_spread`, `train_empty_classes`, the same as `val_...`, `train_loss/{name}` of each
    auxiliary loss, and `lr`. Under mixup `train_accuracy` counts the mixed targets, and no other figure of training is
    logged.

    Args:
        encoder: maps inputs to [b, embedding_dim].
        num_classes: declared: the classes that can occur in training, validation and test.
        embedding_dim: width of the encoder's output.
        loss: `loss(logits, labels)` (default: cross-entropy, rows labelled -1 left out).
        class_weights: [c], in place of a loss: cross-entropy weighted by them.
        mixup_alpha: mix inputs and targets; 0 does not.
        auxiliary: name -> (weight, loss of embeddings and labels), added to the loss and logged apart.
        lr, weight_decay: of AdamW.
        schedule: makes a scheduler of the optimizer, stepped every epoch, such as `warm_restarts`.
        seed: of mixup.

    Attributes:
        events: double balancing, and epochs in which one class only was predicted; both are warned of too.
        reports: "train" and "val" -> the last epoch's `ClassificationReport`, with F1 of each class and the confusion
            matrix.

    Raises:
        ValueError: class weights of another length, together with a loss, or mixup together with focal or auxiliary
            losses, which take hard labels.

    Example:
        >>> import torch
        >>> from legolas_metric.training.classifier import ClassifierLearner
        >>> learner = ClassifierLearner(torch.nn.Linear(8, 4), 10, embedding_dim=4)
        >>> learner(torch.zeros(2, 8)).shape
        torch.Size([2, 10])

    Source: ours.
    """

    def __init__(
        self,
        encoder: nn.Module,
        num_classes: int,
        *,
        embedding_dim: int,
        loss: Callable[..., Tensor] | None = None,
        class_weights: Float[Tensor, " c"] | None = None,
        mixup_alpha: float | int = 0.0,
        auxiliary: Auxiliary | None = None,
        lr: float | int = 1e-3,
        weight_decay: float | int = 1e-4,
        schedule: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_number("mixup_alpha", mixup_alpha, least=0.0)
        self.num_classes = check_whole("num_classes", num_classes, 2)
        self.encoder = encoder
        self.head = nn.Linear(embedding_dim, num_classes)
        self.loss = _loss(loss, class_weights, num_classes)
        self.auxiliary = dict(auxiliary or {})
        if mixup_alpha and isinstance(self.loss, FocalLoss):
            raise ValueError("mixup has mixed targets, for which focal loss is not defined: leave out one of them")
        if mixup_alpha and self.auxiliary:
            raise ValueError("mixup has mixed targets, but auxiliary losses take hard labels: leave out one of them")
        self.mixup_alpha = float(mixup_alpha)
        self.lr, self.weight_decay, self.schedule, self.seed = lr, weight_decay, schedule, seed
        weights = {name: float(weight) for name, (weight, _) in self.auxiliary.items()}
        told = {"num_classes": self.num_classes, "mixup_alpha": self.mixup_alpha, "auxiliary_weights": weights}
        self.save_hyperparameters({"lr": lr, "weight_decay": weight_decay, **told})
        self.events: list[TrainingEvent] = []
        self.reports: dict[str, ClassificationReport] = {}
        self._counted = {"train": EpochConfusion(num_classes), "val": EpochConfusion(num_classes)}

    def forward(self, *inputs: Any) -> Float[Tensor, "b c"]:
        """Logits of a batch."""
        return self.head(self.encoder(*inputs))

    def on_train_start(self) -> None:
        """Name double balancing before the first epoch."""
        held = [getattr(self.trainer.train_dataloader, name, None) for name in ("sampler", "batch_sampler")]
        ways = balancings(self.loss, held)
        if len(ways) > 1:
            self._happened(
                "double balancing", f"rare classes are favoured by {' and by '.join(ways)}: keep one of them"
            )

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:
        """One step.

        Raises:
            ValueError: labels that no class stands for.
        """
        inputs, labels = batch[0], batch[1]
        check_classes(labels, self.num_classes)
        self._log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], labels)
        if self.mixup_alpha:
            return self._mixed_step(inputs, labels)
        embeddings = self.encoder(inputs)
        logits = self.head(embeddings)
        self._counted["train"].update(logits, labels)
        total = self.loss(logits, labels)
        self._log("train_loss", total, labels)
        for name, (weight, loss) in self.auxiliary.items():
            extra = loss(embeddings, labels)
            self._log(f"train_loss/{name}", extra, labels)
            total = total + weight * extra
        return total

    def _mixed_step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        labelled = labels != UNLABELLED
        seed = self.seed * 1_000_003 + self.global_step  # of the step, so that a resumed run draws what it would have
        mixed, targets = mixup(inputs[labelled], labels[labelled], self.num_classes, alpha=self.mixup_alpha, seed=seed)
        logits = self(mixed)
        loss = self.loss(logits, targets)
        self._log("train_loss", loss, labels)
        self._log("train_accuracy", mixed_accuracy(logits, targets), labels)
        return loss

    def validation_step(self, batch: Sequence[Any], batch_idx: int) -> None:
        """Count a batch of the validation set.

        Raises:
            ValueError: labels that no class stands for.
        """
        inputs, labels = batch[0], batch[1]
        check_classes(labels, self.num_classes)
        logits = self(inputs)
        self._counted["val"].update(logits, labels)
        self._log("val_loss", self.loss(logits, labels), labels)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's figures."""
        self._finish("train")

    def on_validation_epoch_end(self) -> None:
        """Log the validation figures."""
        if self.trainer.sanity_checking:
            self._counted["val"].reset()
        else:
            self._finish("val")

    def _finish(self, part: str) -> None:
        counted = self._counted[part]
        report = counted.report()
        if report is not None:
            self.reports[part] = report
            self.log_dict({f"{part}_{name}": value for name, value in counted.values().items()})
            only = counted.only_class()
            if only is not None:
                rows = int(counted.counts.sum())
                self._happened("one class", f"all {rows} {part} rows of epoch {self.current_epoch} were called {only}")
        counted.reset()

    def _happened(self, what: str, why: str) -> None:
        self.events.append(TrainingEvent(self.current_epoch, self.global_step, what, why))
        record_event(self.trainer, epoch=self.current_epoch + 1, what=what, why=why)
        warnings.warn(f"{what}: {why}", stacklevel=2)

    def _log(self, name: str, value: Tensor | float, labels: Tensor) -> None:
        self.log(name, value, on_step=False, on_epoch=True, batch_size=len(labels))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the events."""
        checkpoint["events"] = [asdict(event) for event in self.events]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the events."""
        self.events = [TrainingEvent(**event) for event in checkpoint.get("events", [])]

    def configure_optimizers(self) -> Any:
        """AdamW, and the scheduler that was asked for."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        return (
            optimizer if self.schedule is None else {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}
        )


def _loss(
    loss: Callable[..., Tensor] | None, class_weights: Float[Tensor, " c"] | None, num_classes: int
) -> Callable[..., Tensor]:
    if class_weights is None:
        return nn.CrossEntropyLoss(ignore_index=UNLABELLED) if loss is None else loss
    if loss is not None:
        raise ValueError("class_weights belong to cross-entropy: give them to the loss itself, or leave out the loss")
    if len(class_weights) != num_classes:
        raise ValueError(f"class_weights has {len(class_weights)} entries for {num_classes} classes")
    return nn.CrossEntropyLoss(weight=class_weights.float(), ignore_index=UNLABELLED)
