"""Reading embeddings that were saved, and writing arrays, text and JSON, whole or not at all."""

import errno
import json
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from legolas_metric.budgets import UNPACKED
from legolas_metric.checks import ArrayLike, as_tensor
from legolas_metric.matched_ids import Named, by_id
from legolas_metric.names import Names, as_named
from legolas_metric.outputs import check_file, check_writable, followed, is_stream, of_column, whole_file
from legolas_metric.tabular_files import TABULAR, held_input, read_columns

FIELDS = ("embeddings", "labels", "ids", "groups", "images")
ARRAYS = (".npz", ".npy", ".safetensors", ".pt")
SUFFIXES = (*ARRAYS, *TABULAR)

_PICKLE, _ZIP = b"\x80", b"PK\x03\x04"  # how such files begin
_PACKED = 50  # numbers that are embeddings do not shrink to a fiftieth


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
    check_file(path)
    if Path(path).suffix not in (".npz", ".safetensors"):
        raise ValueError(f"{path} has the unknown extension {Path(path).suffix!r}: expected .npz or .safetensors")
    if not is_stream(Path(path)):
        check_writable(followed(path).parent)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        FileNotFoundError: no such file.
        OSError: the file can't be read.
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
    """What a file of embeddings held; fields that it lacked are None. Not yet checked against each other.

    `label_names[label]` is what a label stands for, where the file holds names; `id_names[id]` likewise.
    """

    embeddings: Tensor
    labels: Tensor | None
    ids: Tensor | None
    groups: Tensor | None
    images: Tensor | None
    label_names: Names | None = None
    id_names: Names | None = None


def read_embeddings(
    path: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    groups: str | os.PathLike[str] | None = None,
    ids: str | os.PathLike[str] | None = None,
    embeddings_key: str = "embeddings",
    labels_key: str = "labels",
) -> EmbeddingFile:
    """Read saved embeddings: .npz or .safetensors with named arrays, .npy or .pt with the embeddings alone, or a table.

    A table is .csv, .tsv, .jsonl or .parquet (extra `parquet`): a row each, with columns label, id, group and numbers,
    or one column of lists. "-" is standard input, of any of these kinds.

    No pickle is ever executed: .npz and .npy are read with `allow_pickle=False`, .pt with `weights_only=True`.

    Args:
        path: the file. Named arrays are embeddings, labels, ids, groups, images; only the first is required.
        labels, groups: files of any kind that override those of the first: by id where both have ids, else by row. Of
            "people.csv:camera" the column (or array) camera.
        ids: likewise, by row. Ids may be names, such as those of pictures, which are numbered.
        embeddings_key, labels_key: how the arrays of embeddings and labels are named, where they have other names; a
            key that is given must be there.

    Raises:
        FileNotFoundError: no such file.
        OSError: a file that can't be read.
        TypeError: arrays that are not numbers.
        ValueError: unknown extension, corrupt or cut short, pickled objects, more than this machine's memory, or no
            embeddings inside.
    """
    names = (embeddings_key, labels_key, *FIELDS[2:])
    arrays = _read(Path(path), names, option="--embeddings-key", named=(labels_key, "groups", "ids"))
    if ids is not None:
        file, column = of_column(ids)
        own = column or "ids"
        arrays["ids"] = _read(file, (own,), named=(own,))[own]
    for other, key in ((labels, labels_key), (groups, "groups")):
        if other is not None:
            file, column = of_column(other)
            option, called = "--labels-key" if key == labels_key else None, column or key
            told = _read(file, (called, "ids"), option=option, named=(called, "ids"))
            arrays[key] = by_id(told, called, arrays.get("ids"), file)
    if labels is None and labels_key != FIELDS[1] and labels_key not in arrays:
        raise ValueError(f"{path} has no array named {labels_key!r}, which labels_key (--labels-key) asks for")
    found = {name: array for name, (array, _) in arrays.items()}
    own, named, groups_of, images = (found.get(name) for name in names[1:])
    label_names, id_names = (arrays.get(name, (None, None))[1] for name in (labels_key, "ids"))
    return EmbeddingFile(found[embeddings_key], own, named, groups_of, images, label_names, id_names)


def read_arrays(
    path: Path, wanted: Sequence[str], *, option: str | None = None, named: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Those of the wanted arrays that a file holds; the first is required, and stands alone in .npy and .pt.

    Args:
        path: the file.
        wanted: names of arrays.
        option: of the command line, by which another name is given; for the error text.
        named: arrays that may hold names of classes or sessions, which are numbered.

    Raises:
        FileNotFoundError, OSError, TypeError, ValueError: see `read_embeddings`.
    """
    return {name: array for name, (array, _) in _read(path, wanted, option=option, named=named).items()}


def _read(
    path: Path, wanted: Sequence[str], *, option: str | None = None, named: Sequence[str] = ()
) -> dict[str, Named]:
    """Arrays, as `read_arrays` has them, each with what its numbers stand for."""
    if str(path) == "-":
        with held_input() as held:
            try:
                return _read(held, wanted, option=option, named=named)
            except (ValueError, TypeError) as error:
                raise type(error)(str(error).replace(str(held), "standard input")) from error
    check_exists(path)
    if path.suffix == ".safetensors":
        arrays: Mapping[str, ArrayLike] = read_tensors(path)[0]
    elif path.suffix in TABULAR:
        arrays = read_columns(path, wanted)
    elif path.suffix == ".pt":
        arrays = _read_pt(path, wanted[0])
    elif path.suffix in (".npz", ".npy"):
        arrays = _read_numpy(path, wanted)
    elif path.suffix in (".gz", ".zip", ".bz2", ".xz"):
        raise ValueError(f"{path} is compressed: unpack it first, or pipe it: `gunzip -c {path.name} | ... -`")
    else:
        raise ValueError(f"{path} has the unknown extension {path.suffix!r}: expected one of {', '.join(SUFFIXES)}")
    if wanted[0] not in arrays:
        told = f"{path} has no array named {wanted[0]!r}; it holds {', '.join(arrays) or 'nothing'}"
        key = "" if option is None or not arrays else f": name the one that is meant with {option} NAME"
        raise ValueError(told + key)
    return {name: _as_numbers(arrays[name], f"{path}: {name}", name in named) for name in wanted if name in arrays}


def _as_numbers(array: ArrayLike, name: str, named: bool) -> Named:
    """The array; names of classes or sessions, where there may be some, numbered in ascending order."""
    if named and isinstance(array, np.ndarray) and array.dtype.kind in "OUSMm":
        found = as_named(array, None, name=name)
        return found.codes, found.names
    return as_tensor(array, name=name), None


def check_exists(path: Path) -> None:
    """Raise FileNotFoundError unless there is such a file, IsADirectoryError where it is a folder."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file: name a file in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")


def _read_numpy(path: Path, wanted: Sequence[str]) -> dict[str, ArrayLike]:
    try:
        with path.open("rb") as file:
            if file.peek(2)[:2] == _ZIP[:2]:
                _check_sizes(path, file, wanted)
            else:
                _check_size(path, file, os.fstat(file.fileno()).st_size)
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {wanted[0]: loaded}
            # What isn't wanted is only named, so that an error can say what there is.
            return {name: loaded[name] if name in wanted else () for name in loaded}
    except _Told:
        raise
    except MemoryError as error:
        raise ValueError(f"{path} holds more than fits into this machine's memory: {error}") from error
    except Exception as error:  # zipfile, zlib, struct and NumPy each raise their own kind on a broken file
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(f"cannot read {path}: {error.strerror}") from error
        # NumPy takes whatever is not in its format for a pickle, so its own word isn't enough.
        if "Object arrays" in str(error) or _begins(path, _PICKLE):
            remedy = "save plain numbers instead, for example np.savez(path, embeddings=x.astype('float32'), labels=y)"
            raise ValueError(f"{path} holds pickled Python objects, which are never executed: {remedy}") from error
        raise ValueError(f"{path} is not a whole NumPy file ({type(error).__name__}): write it again") from error


class _Told(ValueError):
    """What is said already as the user will read it."""


def _check_sizes(path: Path, file: BufferedIOBase, wanted: Sequence[str]) -> None:
    """Refuse, by the headers of the wanted arrays of an .npz, more than fits, and what is packed to hide its size."""
    total = 0
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.filename.removesuffix(".npy") in wanted:
                with archive.open(info) as member:
                    total += _check_size(path, member, info.file_size)
                if info.file_size > max(UNPACKED, _PACKED * info.compress_size):
                    raise _Told(
                        f"{path} would unpack {info.compress_size:,} bytes to {info.file_size:,}, which embeddings "
                        "never do: write it again with np.savez"
                    )
    _check_memory(path, total)


def _check_size(path: Path, file: Any, held: int) -> int:
    """Bytes of an array by its header; refused where the file is too short for them, or the memory."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size > held and not dtype.hasobject:
        raise ValueError(f"{size} bytes in a file of {held}")
    _check_memory(path, size)
    return size


def _check_memory(path: Path, size: int) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 62
    if size > memory:
        raise _Told(
            f"{path} holds {size / 1e9:.0f} GB, more than this machine's memory ({memory / 1e9:.0f} GB): save fewer "
            "rows, or float16"
        )


def _begins(path: Path, *starts: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(8).startswith(starts)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights of a checkpoint: a state dict in .safetensors or in torch's format, or Lightning's under `state_dict`.

    Raises:
        FileNotFoundError: no such file.
        OSError: the file can't be read.
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
    except MemoryError as error:
        raise ValueError(f"{path} holds more than fits into this machine's memory: {error}") from error
    except Exception as error:  # pickle, zipfile, EOF, key and runtime errors, for a broken or unsafe file
        if isinstance(error, OSError) and error.errno not in (
            None,
            errno.EINVAL,
        ):
            raise OSError(f"cannot read {path}: {error.strerror}") from error
        if isinstance(error, UnpicklingError) and _begins(path, _PICKLE, _ZIP):
            raise ValueError(f"{path} holds pickled Python objects, which are never executed: {remedy}") from error
        raise ValueError(
            f"{path} is not a whole {path.suffix} file ({type(error).__name__}): write it again"
        ) from error
