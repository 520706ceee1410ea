"""Where the callbacks write what they measure: to every logger of the Trainer, and to the run's `history.jsonl`."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils._pytree import tree_flatten

from legolas_metric.index.placement import Placing
from legolas_metric.miners.schedule import StageChange
from legolas_metric.training.history import RunHistory
from legolas_metric.training.resume import generator_states, restore_generators
from legolas_metric.training.rounds import MiningRound

HistoryOption = RunHistory | str | os.PathLike[str] | None | bool
"""A history or its path; None for the run's folder, where there is one; False for none."""


@runtime_checkable
class Recorder(Protocol):
    """A callback that has something to record."""

    history_option: HistoryOption

    def recorded_settings(self) -> Mapping[str, Any]:
        """Its settings, for the line that begins the run."""
        ...

    def recorded_values(self, epoch: int) -> Mapping[str, float | int]:
        """What it measured at the end of an epoch, counted from 1; 0 is before training."""
        ...

    def recorded_names(self) -> set[str]:
        """The names of all that it ever measured."""
        ...


def check_history(option: HistoryOption) -> None:
    """Raise unless it is one."""
    if option is True or not (option is None or isinstance(option, RunHistory | str | os.PathLike | bool)):
        raise TypeError(f"history must be a RunHistory, a path, None or False, got {option!r}")


def recorders(trainer: L.Trainer) -> list[Recorder]:
    """The callbacks of a Trainer that record, in order."""
    return [callback for callback in trainer.callbacks if isinstance(callback, Recorder)]  # pyright: ignore


def run_history(trainer: L.Trainer) -> RunHistory | None:
    """Where a run is recorded: as a callback asks, else in the folder of its logger, or in that given to the Trainer.

    A Trainer without a logger and without a folder of its own leaves no file behind.
    """
    asked = [callback.history_option for callback in recorders(trainer) if callback.history_option is not None]
    if asked and asked[0] is False:
        return None
    if asked and not isinstance(asked[0], bool):
        return asked[0] if isinstance(asked[0], RunHistory) else RunHistory(asked[0])
    if not trainer.loggers and Path(trainer.default_root_dir).resolve() == Path.cwd():
        return None
    folder = _folder(trainer)
    return None if folder is None else RunHistory(Path(folder) / "history.jsonl")


def _folder(trainer: L.Trainer) -> str | None:
    """`trainer.log_dir`, which every process would have to ask for at once."""
    if not trainer.loggers:
        return trainer.default_root_dir
    logger = trainer.loggers[0]
    return logger.log_dir if isinstance(logger, TensorBoardLogger | CSVLogger) else logger.save_dir


def writes(trainer: L.Trainer) -> RunHistory | None:
    """The history that this process writes: one process does."""
    return run_history(trainer) if trainer.is_global_zero and not trainer.sanity_checking else None


def log_values(trainer: L.Trainer, values: Mapping[str, float | int], *, step: int) -> None:
    """Give figures to every logger, outside of what Lightning gathers itself."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=step)


def record_start(
    callback: Any, trainer: L.Trainer, pl_module: L.LightningModule, *, resumed: tuple[int, int] | None
) -> None:
    """Write the line that begins a run, if this is the first of its recorders; `resumed`: epoch and step, or None."""
    history = writes(trainer)
    if history is None or recorders(trainer)[0] is not callback:
        return
    settings: dict[str, Any] = {
        type(recorder).__name__: dict(recorder.recorded_settings()) for recorder in recorders(trainer)
    }
    settings["Trainer"] = {
        name: getattr(trainer, name) for name in ("max_epochs", "max_steps", "precision", "gradient_clip_val")
    }
    settings[type(pl_module).__name__] = {**_of_loss(pl_module), **pl_module.hparams}
    settings["not_optimised"] = not_optimised(trainer, pl_module)
    seed = os.environ.get("PL_GLOBAL_SEED")
    history.start(
        seed=None if seed is None else int(seed),
        settings=settings,
        weights=digest_of(pl_module.state_dict()),
        data=digest_of({str(i): part for i, part in enumerate(_data_of(trainer))}),
        **_inputs_of(trainer),
    )
    if resumed is not None:
        history.event(epoch=resumed[0], step=resumed[1], what="resume", why="from a checkpoint")


def record_epoch(callback: Any, trainer: L.Trainer, *, epoch: int, words: Mapping[str, Any] | None = None) -> None:
    """Write the line of an epoch, if this is the last of the run's recorders."""
    history, all_of_them = writes(trainer), recorders(trainer)
    if history is None or all_of_them[-1] is not callback:
        return
    measured = set[str]().union(*(recorder.recorded_names() for recorder in all_of_them))
    values = {name: float(value) for name, value in trainer.callback_metrics.items() if name not in measured}
    for recorder in all_of_them:
        values |= recorder.recorded_values(epoch)
    history.epoch(epoch=epoch, step=trainer.global_step, values=values)


def record_mining(
    trainer: L.Trainer,
    rounds: Sequence[MiningRound],
    changes: Sequence[StageChange],
    *,
    step: int,
    placing: Placing | None,
) -> None:
    """Log rounds of mining to every logger, and write them, the changes of stage before them, and where rows lie."""
    history = writes(trainer)
    if history is not None and placing is not None:
        history.event(epoch=rounds[0].epoch, step=step, what="placing", why=placing.sentence())
    for change in changes:
        why = f"{change.before} -> {change.after}: {change.reason}"
        if history is not None:
            history.event(epoch=change.epoch, step=step, what="stage", why=why)
    for mined in rounds:
        log_values(trainer, {f"mining/{name}": value for name, value in mined.values().items()}, step=mined.step)
        if history is not None:
            history.round(epoch=mined.epoch, step=mined.step, values=mined.values(), **mined.words())


def record_event(trainer: L.Trainer, *, epoch: int, what: str, why: str) -> None:
    """Write what happened in an epoch, counted from 1, to the history of a run that has one."""
    history = run_history(trainer) if trainer.is_global_zero else None
    if history is not None:
        history.event(epoch=epoch, step=trainer.global_step, what=what, why=why)


def record_beside(trainer: L.Trainer, *, epoch: int, what: str, why: str) -> None:
    """The same, of a callback that begins no history by itself: where another one records the run."""
    if recorders(trainer):
        record_event(trainer, epoch=epoch, what=what, why=why)


def _of_loss(pl_module: L.LightningModule) -> dict[str, Any]:
    """The loss of a module by name, with its margin and temperature, by which its values are judged."""
    loss = getattr(pl_module, "loss", None)
    if not callable(loss):
        return {}
    told = {name: getattr(loss, name, None) for name in ("margin", "temperature")}
    numbers = {name: float(value) for name, value in told.items() if isinstance(value, float | int)}
    return {"loss": getattr(loss, "__name__", type(loss).__name__), **numbers}


def not_optimised(trainer: L.Trainer, pl_module: L.LightningModule) -> list[str]:
    """Names of the parameters that need gradients and that no optimiser holds."""
    if not trainer.optimizers:
        return []
    held = {
        id(part) for optimizer in trainer.optimizers for group in optimizer.param_groups for part in group["params"]
    }
    return [name for name, part in pl_module.named_parameters() if part.requires_grad and id(part) not in held]


def record_end(callback: Any, trainer: L.Trainer, why: str) -> None:
    """Write the line that ends a run, if this is the last of its recorders; its best epoch is that of Rank@1."""
    history, all_of_them = writes(trainer), recorders(trainer)
    if history is None or all_of_them[-1] is not callback:
        return
    ranks = {epoch: value for epoch, value in history.series("rank_at_1").items() if value == value}
    best = max(ranks, key=lambda epoch: (ranks[epoch], -epoch)) if ranks else None
    history.end(why=why, best_epoch=best, values={} if best is None else history.epochs[best]["values"])


def record_failure(callback: Any, trainer: L.Trainer, exception: BaseException) -> None:
    """Write the line that ends a run by an error, with what callbacks noted on it."""
    notes = "".join(f" ({note})" for note in getattr(exception, "__notes__", ()))
    record_end(callback, trainer, f"{type(exception).__name__}: {exception}{notes}")


def digest_of(tensors: Mapping[str, Any]) -> str:
    """A number that changes with any bit of the tensors, or their names: the first 16 digits of SHA-256."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(name.encode())
        if isinstance(tensor, torch.Tensor):
            total.update(str((tensor.dtype, tuple(tensor.shape))).encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _data_of(trainer: L.Trainer) -> list[torch.Tensor]:
    """Labels and ids of the data sets that the recorders know."""
    found = []
    for recorder in recorders(trainer):
        labels = getattr(recorder, "labels", None)
        found += [labels] if isinstance(labels, torch.Tensor) else []
    return found


def _inputs_of(trainer: L.Trainer) -> dict[str, str]:
    """By name, the digest of some inputs of the recorders' data sets, if they read the same twice."""
    found = [inputs for recorder in recorders(trainer) if (inputs := getattr(recorder, "inputs", None)) is not None]
    before = generator_states()
    reads = [[_digest_of_inputs(inputs) for inputs in found] for _ in range(2)]
    restore_generators(before)
    return {"inputs": hashlib.sha256("".join(reads[0]).encode()).hexdigest()[:16]} if reads[0] == reads[1] else {}


def _digest_of_inputs(inputs: Any) -> str:
    """Of their number and of 32 of them, evenly spread: that many can be read wherever they come from."""
    total = hashlib.sha256(str(len(inputs)).encode())
    for row in torch.linspace(0, len(inputs) - 1, min(32, len(inputs))).long().tolist():
        for part in tree_flatten(inputs[row])[0]:
            if isinstance(part, np.ndarray):
                part = torch.from_numpy(part)
            total.update((digest_of({"": part}) if isinstance(part, torch.Tensor) else repr(part)).encode())
    return total.hexdigest()
