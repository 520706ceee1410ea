"""Pictures in folders, and what their names tell: the class, and for persons the camera."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.data import Dataset

from legolas_metric.checks import UNLABELLED, check_whole
from legolas_metric.names import as_named

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_MARKET = re.compile(r"(-1|\d{4})_c(\d+)s\d+_\d+_\d+$")
_MSMT = re.compile(r"(\d{4})_\d{3}_(\d{2})_[0-9a-z]+_\d+(_\d+)?$")


@dataclass(frozen=True, slots=True, eq=False)
class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Pictures that are read when they are asked for; items are (float image in 0..1, label).

    Attributes:
        paths: one for each row.
        labels: int64 [n]; -1 belongs to nobody.
        label_names: `label_names[label]` is what a label is called.
        cameras: int64 [n]; None where names tell none.
        size: height and width that a picture is scaled to.
        channels: 1 (grey) or 3.

    Example:
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> from legolas_metric.datasets import image_folder
        >>> for name in ("ann/1.png", "ann/2.png", "bob/1.png"):
        ...     Path("faces", name).parent.mkdir(parents=True, exist_ok=True)
        ...     Image.new("RGB", (10, 20)).save(Path("faces", name))
        >>> faces = image_folder("faces", size=(32, 16))
        >>> faces.label_names, faces.labels.tolist(), tuple(faces[0][0].shape)
        (('ann', 'bob'), [0, 0, 1], (3, 32, 16))

    Source: ours.
    """

    paths: tuple[Path, ...]
    labels: Int64[Tensor, " n"]
    label_names: tuple[str, ...]
    cameras: Int64[Tensor, " n"] | None
    size: tuple[int, int]
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Float32[Tensor, "c h w"], int]:
        return _read(self.paths[row], self.size, self.channels), int(self.labels[row])


def image_folder(path: str | os.PathLike[str], *, size: tuple[int, int] = (32, 32), channels: int = 3) -> ImageFiles:
    """Pictures by class: each folder within `path` is one, with whatever lies below it.

    Args:
        path: the folder of the classes.
        size: height and width to scale to.
        channels: 1 for grey, 3 for colour.

    Raises:
        ValueError: no picture in any folder, or a size or channels out of range.
        ModuleNotFoundError: Pillow is missing.

    Example:
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> from legolas_metric.datasets import image_folder
        >>> Path("birds/owl").mkdir(parents=True)
        >>> Image.new("L", (8, 8), 255).save("birds/owl/1.png")
        >>> image_folder("birds", size=(4, 4), channels=1)[0][0].mean().item()
        1.0

    Source: the layout of torchvision's `ImageFolder`.
    """
    found = _pictures(path)
    held = [(file, file.relative_to(path).parts[0]) for file in found if len(file.relative_to(path).parts) > 1]
    if not held:
        raise ValueError(f"{path} holds no folder with pictures: expected one folder for each class, such as owl/1.png")
    return _files([file for file, _ in held], [name for _, name in held], None, size, channels)


def market1501(path: str | os.PathLike[str], *, size: tuple[int, int] = (64, 32), channels: int = 3) -> ImageFiles:
    """Pictures named as Market-1501 names them, `0002_c1s1_000451_03.jpg`: person 2, camera 1.

    Person -1 (junk) gets label -1; 0000 (distractors) is a class of its own, which nobody asks for in the test set.

    Args:
        path: a folder such as bounding_box_train.
        size, channels: as `image_folder`.

    Raises:
        ValueError: no picture, or a name of another kind.
        ModuleNotFoundError: Pillow is missing.

    Example:
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> from legolas_metric.datasets import market1501
        >>> Path("train").mkdir()
        >>> for name in ("0002_c1s1_000451_03", "0002_c3s2_000001_00", "-1_c2s1_000003_01"):
        ...     Image.new("RGB", (64, 128)).save(f"train/{name}.jpg")
        >>> persons = market1501("train")
        >>> persons.label_names, persons.labels.tolist(), persons.cameras.tolist()
        (('0002',), [-1, 0, 0], [2, 1, 3])

    Source: Zheng et al. (2015), Scalable Person Re-identification: A Benchmark.
    """
    return _named(path, _MARKET, "0002_c1s1_000451_03.jpg", size, channels)


def msmt17(path: str | os.PathLike[str], *, size: tuple[int, int] = (64, 32), channels: int = 3) -> ImageFiles:
    """Pictures named as MSMT17 names them, `0000/0000_000_01_0303morning_0015_0.jpg`: person 0, camera 1.

    Args:
        path: a folder such as mask_train_v2.
        size, channels: as `image_folder`.

    Raises:
        ValueError: no picture, or a name of another kind.
        ModuleNotFoundError: Pillow is missing.

    Example:
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> from legolas_metric.datasets import msmt17
        >>> Path("train/0007").mkdir(parents=True)
        >>> Image.new("RGB", (64, 128)).save("train/0007/0007_012_14_0303afternoon_0015_0.jpg")
        >>> msmt17("train").label_names, msmt17("train").cameras.tolist()
        (('0007',), [14])

    Source: Wei et al. (2018), Person Transfer GAN to Bridge Domain Gap for Person Re-Identification.
    """
    return _named(path, _MSMT, "0000_000_01_0303morning_0015_0.jpg", size, channels)


def persons_layout(path: str | os.PathLike[str]) -> Callable[..., ImageFiles] | None:
    """Which of the two readers the names in a folder fit, by the first picture; None for neither."""
    first = next(iter(_pictures(path)), None)
    if first is None:
        return None
    return market1501 if _MARKET.match(first.stem) else msmt17 if _MSMT.match(first.stem) else None


def _named(
    path: str | os.PathLike[str], pattern: re.Pattern[str], example: str, size: tuple[int, int], channels: int
) -> ImageFiles:
    files, persons, cameras = _pictures(path), [], []
    for file in files:
        told = pattern.match(file.stem)
        if told is None:
            raise ValueError(f"{file} is not named as {example} is: person and camera are read from the name")
        persons.append(None if told[1] == "-1" else told[1])
        cameras.append(int(told[2]))
    if not files:
        raise ValueError(f"{path} holds no pictures ({', '.join(SUFFIXES)})")
    return _files(files, persons, cameras, size, channels)


def _pictures(path: str | os.PathLike[str]) -> list[Path]:
    if not Path(path).is_dir():
        raise FileNotFoundError(f"{path}: no such folder of pictures")
    return sorted(file for file in Path(path).rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def _files(
    files: Sequence[Path],
    names: Sequence[str | None],
    cameras: Sequence[int] | None,
    size: tuple[int, int],
    channels: int,
) -> ImageFiles:
    for name, value in (("height", size[0]), ("width", size[1])):
        check_whole(name, value, 1)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels}")
    held = as_named(np.array(names, dtype=object), len(files), name="labels", of="the folder")
    assert held.names is not None or bool((held.codes == UNLABELLED).all())
    where = None if cameras is None else torch.tensor(cameras)
    data = ImageFiles(tuple(files), held.codes, held.names or (), where, (size[0], size[1]), channels)
    data[0]  # a missing Pillow, or a file that is no picture, is told of now
    return data


def _read(path: Path, size: tuple[int, int], channels: int) -> Float32[Tensor, "c h w"]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading pictures needs Pillow: pip install 'legolas-metric[images]'") from error
    try:
        with Image.open(path) as picture:
            scaled = picture.convert("L" if channels == 1 else "RGB").resize((size[1], size[0]), Image.Resampling.BOX)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no picture that Pillow can read: take it out of the folder") from error
    pixels = torch.from_numpy(np.array(scaled, dtype=np.float32) / 255)
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()
