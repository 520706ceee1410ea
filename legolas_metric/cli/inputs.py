"""Embeddings from checkpoints: weights of an encoder, and the data to embed."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from legolas_metric.bank import EmbeddingBank
from legolas_metric.files import EmbeddingFile, read_arrays, read_embeddings, read_weights
from legolas_metric.rows import as_groups, as_ids


def reader(encoder: str | None, data: str | None, labels: Path | None) -> Callable[[Path], EmbeddingFile]:
    """How the files of a command are read: as embeddings, or as checkpoints where an encoder is named.

    Args:
        encoder: `package.module:function`; the function returns the encoder, an untrained `nn.Module`.
        data: a file with the arrays `images` and `labels` (and `ids`, `groups`), handed to the encoder as they are, or
            `package.module:function`, which returns (data set, labels) or (data set, labels, groups).
        labels: a file of labels that overrides the others.

    Raises:
        ValueError: only one of encoder and data, or a name that isn't `package.module:function`.
        ModuleNotFoundError: no such module.
        TypeError: a function that returns something else.
    """
    if (encoder is None) != (data is None):
        raise ValueError("--encoder and --data go together: checkpoints need both, embeddings neither")
    if encoder is None or data is None:
        return lambda path: _checked(read_embeddings(path, labels=labels))
    make = _named(encoder, "--encoder")
    held = _data(data, labels)
    return lambda path: _embed(path, _called(make, f"--encoder {encoder}"), held)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a checkpoint into a module: a state dict, or Lightning's file, also where its names have one prefix.

    Raises:
        ValueError: names or shapes that don't fit, or a file that isn't a whole checkpoint.
    """
    weights, own = read_weights(path), module.state_dict()
    first = next(iter(own))
    prefixes = [name.removesuffix(first) for name in weights if name.endswith(first)]
    fitting = [prefix for prefix in prefixes if all(prefix + name in weights for name in own)]
    if not fitting:
        missing = [name for name in own if name not in weights]
        raise ValueError(
            f"{path} does not fit the encoder: it lacks {len(missing)} of {len(own)} weights (first: {missing[0]}); "
            f"it holds {', '.join(list(weights)[:3])}, ..."
        )
    if "" not in fitting and len(fitting) > 1:
        raise ValueError(
            f"{path} holds weights that fit the encoder under several names ({', '.join(fitting)}): "
            "save torch.save(encoder.state_dict(), path)"
        )
    chosen = {name: weights[min(fitting, key=len) + name] for name in own}
    for name, value in own.items():
        if chosen[name].shape != value.shape:
            raise ValueError(
                f"{path} does not fit the encoder: {name} is {tuple(chosen[name].shape)}, "
                f"the encoder's is {tuple(value.shape)}"
            )
    module.load_state_dict(chosen)


def _checked(held: EmbeddingFile) -> EmbeddingFile:
    """Refuse ids and groups that don't fit the rows, also for commands that need neither."""
    if held.embeddings.ndim and len(held.embeddings):  # the measures refuse what isn't a table
        as_ids(held.ids, len(held.embeddings))
        as_groups(held.groups, len(held.embeddings))
    return held


def _embed(path: Path, module: object, held: Mapping[str, Any]) -> EmbeddingFile:
    try:
        return _encoded(path, module, held)
    except (RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
        raise ValueError(f"the encoder or its data failed: {type(error).__name__}: {error}") from error


def _encoded(path: Path, module: object, held: Mapping[str, Any]) -> EmbeddingFile:
    if not isinstance(module, nn.Module):
        raise TypeError(f"--encoder must return an nn.Module, got {type(module).__name__}")
    load_weights(module, path)
    labels, ids, groups = held["labels"], held.get("ids"), held.get("groups")
    bank = EmbeddingBank.encode(module, held["images"], labels=labels, ids=ids, groups=groups, metric="dot")
    images = held["images"] if isinstance(held["images"], Tensor) else None
    return EmbeddingFile(bank.embeddings, bank.labels, bank.ids, bank.groups, images)


def _data(name: str, labels: Path | None) -> dict[str, Any]:
    given = {} if labels is None else read_arrays(labels, ("labels",))
    if ":" not in name:
        held: dict[str, Any] = {**read_arrays(Path(name), ("images", "labels", "ids", "groups")), **given}
        if "labels" not in held:
            raise ValueError(f"{name}: no labels: save them beside the images as `labels`, or pass --labels FILE")
        return held
    made = _called(_named(name, "--data"), f"--data {name}")
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise TypeError(f"--data {name} must return (data set, labels) or (data set, labels, groups)")
    return {**dict(zip(("images", "labels", "groups"), made)), **given}


def _named(name: str, option: str) -> Callable[[], Any]:
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ValueError(f"{option} must be package.module:function, got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a command finds the modules of its folder, as `python -m` does
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # of the user's own code, which may raise anything
        raise ValueError(f"{option} {name}: importing {module} failed: {_said(error)}") from error
    if not callable(getattr(found, function, None)):
        raise ValueError(f"{option}: module {module} has no function {function}")
    return getattr(found, function)


def _called(function: Callable[[], Any], what: str) -> Any:
    """What the user's own function returns; what it raises, whatever that is, is told with its name."""
    try:
        return function()
    except Exception as error:
        raise ValueError(f"{what} failed: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
