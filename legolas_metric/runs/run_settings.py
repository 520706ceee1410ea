"""The settings of a run: one record, from Python, TOML or the command line, and back to TOML."""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from legolas_metric.checks import check_choice, check_number, check_whole
from legolas_metric.datasets.ecg import Peaks
from legolas_metric.files import write_text

Layout = Literal["auto", "omniglot", "ecg-id", "folder", "market1501", "msmt17", "arrays"]
EncoderName = Literal["auto", "conv4", "resnet1d", "bilstm", "transformer", "mlp"]
LossName = Literal["supcon", "multi-similarity", "triplet", "cross-entropy", "focal"]
Mining = Literal["none", "random", "semi-hard", "hard", "full-hard", "easy-positive", "distance-weighted", "schedule"]
Augment = Literal["none", "all", "rare"]
RecipeName = Literal["auto", "near", "mined", "pk-supcon", "pk-batch-hard", "pk-multi-similarity"]
ProtocolName = Literal["leave-one-out", "cross-session", "cross-day", "re-identification"]
LoggerName = Literal["tensorboard", "mlflow"]
EnsembleHow = Literal["mean", "concat", "score"]

MARGINS = {"triplet": 0.2, "semi-hard": 0.2, "schedule": 0.2}
OF_LOGITS = ("cross-entropy", "focal")  # losses of a head on the encoder, which see labels and no triplets
PARTS = ("loss", "temperature", "margin", "mining")
"""Keys that a recipe stands for: any of them takes the place of the default one, "auto"."""

FREE = frozenset({"threads", "num_workers", "progress", "loggers", "ensemble", "query", "gallery"})
"""Keys that change nothing of what is trained: a run goes on with others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What a run does. Every key has a default; None is written as an absent key.

    Attributes:
        data: "omniglot" (bundled), a folder of pictures, an ECG-ID file, or an `.npz` of arrays.
        layout: what `data` is; "auto" looks.
        query, gallery: folders of the official test split, pictures of persons, which `train` then ranks too;
            Market-1501's own folder as `data` has them by itself.
        r_peaks: of ECG-ID, "given" by the annotations or "found" by wfdb's detector.
        group: the attribute that must differ between a query and its answer (default: the data's first, such as
            "recording" or "camera"); a file of arrays has those that it holds.
        split_by: the attribute by which `train` splits (default: the class; Omniglot's alphabets).
        max_classes: keep the first so many classes only; None for all.
        image_size: height and width that pictures are scaled to (default: by layout).
        channels: 1 or 3, of pictures (default: 3).
        encoder: "conv4" for images; "resnet1d", "bilstm" (with attention pooling) or "transformer" for signals; "mlp"
            for vectors; "auto" goes by the input's shape.
        width: of the encoder: channels of Conv4 and of ResNet1D's second block, hidden units of the BiLSTM's one
            direction, of the transformer (a multiple of 4), and output of the MLP.
        recipe: batches, mining and loss together: a recipe's name (docs/recipes.md), or "auto", which the data choose;
            the log says why. Default: "auto", unless one of `loss`, `temperature`, `margin` and `mining` is given,
            which a recipe stands for.
        loss: "supcon" (default), "multi-similarity" or "triplet"; "cross-entropy" or "focal" of a linear head on the
            encoder, one class for each of the training part's, in batches as the data are.
        temperature: of supcon (default 0.1).
        margin: of the triplet loss and of semi-hard mining, in distance (default 0.2).
        mining: "none" for random batches of P classes, one global miner, or "schedule" from random to full-hard
            (default; under the losses of a linear head, "none").
        augment: training inputs: "all" alike, "rare" with more for rare classes; images and signals.
        epochs, batch_size, k: k examples of a class in random batches.
        steps_per_epoch: default ceil(n / batch_size).
        lr, weight_decay: of AdamW on one cycle.
        protocols: how rankings are asked, the first being the one that is watched.
        monitor, mode: the logged value by which the best epoch is kept.
        patience: epochs without improvement before training stops; None never stops.
        validation_share: of the classes (or values of `split_by`), for `train`.
        folds, test_share: of `kfold`.
        ensemble: how `ensemble` joins the folds' encoders.
        loggers: "tensorboard", "mlflow", beside the CSV that is always written.
        seed: of all that is random.
        threads: of the processor; None as torch has them.
        num_workers: of the loaders.
        progress: show bars.

    Raises:
        TypeError, ValueError: a value of another type or out of range, or two that contradict each other; each names
            its key.

    Example:
        >>> from legolas_metric.runs import RunSettings
        >>> settings = RunSettings.of({"epochs": 5}, ["lr=0.01"])
        >>> settings.epochs, settings.lr, settings.recipe
        (5, 0.01, 'auto')
        >>> RunSettings(loss="triplet").mining
        'schedule'

    Source: ours.
    """

    data: str = "omniglot"
    layout: Layout = "auto"
    query: str | None = None
    gallery: str | None = None
    r_peaks: Peaks = "given"
    group: str | None = None
    split_by: str | None = None
    max_classes: int | None = None
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    encoder: EncoderName = "auto"
    width: int = 64
    recipe: RecipeName | None = None
    loss: LossName | None = None
    temperature: float | int | None = None
    margin: float | int | None = None
    mining: Mining | None = None
    augment: Augment = "none"
    epochs: int = 8
    batch_size: int = 128
    k: int = 4
    steps_per_epoch: int | None = None
    lr: float | int = 2e-3
    weight_decay: float | int = 1e-4
    protocols: tuple[ProtocolName, ...] = ("leave-one-out",)
    monitor: str = "rank_at_1"
    mode: Literal["max", "min"] = "max"
    patience: int | None = None
    validation_share: float | int = 0.2
    folds: int = 10
    test_share: float | int = 0.2
    ensemble: EnsembleHow = "score"
    loggers: tuple[LoggerName, ...] = ()
    seed: int = 0
    threads: int | None = None
    num_workers: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = _as_declared(field.name, getattr(self, field.name), field.type)
            object.__setattr__(self, field.name, value)
        self._resolve_recipe()
        self._check_ranges()
        self._check_contradictions()

    def _resolve_recipe(self) -> None:
        """A recipe, or its parts with their defaults."""
        given = [name for name in PARTS if getattr(self, name) is not None]
        if self.recipe is not None:
            if given:
                name = given[0]
                raise ValueError(
                    f"recipe={self.recipe!r} sets {name} itself, got {getattr(self, name)!r}: leave {name} out"
                )
        elif not given:
            object.__setattr__(self, "recipe", "auto")
        else:
            loss = self.loss or "supcon"
            object.__setattr__(self, "loss", loss)
            object.__setattr__(self, "mining", self.mining or ("none" if loss in OF_LOGITS else "schedule"))

    def _check_ranges(self) -> None:
        least = {"width": 1, "epochs": 1, "batch_size": 4, "k": 2, "folds": 2, "seed": 0, "num_workers": 0}
        least |= {"max_classes": 2, "steps_per_epoch": 1, "patience": 1, "threads": 1}
        for name, bound in least.items():
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), bound)
        for name in ("lr", "temperature"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), above=0.0)
        check_number("weight_decay", self.weight_decay, least=0.0)
        if self.margin is not None:
            check_number("margin", self.margin, least=0.0)
        for name, low in (("validation_share", 1e-9), ("test_share", 0.0)):
            value = check_share(name, getattr(self, name), low)
            object.__setattr__(self, name, value)
        if self.image_size is not None:
            for side in self.image_size:
                check_whole("image_size", side, 1)
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels}")
        if not self.data:
            raise ValueError("data is empty: name omniglot, a folder or a file")

    def _check_contradictions(self) -> None:
        if self.batch_size // self.k < 2:
            raise ValueError(f"batch_size={self.batch_size} and k={self.k} leave fewer than 2 classes a batch: lower k")
        if self.temperature is not None and self.loss != "supcon":
            raise ValueError(f"temperature belongs to loss='supcon', got loss={self.loss!r}: leave it out")
        if self.margin is not None and not {self.loss, self.mining} & set(MARGINS):
            raise ValueError(
                f"margin belongs to loss='triplet' and to mining='semi-hard' or 'schedule', got loss={self.loss!r} and "
                f"mining={self.mining!r}: leave it out"
            )
        if not self.protocols or len(set(self.protocols)) < len(self.protocols):
            raise ValueError(f"protocols must be one or several different ones, got {list(self.protocols)}")
        if len(set(self.loggers)) < len(self.loggers):
            raise ValueError(f"loggers names one twice: {list(self.loggers)}")
        if self.data == "omniglot" and self.layout not in ("auto", "omniglot"):
            raise ValueError(f"layout={self.layout!r} contradicts data='omniglot', which is bundled: name a path")
        if (self.query is None) != (self.gallery is None):
            missing = "query" if self.query is None else "gallery"
            raise ValueError(f"{missing} is missing: the official split needs both query and gallery")
        if self.loss in OF_LOGITS and self.mining != "none":
            raise ValueError(f"mining={self.mining!r} contradicts loss={self.loss!r}, which sees no triplets: 'none'")
        if self.mining == "schedule" and self.epochs < 4:
            raise ValueError(f"mining='schedule' has four stages, got epochs={self.epochs}: at least 4, or one miner")

    @classmethod
    def of(cls, values: Mapping[str, Any], changes: Sequence[str] = ()) -> "RunSettings":
        """Settings of plain values, then of `KEY=VALUE` texts, whose values are TOML (or a bare text).

        Raises:
            ValueError: an unknown key, a text without `=`, or what the constructor refuses.
        """
        changed: dict[str, Any] = {}
        for change in changes:
            key, equals, text = change.partition("=")
            if not equals:
                raise ValueError(f"expected KEY=VALUE, such as epochs=3, got {change!r}")
            changed[key.strip()] = _parsed(text.strip())
        merged = merged_values(values, changed)
        known = [field.name for field in fields(cls)]
        for key in merged:
            if key not in known:
                raise ValueError(f"unknown key {key!r} in the settings: {_nearest(key, known)}")
        kinds = {field.name: field.type for field in fields(cls)}
        return cls(**{key: _as_declared(key, value, kinds[key]) for key, value in merged.items()})

    @classmethod
    def read(cls, path: str | os.PathLike[str] | None, changes: Sequence[str] = ()) -> "RunSettings":
        """Settings of a TOML file (None: all defaults), then of `KEY=VALUE` texts.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is no TOML, or what `of` refuses.
        """
        if path is None:
            return cls.of({}, changes)
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file of settings")
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no TOML: {error}") from error
        try:
            return cls.of(values, changes)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path}: {error}") from error

    def plain(self) -> dict[str, Any]:
        """Values by key, as JSON and TOML have them; those that are None are left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }

    def toml(self) -> str:
        """As TOML, one key a line."""
        return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in self.plain().items())

    def write(self, path: str | os.PathLike[str], about: Mapping[str, str]) -> None:
        """Write the TOML, whole or not at all, below comments such as versions; `read` reads it again."""
        comments = "".join(f"# {name}: {value}\n" for name, value in about.items())
        write_text(path, comments + self.toml())

    def differences(self, other: "RunSettings") -> dict[str, tuple[Any, Any]]:
        """Keys in which two settings differ, those that change no result left out."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self) if f.name not in FREE}
        return {name: (one, two) for name, (one, two) in pairs.items() if one != two}


def merged_values(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with changes in their place; the default recipe gives way where one of its parts is changed."""
    gives_way = values.get("recipe") == "auto" and "recipe" not in changes and not changes.keys().isdisjoint(PARTS)
    return {name: value for name, value in values.items() if not (gives_way and name == "recipe")} | dict(changes)


def resolved(settings: RunSettings, **values: Any) -> RunSettings:
    """The same with values in the place of those that were left open."""
    return replace(settings, **values)


def check_share(name: str, value: float | int, low: float) -> float | int:
    """A share in [low, 1)."""
    if not low <= value < 1:
        raise ValueError(f"{name} must lie in {'[0' if low == 0 else '(0'}, 1), got {value}")
    return value


def _as_declared(name: str, value: Any, kind: Any) -> Any:
    """A value of the declared kind: integers where numbers are wanted become floats, lists tuples."""
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if value is None and type(None) in options:
        return None
    wanted = float if float in options else next(option for option in options if option is not type(None))
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be one of {', '.join(inner)}, got {value!r}")
        check_choice(name, value, inner)
        return value
    if origin is tuple:
        given = (value,) if isinstance(value, str) else value
        if not isinstance(given, list | tuple):
            raise TypeError(f"{name} must be a list, got {value!r}")
        if Ellipsis not in inner and len(given) != len(inner):
            raise ValueError(f"{name} must have {len(inner)} entries, got {list(given)}")
        return tuple(_as_declared(name, entry, inner[0]) for entry in given)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
        raise TypeError(f"{name} must be {words[wanted]}, got {value!r}")
    return value


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _nearest(key: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(key, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
