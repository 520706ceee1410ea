"""Reading embeddings that were saved, and writing files that are whole or absent."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FIELDS = ("embeddings", "labels", "ids", "groups", "images")
SUFFIXES = (".npz", ".npy", ".safetensors", ".pt")


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends without an error.

    Raises:
        OSError: the folder cannot be created or written, before the block runs.
    """
    final = Path(path)
    check_writable(final.parent)
    handle, name = tempfile.mkstemp(prefix=f".{final.name}.", suffix=final.suffix, dir=final.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Create a folder where it is missing; raise OSError, with the remedy, unless files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot write to {folder}: {reason}. Choose another output folder.") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], values: Mapping[str, object]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        save_file(plain, temporary, metadata=dict(metadata or {}))


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is corrupt or cut short.
    """
    _check_exists(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): write it again") from error


@dataclass(frozen=True, slots=True)
class EmbeddingFile:
    """What a file of embeddings held; fields that it lacked are None. Not yet checked against each other."""

    embeddings: Tensor
    labels: Tensor | None
    ids: Tensor | None
    groups: Tensor | None
    images: Tensor | None


def read_embeddings(path: str | os.PathLike[str], *, labels: str | os.PathLike[str] | None = None) -> EmbeddingFile:
    """Read saved embeddings: .npz or .safetensors with named arrays, .npy or .pt with the embeddings alone.

    No pickle is ever executed: .npz and .npy are read with `allow_pickle=False`, .pt with `weights_only=True`.

    Args:
        path: the file. Named arrays are embeddings, labels, ids, groups, images; only the first is required.
        labels: a second file (.npy, .pt, or .npz/.safetensors with `labels`) that overrides the labels of the first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown extension, corrupt or cut short, pickled objects, or no embeddings inside.
    """
    arrays = _read_arrays(Path(path), alone="embeddings")
    if labels is not None:
        arrays["labels"] = _required(_read_arrays(Path(labels), alone="labels"), "labels", labels)
    _required(arrays, "embeddings", path)
    return EmbeddingFile(*(arrays.get(name) for name in FIELDS))  # pyright: ignore[reportArgumentType]


def _required(arrays: Mapping[str, Tensor], name: str, path: str | os.PathLike[str]) -> Tensor:
    if name not in arrays:
        raise ValueError(f"{path} has no array named {name!r}; it holds {', '.join(arrays) or 'nothing'}")
    return arrays[name]


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")


def _read_arrays(path: Path, *, alone: str) -> dict[str, Tensor]:
    _check_exists(path)
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    if path.suffix == ".pt":
        return _read_pt(path, alone)
    if path.suffix in (".npz", ".npy"):
        return _read_numpy(path, alone)
    raise ValueError(f"{path} has the unknown extension {path.suffix!r}: expected one of {', '.join(SUFFIXES)}")


def _read_numpy(path: Path, alone: str) -> dict[str, Tensor]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {alone: torch.from_numpy(loaded)}
        with loaded:
            return {name: torch.from_numpy(loaded[name]) for name in FIELDS if name in loaded}
    except Exception as error:  # zipfile, zlib, struct and NumPy each raise their own kind on a broken file
        if "pickle" in str(error):
            remedy = "save plain numbers instead, for example np.savez(path, embeddings=x.astype('float32'), labels=y)"
            raise ValueError(f"{path} holds pickled Python objects, which are never executed: {remedy}") from error
        raise ValueError(f"{path} is not a whole NumPy file ({error}): write it again") from error


def _read_pt(path: Path, alone: str) -> dict[str, Tensor]:
    remedy = "save tensors only, for example torch.save({'embeddings': x, 'labels': y}, path), or use .safetensors"
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile, EOF and runtime errors, all for a broken or unsafe file
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise ValueError(f"{path} holds pickled Python objects, which are never executed: {remedy}") from error
        raise ValueError(f"{path} is not a whole .pt file ({type(error).__name__}): write it again") from error
    if isinstance(loaded, Tensor):
        return {alone: loaded}
    if isinstance(loaded, dict):
        return {name: value for name, value in loaded.items() if name in FIELDS and isinstance(value, Tensor)}
    raise ValueError(f"{path} holds a {type(loaded).__name__}, not a tensor or a dict of tensors: {remedy}")
