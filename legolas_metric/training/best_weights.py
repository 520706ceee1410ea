"""The weights of the best epoch in one file, with all that is needed to use them."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from legolas_metric.checks import check_choice, check_whole
from legolas_metric.files import check_writable, read_tensors, write_tensors
from legolas_metric.signatures import typed
from legolas_metric.training.stopping import Mode, better

_ABOUT = "legolas_metric"  # the key of a file's metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """A file of weights, read and found whole.

    Attributes:
        weights: tensors by name, as a state dict.
        monitor, value, epoch: what was monitored, what it came to, and when.
        settings: of the run, as they were given.
        label_names: what the classes are called; None where nothing was given.
        normalisation: of the inputs (mean, std, ...); None where nothing was given.
        digest: SHA-256 of the weights.

    Example:
        >>> import torch
        >>> from legolas_metric.training.best_weights import BestWeights, read_weights_file
        >>> best = BestWeights("rank_at_1", folder="kept", label_names=["ann", "bob"])
        >>> best.update(0.5, 0, torch.nn.Linear(2, 2).state_dict())
        True
        >>> read_weights_file(best.path).label_names
        ('ann', 'bob')

    Source: ours.
    """

    weights: dict[str, Tensor]
    monitor: str
    value: float
    epoch: int
    settings: dict[str, Any]
    label_names: tuple[str, ...] | None
    normalisation: dict[str, Any] | None
    digest: str


class BestWeights:
    """Keep the weights of the best epoch, and of no other, in one file.

    It is `best_{name}.safetensors`, or `best_{name}_fold{k}.safetensors`,
    written whole or not at all; it holds value, epoch, settings, names of labels, normalisation and digest
    beside the weights, and no pickle. The first of equal values is kept.

    Args:
        monitor: what the value is, for the file.
        mode: "max" where larger is better.
        folder: made where it is missing.
        name: of the file.
        fold: number of the fold, from 0; None without folds.
        last: keep also the last epoch's weights, as `last_{name}.safetensors`.
        settings: plain values (numbers, texts, lists, dicts of these) to be found in the file.
        label_names: what the classes are called.
        normalisation: of the inputs, plain values.

    Behaviour in corner cases: NaN is never the best. A run that is resumed from a state older than the file keeps the
    file where its value is the better one.

    Raises:
        TypeError: settings that JSON cannot hold.
        OSError: a folder that cannot be written.

    Example:
        >>> import torch
        >>> from legolas_metric.training.best_weights import BestWeights, read_weights_file
        >>> encoder = torch.nn.Linear(2, 2)
        >>> best = BestWeights("rank_at_1", folder="kept", fold=0)
        >>> [best.update(value, epoch, encoder.state_dict()) for epoch, value in enumerate([0.2, 0.5, 0.4])]
        [True, True, False]
        >>> best.path.name, read_weights_file(best.path).epoch
        ('best_model_fold0.safetensors', 1)

    Source: ours.
    """

    @typed
    def __init__(
        self,
        monitor: str,
        *,
        mode: Mode = "max",
        folder: str | os.PathLike[str],
        name: str = "model",
        fold: int | None = None,
        last: bool = False,
        settings: Mapping[str, Any] | None = None,
        label_names: Sequence[str] | None = None,
        normalisation: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("mode", mode, get_args(Mode))
        if not name or Path(name).name != name:
            raise ValueError(f"name must be a part of a file's name, got {name!r}: put folders into folder")
        ending = "" if fold is None else f"_fold{check_whole('fold', fold, 0)}"
        self.monitor = monitor
        self.mode: Mode = mode
        self.path = Path(folder) / f"best_{name}{ending}.safetensors"
        self.last_path = Path(folder) / f"last_{name}{ending}.safetensors" if last else None
        self.best_value, self.best_epoch = (-math.inf if mode == "max" else math.inf), -1
        self._about: dict[str, Any] = {}
        self.tell(settings=settings, label_names=label_names, normalisation=normalisation)
        check_writable(Path(folder))

    def tell(self, **about: Any) -> None:
        """What is to be found in the file from here on: `settings`, `label_names`, `normalisation`, as constructed.

        Raises:
            TypeError: what JSON cannot hold, or something else than these three.
        """
        if unknown := about.keys() - {"settings", "label_names", "normalisation"}:
            raise TypeError(f"a file of weights holds settings, label_names and normalisation, not {min(unknown)}")
        plain = {
            name: [str(entry) for entry in value] if name == "label_names" and value is not None else value
            for name, value in about.items()
        }
        if plain.get("settings", {}) is None:
            plain["settings"] = {}
        json.dumps(plain)  # said now rather than after the first epoch
        self._about |= plain

    def update(self, value: float | int, epoch: int, weights: Mapping[str, Tensor]) -> bool:
        """Tell the value of an epoch, and its weights; True where they are the best so far, and kept."""
        if self.last_path is not None:
            self._write(self.last_path, value, epoch, weights)
        if not better(value, self.best_value, self.mode):
            return False
        self._write(self.path, value, epoch, weights)
        self.best_value, self.best_epoch = value, epoch
        return True

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as plain values."""
        return {"best_value": self.best_value, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.best_value, self.best_epoch = state_dict["best_value"], state_dict["best_epoch"]
        if self.path.is_file():
            held = read_weights_file(self.path)
            if better(held.value, self.best_value, self.mode):
                self.best_value, self.best_epoch = held.value, held.epoch
        else:  # gone: the next epoch's are the best that there are
            self.best_value, self.best_epoch = (-math.inf if self.mode == "max" else math.inf), -1

    def _write(self, path: Path, value: float | int, epoch: int, weights: Mapping[str, Tensor]) -> None:
        # As text, since JSON knows no NaN, which the last epoch's value may be.
        about = self._about | {"monitor": self.monitor, "value": repr(float(value)), "epoch": epoch}
        about |= {"digest": digest_of(weights), "torch": str(torch.__version__)}
        write_tensors(path, weights, {_ABOUT: json.dumps(about)})


@typed
def read_weights_file(path: str | os.PathLike[str]) -> WeightsFile:
    """Read what `BestWeights` wrote; no code of the file is run.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, cut short, or weights that don't agree with their digest.

    Example:
        >>> import torch
        >>> from legolas_metric.training.best_weights import BestWeights, read_weights_file
        >>> best = BestWeights("val_loss", mode="min", folder="kept")
        >>> _ = best.update(0.5, 3, torch.nn.Linear(2, 2).state_dict())
        >>> torch.nn.Linear(2, 2).load_state_dict(read_weights_file(best.path).weights)
        <All keys matched successfully>

    Source: ours.
    """
    weights, metadata = read_tensors(path)
    if _ABOUT not in metadata:
        raise ValueError(f"{path} was not written by BestWeights or BestCheckpoint: it says nothing of its epoch")
    about = json.loads(metadata[_ABOUT])
    if digest_of(weights) != about["digest"]:
        raise ValueError(f"the weights in {path} do not agree with their digest: the file was changed, write it again")
    names = about["label_names"]
    return WeightsFile(
        weights=weights,
        monitor=about["monitor"],
        value=float(about["value"]),
        epoch=about["epoch"],
        settings=about["settings"],
        label_names=None if names is None else tuple(names),
        normalisation=about["normalisation"],
        digest=about["digest"],
    )


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, kinds, shapes and bytes, in order of the names.

    Example:
        >>> import torch
        >>> from legolas_metric.training.best_weights import digest_of
        >>> digest_of({"a": torch.zeros(1)}) == digest_of({"a": torch.ones(1)})
        False
    """
    said = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        said.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        said.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return said.hexdigest()
