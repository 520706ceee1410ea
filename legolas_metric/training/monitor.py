"""What an epoch did to embeddings of classes that were never trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import lightning as L
import torch
from jaxtyping import Int64
from torch import Tensor

from legolas_metric.bank import EmbeddingBank
from legolas_metric.checks import ArrayLike, Metric, check_whole
from legolas_metric.datasets.embedding import Collate, PassSettings
from legolas_metric.datasets.source import Inputs, Source
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.evaluation.ranking import evaluate_ranking
from legolas_metric.evaluation.ranking_report import RankingReport
from legolas_metric.probes.collapse import probe_embeddings
from legolas_metric.rows import as_groups, as_ids, as_labels
from legolas_metric.training.embedder import Embedder, Placed
from legolas_metric.training.encoder_option import EncoderOption, check_encoder
from legolas_metric.training.epoch_record import EpochRecord
from legolas_metric.training.module_encoder import placed_encoder, trained_encoder, world_of
from legolas_metric.training.recording import (
    HistoryOption,
    check_history,
    log_values,
    record_end,
    record_epoch,
    record_failure,
    record_start,
    writes,
)
from legolas_metric.training.resume import as_plain, as_record


class ValidationMonitor(L.Callback):
    """Embed a validation set before training and after every epoch; rank it, probe it, log both, keep both.

    Logs `rank_at_1`, `map_at_r`, `effective_rank`, `mean_cosine`, `top1_variance` and more of the first protocol; with
    several, the ranking of each also under `rank_at_1/<protocol's name>`. A monitor with a name logs `<name>_rank_at_1`
    and so on: "train" for part of the training set, beside the monitor of unseen classes. The reports are in `history`;
    epoch 0 is the untrained encoder, in a resumed run too, and it is the `baseline` of every later ranking's
    difference. For any LightningModule; the encoder embeds in the Trainer's precision, on the module's device.

    Behaviour in corner cases: an epoch that `every` leaves out is neither measured nor logged again; a run that resumes
    from a checkpoint of an epoch's last step measures that epoch first, since its validation was still to come. Of the
    epochs between the first and the last, a checkpoint keeps the figures and not the single queries.

    Args:
        dataset: an array, or any object with `len` and `[]`: items x or (x, ...), of classes not trained on.
        labels: [n] integers.
        groups: [n], session, camera, recording: what a protocol may ask to differ.
        protocol: a `RetrievalProtocol`, or several with different names (default: leave-one-out).
        metric: "cosine", "dot" or "euclidean".
        every: measure every so many epochs; the first measure is always that of epoch 0.
        ids: [n], see `EmbeddingBank`.
        name: goes before the names of all that is logged; several monitors of one Trainer have names of their own.
        encoder: of the LightningModule: an attribute's name, or a function of the module (default: the one that a
            `GlobalMining` of the same Trainer was given, else `module.encoder`, else the module itself).
        embed_batch_size, num_workers, collate_fn, pin_memory, persistent_workers: how the data set is read, see
            `EmbeddingBank.encode`.
        history: a `RunHistory` or its path (default: `history.jsonl` in the folder of the Trainer's logger, or in a
            `default_root_dir` of its own); False for none.

    Raises:
        TypeError, ValueError: settings of another type or out of bounds, lengths that differ, protocols of one name.
            (Two monitors of one name are refused by Lightning, when the Trainer is made.)

    Example:
        >>> from legolas_metric.datasets import split_omniglot
        >>> from legolas_metric.training import ValidationMonitor
        >>> train, validation = split_omniglot()
        >>> monitor = ValidationMonitor(validation, validation.labels)
        >>> monitor.history
        []

    Source: ours.
    """

    def __init__(
        self,
        dataset: Source,
        labels: ArrayLike,
        *,
        groups: ArrayLike | None = None,
        protocol: RetrievalProtocol | Sequence[RetrievalProtocol] | None = None,
        metric: Metric = "cosine",
        every: int = 1,
        ids: ArrayLike | None = None,
        name: str = "",
        encoder: EncoderOption = None,
        embed_batch_size: int = 512,
        num_workers: int = 0,
        collate_fn: Collate | None = None,
        pin_memory: bool = False,
        persistent_workers: bool = False,
        history: HistoryOption = None,
    ) -> None:
        super().__init__()
        check_encoder(encoder)
        check_history(history)
        if not isinstance(name, str):
            raise TypeError(f"name must be text, got {name!r}")
        self.prefix = f"{name}_" if name else ""
        self.every = check_whole("every", every, 1)
        self.protocols = _as_protocols(protocol)
        self.inputs = Inputs(dataset)
        n, of = len(self.inputs), "the validation set"
        self.labels: Int64[Tensor, " n"] = as_labels(labels, n, of=of)
        settings = PassSettings(
            batch_size=embed_batch_size,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
            progress=False,
        )
        self.embedder = Embedder(
            self.inputs,
            labels=self.labels,
            ids=as_ids(ids, n, of=of),
            groups=as_groups(groups, n, of=of),
            metric=metric,
            settings=settings,
        )
        self.encoder, self.history_option = encoder, history
        self.history: list[EpochRecord] = []
        self._resumed: tuple[int, int] | None = None  # epochs that were through in a loaded state, and its step
        self._through = self._step = 0  # epochs and steps that are through

    def embed(self, encoder: Any) -> EmbeddingBank:
        """Embed the validation set as it stands, by an encoder or by the one of a module."""
        chosen = getattr(encoder, "encoder", encoder)
        device = getattr(encoder, "device", None)
        return self.embedder.embed(Placed(chosen, device=device if isinstance(device, torch.device) else None), step=0)

    @property
    def state_key(self) -> str:
        """Under which Lightning keeps the state: one for each name."""
        return f"{super().state_key}{self.prefix}"

    @property
    def baseline(self) -> EpochRecord | None:
        """What the untrained encoder reached; None before training."""
        return self.history[0] if self.history else None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the untrained encoder, unless a loaded state tells of it."""
        self.embedder.join(world_of(trainer))
        record_start(self, trainer, pl_module, resumed=self._resumed)
        if not self.history:
            self._measure(trainer, pl_module, epoch=trainer.current_epoch)
            self._record_alone(trainer)
        self.catch_up(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, for the state of a checkpoint in mid-epoch."""
        self._through, self._step = trainer.current_epoch + trainer.is_last_batch, trainer.global_step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the epoch, and log it."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every == 0:
            values = self._named(self._measure(trainer, pl_module, epoch=epoch))
            rank_1 = f"{self.prefix}rank_at_1"
            pl_module.log(rank_1, values.pop(rank_1), prog_bar=True, sync_dist=True)
            pl_module.log_dict(values, sync_dist=True)
        record_epoch(self, trainer, epoch=epoch)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the end of the run."""
        record_end(self, trainer, "stopped" if trainer.should_stop else "finished")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Record what ended the run."""
        record_failure(self, trainer, exception)

    def catch_up(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Mapping[str, float | int]:
        """Measure the epoch at whose last step a loaded state was saved; the values of the last measure."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None and self.history[-1].epoch < resumed[0] and resumed[0] % self.every == 0:
            self._measure(trainer, pl_module, epoch=resumed[0])
            self._record_alone(trainer)
        return self._named(self.history[-1]) if self.history else {}

    def state_dict(self) -> dict[str, Any]:
        """The records so far, and which epochs are through: what resuming needs."""
        if not self.history:
            return {}
        kept = [self.history[0], *map(_without_queries, self.history[1:-1]), *self.history[1:][-1:]]
        return {"history": [as_plain(record) for record in kept], "through": self._through, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; protocols are those of this monitor."""
        if not state_dict:
            return
        self.history = [self._of_own_protocols(as_record(record)) for record in state_dict["history"]]
        self._through, self._step = self._resumed = (state_dict["through"], state_dict["step"])

    def recorded_settings(self) -> Mapping[str, Any]:
        """For `history.jsonl`."""
        return {
            "examples": len(self.inputs),
            "protocols": [protocol.name for protocol in self.protocols],
            "metric": self.embedder.metric,
            "every": self.every,
        }

    def recorded_values(self, epoch: int) -> Mapping[str, float | int]:
        """The measures of an epoch, if it was measured."""
        return self._named(self.history[-1]) if self.history and self.history[-1].epoch == epoch else {}

    def recorded_names(self) -> set[str]:
        """Of all that is measured."""
        return set(self._named(self.history[0])) if self.history else set()

    def _named(self, record: EpochRecord) -> dict[str, float | int]:
        return {f"{self.prefix}{name}": value for name, value in record.values().items()}

    def _measure(self, trainer: L.Trainer, pl_module: L.LightningModule, *, epoch: int) -> EpochRecord:
        placed = placed_encoder(trainer, pl_module, trained_encoder(trainer, self.encoder))
        bank = self.embedder.embed(placed, step=trainer.global_step)
        rankings = {
            protocol.name: evaluate_ranking(
                bank.embeddings,
                bank.labels,
                ids=bank.ids,
                groups=bank.groups,
                metric=bank.metric,
                protocol=protocol,
            )
            for protocol in self.protocols
        }
        reference = self.history[0].collapse if self.history else None
        collapse = probe_embeddings(bank.embeddings, bank.labels, reference=reference)
        first = rankings[self.protocols[0].name]
        record = EpochRecord(epoch=epoch, ranking=first, collapse=collapse, rankings=rankings)
        self.history.append(record)
        return record

    def _record_alone(self, trainer: L.Trainer) -> None:
        """Log the last record outside of an epoch's end, where Lightning gathers nothing; the last monitor writes."""
        epoch, monitors, history = self.history[-1].epoch, _monitors(trainer), writes(trainer)
        log_values(trainer, self._named(self.history[-1]), step=trainer.global_step)
        if history is not None and monitors[-1] is self:
            values = {name: value for held in monitors for name, value in held.recorded_values(epoch).items()}
            verdict = monitors[0].history[-1].collapse.verdict
            history.epoch(epoch=epoch, step=trainer.global_step, values=values, verdict=verdict)

    def _of_own_protocols(self, record: EpochRecord) -> EpochRecord:
        """The same record with the protocols that it was made by, whose functions no file holds."""
        own = {protocol.name: protocol for protocol in self.protocols}
        rankings = {
            name: replace(report, protocol=own.get(name, report.protocol)) for name, report in record.rankings.items()
        }
        ranking = rankings.get(record.ranking.protocol.name, record.ranking)
        return replace(record, ranking=ranking, rankings=rankings)


def _monitors(trainer: L.Trainer) -> list[ValidationMonitor]:
    return [held for held in trainer.callbacks if isinstance(held, ValidationMonitor)]  # pyright: ignore[reportAttributeAccessIssue]


def _as_protocols(protocol: RetrievalProtocol | Sequence[RetrievalProtocol] | None) -> tuple[RetrievalProtocol, ...]:
    if protocol is None:
        return (RetrievalProtocol(),)
    given = (protocol,) if isinstance(protocol, RetrievalProtocol) else tuple(protocol)
    for one in given:
        if not isinstance(one, RetrievalProtocol):
            raise TypeError(f"protocol must be a RetrievalProtocol, or several, got {one!r}")
    names = [one.name for one in given]
    if not given or len(set(names)) < len(names):
        raise ValueError(f"protocols must have names of their own, got {names}: pass RetrievalProtocol(name=...)")
    return given


def _without_queries(record: EpochRecord) -> EpochRecord:
    """The same figures without what single queries found, which is most of a record's memory."""

    def short(report: RankingReport) -> RankingReport:
        queries = report.per_query
        cut = {
            field.name: value[:0]
            for field in fields(queries)
            if isinstance(value := getattr(queries, field.name), Tensor)
        }
        return replace(report, per_query=replace(queries, **cut), worst=())

    rankings = {name: short(report) for name, report in record.rankings.items()}
    return replace(record, ranking=short(record.ranking), rankings=rankings)
