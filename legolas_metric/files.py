"""Reading embeddings that were saved, and writing files that are whole or absent."""

import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from legolas_metric.checks import ArrayLike, as_tensor

FIELDS = ("embeddings", "labels", "ids", "groups", "images")
SUFFIXES = (".npz", ".npy", ".safetensors", ".pt")
_PICKLE, _ZIP = b"\x80", b"PK\x03\x04"  # how such files begin


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
    # Copies, since safetensors refuses tensors that share memory.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        save_file(plain, temporary, metadata=dict(metadata or {}))


def write_named(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Write named arrays as .npz or .safetensors, by the path's extension, whole or not at all.

    Raises:
        ValueError: another extension.
        OSError: the folder cannot be written.
    """
    check_output(path)
    if Path(path).suffix == ".safetensors":
        write_tensors(path, tensors)
        return
    arrays: dict[str, Any] = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        np.savez(temporary, **arrays)


def check_output(path: str | os.PathLike[str]) -> None:
    """Raise, before any work is done, unless `write_named` can write there."""
    if Path(path).suffix not in (".npz", ".safetensors"):
        raise ValueError(f"{path} has the unknown extension {Path(path).suffix!r}: expected .npz or .safetensors")
    check_writable(Path(path).parent)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is corrupt or cut short.
    """
    check_exists(Path(path))
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
        TypeError: arrays that are not numbers.
        ValueError: unknown extension, corrupt or cut short, pickled objects, or no embeddings inside.
    """
    arrays = read_arrays(Path(path), FIELDS)
    if labels is not None:
        arrays |= read_arrays(Path(labels), ("labels",))
    return EmbeddingFile(*(arrays.get(name) for name in FIELDS))  # pyright: ignore[reportArgumentType]


def read_arrays(path: Path, wanted: Sequence[str]) -> dict[str, Tensor]:
    """Those of the wanted arrays that a file holds; the first is required, and stands alone in .npy and .pt.

    Raises:
        FileNotFoundError, TypeError, ValueError: see `read_embeddings`.
    """
    check_exists(path)
    if path.suffix == ".safetensors":
        arrays: Mapping[str, ArrayLike] = read_tensors(path)[0]
    elif path.suffix == ".pt":
        arrays = _read_pt(path, wanted[0])
    elif path.suffix in (".npz", ".npy"):
        arrays = _read_numpy(path, wanted)
    else:
        raise ValueError(f"{path} has the unknown extension {path.suffix!r}: expected one of {', '.join(SUFFIXES)}")
    if wanted[0] not in arrays:
        raise ValueError(f"{path} has no array named {wanted[0]!r}; it holds {', '.join(arrays) or 'nothing'}")
    return {name: as_tensor(arrays[name], name=f"{path}: {name}") for name in wanted if name in arrays}


def check_exists(path: Path) -> None:
    """Raise FileNotFoundError unless there is such a file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")


def _read_numpy(path: Path, wanted: Sequence[str]) -> dict[str, ArrayLike]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {wanted[0]: loaded}
            # What isn't wanted is only named, so that an error can say what there is.
            return {name: loaded[name] if name in wanted else () for name in loaded}
    except Exception as error:  # zipfile, zlib, struct and NumPy each raise their own kind on a broken file
        # NumPy takes whatever is not in its format for a pickle, so its own word isn't enough.
        if "Object arrays" in str(error) or path.read_bytes()[:1] == _PICKLE:
            remedy = "save plain numbers instead, for example np.savez(path, embeddings=x.astype('float32'), labels=y)"
            raise ValueError(f"{path} holds pickled Python objects, which are never executed: {remedy}") from error
        raise ValueError(f"{path} is not a whole NumPy file ({type(error).__name__}): write it again") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights of a checkpoint: a state dict in .safetensors or in torch's format, or Lightning's under `state_dict`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: corrupt, cut short, pickled objects, or no weights inside.
    """
    check_exists(path)
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    loaded = _load_pt(path, "save torch.save(encoder.state_dict(), path)")
    inner = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    weights = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not weights:
        raise ValueError(f"{path} holds no weights: save torch.save(encoder.state_dict(), path)")
    return weights


def _read_pt(path: Path, alone: str) -> dict[str, Tensor]:
    remedy = "save tensors only, for example torch.save({'embeddings': x, 'labels': y}, path), or use .safetensors"
    loaded = _load_pt(path, remedy)
    if isinstance(loaded, Tensor):
        return {alone: loaded}
    if isinstance(loaded, dict):
        return {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    raise ValueError(f"{path} holds a {type(loaded).__name__}, not a tensor or a dict of tensors: {remedy}")


def _load_pt(path: Path, remedy: str) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols, before the error that says it all
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile, EOF, key and runtime errors, for a broken or unsafe file
        if isinstance(error, UnpicklingError) and path.read_bytes().startswith((_PICKLE, _ZIP)):
            raise ValueError(f"{path} holds pickled Python objects, which are never executed: {remedy}") from error
        raise ValueError(
            f"{path} is not a whole {path.suffix} file ({type(error).__name__}): write it again"
        ) from error
