"""Embeddings from checkpoints: weights of an encoder, and the data to embed."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from legolas_metric.bank import EmbeddingBank
from legolas_metric.cli.refusals import BAD_INPUT
from legolas_metric.files import EmbeddingFile, read_arrays, read_weights
from legolas_metric.outputs import of_column


def checkpoint_reader(
    encoder: str, data: str, labels: Path | None, labels_key: str, check_groups: Callable[[Any], None]
) -> Callable[[Path], EmbeddingFile]:
    """How checkpoints are read: the encoder is made anew for each, loaded, and embeds the same data.

    Args:
        encoder: `package.module:function`; the function returns the encoder, an untrained `nn.Module`.
        data: a file with the arrays `images` and `labels` (and `ids`, `groups`), handed to the encoder as they are, or
            `package.module:function`, which returns (data set, labels) or (data set, labels, groups).
        labels: a file of labels that overrides the others.
        labels_key: how its array is named, and that of a file of data.
        check_groups: refuses groups, or their lack, before anything is embedded.

    Raises:
        ValueError: a name that isn't `package.module:function`, or whatever the function raises.
        ModuleNotFoundError: no such module.
        TypeError: a function that returns something else.
    """
    make, held = _named(encoder, "--encoder"), _data(data, labels, labels_key)
    check_groups(held.get("groups"))
    return lambda path: _embed(path, _called(make, f"--encoder {encoder}"), held)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a checkpoint into a module: a state dict, or Lightning's file, also where its names have one prefix.

    Raises:
        ValueError: names or shapes that don't fit, or a file that isn't a whole checkpoint.
    """
    weights, own = read_weights(path), module.state_dict()
    if not own:
        raise ValueError(f"{path} has nothing to load into: the encoder, {type(module).__name__}, has no weights")
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


def _embed(path: Path, module: object, held: Mapping[str, Any]) -> EmbeddingFile:
    try:
        return _encoded(path, module, held)
    except BAD_INPUT:
        raise
    except (Exception, SystemExit) as error:  # of the user's own code, which may raise anything
        raise ValueError(f"the encoder or its data failed: {_said(error)}") from error


def _encoded(path: Path, module: object, held: Mapping[str, Any]) -> EmbeddingFile:
    if not isinstance(module, nn.Module):
        raise TypeError(f"--encoder must return an nn.Module, got {type(module).__name__}")
    load_weights(module, path)
    labels, ids, groups = held["labels"], held.get("ids"), held.get("groups")
    bank = EmbeddingBank.encode(module, held["images"], labels=labels, ids=ids, groups=groups, metric="dot")
    images = held["images"] if isinstance(held["images"], Tensor) else None
    return EmbeddingFile(bank.embeddings, bank.labels, bank.ids, bank.groups, images)


def _data(name: str, labels: Path | None, key: str) -> dict[str, Any]:
    given = {}
    if labels is not None:
        file, column = of_column(labels)
        own = column or key
        given = {"labels": read_arrays(file, (own,), option="--labels-key", named=(own,))[own]}
    if ":" not in name:
        held: dict[str, Any] = dict(read_arrays(Path(name), ("images", key, "ids", "groups"), named=(key, "groups")))
        held |= {"labels": held[key]} if key in held else {}
        held |= given
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
    except (Exception, SystemExit) as error:  # of the user's own code, which may raise anything
        raise ValueError(f"{option} {name}: importing {module} failed: {_said(error)}") from error
    if not callable(getattr(found, function, None)):
        raise ValueError(f"{option}: module {module} has no function {function}")
    return getattr(found, function)


def _called(function: Callable[[], Any], what: str) -> Any:
    """What the user's own function returns; what it raises, whatever that is, is told with its name."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{what} failed: {_said(error)}") from error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
