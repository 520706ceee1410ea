"""What a run trains on: rows with labels and attributes, from any of the sources that settings can name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from legolas_metric.checks import UNLABELLED
from legolas_metric.datasets.ecg import load_ecg_id
from legolas_metric.datasets.image_files import ImageFiles, image_folder, market1501, msmt17, persons_layout
from legolas_metric.datasets.omniglot import load_omniglot
from legolas_metric.datasets.source import Inputs
from legolas_metric.evaluation.protocol import RetrievalProtocol
from legolas_metric.names import as_named
from legolas_metric.runs.run_settings import Layout, RunSettings

INPUTS = ("x", "inputs", "images", "signals", "embeddings")
LABELS = ("y", "labels")
_SIZES = {"folder": (32, 32), "market1501": (64, 32), "msmt17": (64, 32)}
_PERSONS = ("market1501", "msmt17")
_MARKET = ("bounding_box_train", "query", "bounding_box_test")  # folders of Market-1501 as it is handed out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunData:
    """Rows of a data set with all that is known of them.

    Attributes:
        dataset: items are inputs, or (input, ...).
        labels: int64 [n], -1 for nobody.
        label_names: what labels are called; None where they are numbers of the user's own.
        attributes: name -> int64 [n], such as recording, day, camera.
        group: the attribute that protocols compare; None where there is none.
    """

    dataset: Any
    labels: Int64[Tensor, " n"]
    label_names: tuple[str, ...] | None
    attributes: Mapping[str, Int64[Tensor, " n"]]
    group: str | None

    @property
    def groups(self) -> Int64[Tensor, " n"] | None:
        """The values of `group`."""
        return None if self.group is None else self.attributes[self.group]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input."""
        return tuple(Inputs(self.dataset)[0].shape)

    def take(self, rows: Int64[Tensor, " m"]) -> "RunData":
        """The same of some rows."""
        part: Dataset[Any] = Subset(Inputs(self.dataset), rows.tolist())
        attributes = {name: values[rows] for name, values in self.attributes.items()}
        return replace(self, dataset=part, labels=self.labels[rows], attributes=attributes)


def load_data(settings: RunSettings) -> tuple[RunData, RunSettings]:
    """The data that settings name, and the settings with what was left open filled in.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: data that can't be read, an attribute that it lacks, or a protocol that needs one.
    """
    settings = _official(settings)
    layout = settings.layout if settings.layout != "auto" else _layout_of(settings.data)
    pictures = layout in _SIZES
    if settings.query is not None and layout not in _PERSONS:
        raise ValueError(
            f"query and gallery belong to pictures of persons ({', '.join(_PERSONS)}), got layout={layout!r}"
        )
    if settings.r_peaks != "given" and layout != "ecg-id":
        raise ValueError(f"r_peaks={settings.r_peaks!r} belongs to ECG-ID, got layout={layout!r}: leave it out")
    if not pictures and (settings.image_size is not None or settings.channels is not None):
        raise ValueError(f"image_size and channels belong to folders of pictures, got layout={layout!r}")
    size = settings.image_size or _SIZES.get(layout)
    channels = settings.channels or (3 if pictures else None)
    filled = replace(settings, layout=layout, image_size=size, channels=channels)
    data = _READERS[layout](filled)
    if settings.max_classes is not None:
        classes = data.labels[data.labels != UNLABELLED].unique()[: settings.max_classes]
        data = data.take(torch.isin(data.labels, classes).nonzero().flatten())
    split_by = settings.split_by or ("alphabet" if layout == "omniglot" and settings.max_classes is None else None)
    group = settings.group or data.group
    for key, name in (("group", group), ("split_by", split_by)):
        if name is not None and name not in data.attributes:
            held = ", ".join(data.attributes) or "none"
            raise ValueError(f"{key}={name!r} is no attribute of {settings.data}; it has {held}")
    crossing = [name for name in settings.protocols if name != "leave-one-out"]
    if crossing and group is None:
        raise ValueError(f"protocols has {crossing[0]!r}, which compares groups, but {settings.data} has no attribute")
    return replace(data, group=group), replace(filled, group=group, split_by=split_by)


def load_official_split(settings: RunSettings) -> tuple[RunData, RetrievalProtocol]:
    """The pictures of `query` and `gallery`, in this order, and the protocol that ranks the one for the other.

    Junk (-1) is neither found nor missed; distractors (0000 of Market-1501) are found, and wrong.

    Args:
        settings: as `load_data` filled them in.

    Raises:
        FileNotFoundError, ValueError: a folder that is not there, or holds other pictures.
    """
    assert settings.query is not None
    assert settings.gallery is not None
    read = market1501 if settings.layout == "market1501" else msmt17
    assert settings.image_size is not None
    size, channels = settings.image_size, settings.channels or 3
    parts = [read(folder, size=size, channels=channels) for folder in (settings.query, settings.gallery)]
    persons = [part.label_names[n] if n >= 0 else None for part in parts for n in part.labels.tolist()]
    named = as_named(np.array(persons, dtype=object), len(persons), name="labels", of="query and gallery")
    cameras = torch.cat([part.cameras for part in parts if part.cameras is not None])
    data = RunData(
        dataset=ConcatDataset(parts),
        labels=named.codes,
        label_names=named.names,
        attributes={"camera": cameras},
        group="camera",
    )
    asked = range(len(parts[0]))
    return data, RetrievalProtocol.re_identification(queries=asked, gallery=range(len(parts[0]), len(persons)))


def _official(settings: RunSettings) -> RunSettings:
    """Market-1501's own folder: its training part, with its query and gallery. Its test persons are not trained on."""
    train, query, gallery = (Path(settings.data) / name for name in _MARKET)
    if settings.layout not in ("auto", "market1501") or not (train.is_dir() and query.is_dir() and gallery.is_dir()):
        return settings
    test = (str(query), str(gallery)) if settings.query is None else (settings.query, settings.gallery)
    return replace(settings, data=str(train), query=test[0], gallery=test[1])


def _layout_of(data: str) -> Layout:
    path = Path(data)
    if data == "omniglot":
        return "omniglot"
    if path.is_dir():
        if next(path.rglob("*.hea"), None) is not None:
            return "ecg-id"
        named = persons_layout(path)
        return "folder" if named is None else "market1501" if named is market1501 else "msmt17"
    if not path.is_file():
        raise FileNotFoundError(f"data={data!r}: no such file or folder, and not omniglot, which is bundled")
    if path.suffix != ".npz":
        raise ValueError(f"data={data!r} is neither a folder nor an .npz: name one of these, or omniglot")
    with np.load(path, allow_pickle=False) as file:
        return "ecg-id" if {"x_filtered", "valid_from"} <= set(file.files) else "arrays"


def _omniglot(settings: RunSettings) -> RunData:
    data = load_omniglot()
    attributes = {"drawer": data.drawers, "alphabet": data.alphabets}
    return RunData(dataset=data, labels=data.labels, label_names=None, attributes=attributes, group="drawer")


def _ecg(settings: RunSettings) -> RunData:
    beats = load_ecg_id(settings.data, peaks=settings.r_peaks)
    attributes = {"recording": beats.recordings, "day": beats.days}
    group = "day" if "cross-day" in settings.protocols else "recording"
    return RunData(dataset=beats, labels=beats.labels, label_names=None, attributes=attributes, group=group)


def _pictures(read: Callable[..., ImageFiles]) -> Callable[[RunSettings], RunData]:
    def load(settings: RunSettings) -> RunData:
        files = read(settings.data, size=settings.image_size, channels=settings.channels)
        attributes = {} if files.cameras is None else {"camera": files.cameras}
        group = next(iter(attributes), None)
        return RunData(
            dataset=files, labels=files.labels, label_names=files.label_names, attributes=attributes, group=group
        )

    return load


def _arrays(settings: RunSettings) -> RunData:
    with np.load(settings.data, allow_pickle=False) as file:
        held = {name: file[name] for name in file.files}
    inputs = next((held[name] for name in INPUTS if name in held), None)
    labels = next((held[name] for name in LABELS if name in held), None)
    if inputs is None or labels is None:
        missing = f"inputs ({', '.join(INPUTS)})" if inputs is None else f"labels ({', '.join(LABELS)})"
        raise ValueError(f"{settings.data} holds no {missing}; it has {', '.join(held)}")
    n = len(inputs)
    named = as_named(labels, n, name="labels", of=settings.data)
    others = {name: array for name, array in held.items() if name not in (*INPUTS, *LABELS) and array.shape == (n,)}
    attributes = {
        name: as_named(array, n, name=name, of=settings.data).codes
        for name, array in others.items()
        if array.dtype.kind in "iuUSM"
    }
    group = "groups" if "groups" in attributes else next(iter(attributes), None)
    x = as_inputs(inputs, settings.data)
    return RunData(dataset=x, labels=named.codes, label_names=named.names, attributes=attributes, group=group)


def as_inputs(inputs: np.ndarray, where: str) -> Float32[Tensor, "n *s"]:
    """An array of a file as encoders take it: float32, pixels in [0, 1], grey pictures with their channel.

    Raises:
        ValueError: an array of another number of axes.
    """
    x = torch.from_numpy(inputs)
    if not x.is_floating_point():
        x = x.float() / (255 if inputs.dtype == np.uint8 else 1)
    if x.ndim == 3 and inputs.dtype == np.uint8:  # grey pictures [n, h, w]
        x = x[:, None]
    if x.ndim not in (2, 3, 4):
        raise ValueError(f"{where}: inputs must be [n, d], [n, c, t] or [n, c, h, w], got {tuple(x.shape)}")
    return x.float()


def read_inputs(data: str, settings: RunSettings) -> Float32[Tensor, "n *s"]:
    """Inputs without labels, as a run of these settings takes them: an `.npz` of arrays, or what `load_data` reads.

    Raises:
        FileNotFoundError, ValueError: as `load_data`.
    """
    if Path(data).suffix == ".npz" and Path(data).is_file() and settings.layout in ("arrays", "omniglot"):
        with np.load(data, allow_pickle=False) as file:
            name = next((name for name in INPUTS if name in file.files), None)
            if name is None:
                raise ValueError(f"{data} holds no inputs ({', '.join(INPUTS)}); it has {', '.join(file.files)}")
            return as_inputs(file[name], data)
    free = {"group": None, "split_by": None, "max_classes": None, "protocols": ("leave-one-out",)}
    other = replace(settings, data=data, layout="auto", **free)
    inputs = Inputs(load_data(other)[0].dataset)
    return torch.stack([torch.as_tensor(inputs[row]) for row in range(len(inputs))])


_READERS: Mapping[str, Callable[[RunSettings], RunData]] = {
    "omniglot": _omniglot,
    "ecg-id": _ecg,
    "folder": _pictures(image_folder),
    "market1501": _pictures(market1501),
    "msmt17": _pictures(msmt17),
    "arrays": _arrays,
}
