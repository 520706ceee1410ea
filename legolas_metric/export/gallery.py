"""The people who are known: templates with their names, as `.npz` and as a FAISS index, named by their space."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from legolas_metric.files import check_exists
from legolas_metric.outputs import whole_file

Names = tuple[str, ...] | Int64[Tensor, " t"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gallery:
    """Templates of one space: rows that another encoder made must not come among them.

    Attributes:
        templates: [t, e], as probes are compared with them.
        names: [t] whose each is.
        space: name of encoder, back end and settings, a hash.

    Example:
        >>> import torch
        >>> gallery = Gallery(templates=torch.eye(2), names=("ann", "bob"), space="0123456789abcdef")
        >>> [path.name for path in gallery.save("people")]
        ['gallery-0123456789abcdef.npz', 'gallery-0123456789abcdef.faiss']
        >>> read_gallery("people/gallery-0123456789abcdef.npz").names
        ('ann', 'bob')

    Source: ours.
    """

    templates: Float32[Tensor, "t e"]
    names: Names
    space: str

    def save(self, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write `gallery-<space>.npz` (embeddings, labels, space) and `gallery-<space>.faiss`, each whole.

        The FAISS index is a flat one of inner products, which under cosine are the similarities; its number i is row i
        of the other file.
        """
        from legolas_metric.index.faiss import write_flat_index

        arrays, index = (Path(folder) / f"gallery-{self.space}{ending}" for ending in (".npz", ".faiss"))
        labels: Any = self.names.numpy() if isinstance(self.names, Tensor) else np.array(self.names, dtype=np.str_)
        with whole_file(arrays) as temporary:
            np.savez(temporary, embeddings=self.templates.numpy(), labels=labels, space=np.array(self.space))
        write_flat_index(index, self.templates)
        return arrays, index


def read_gallery(path: str | os.PathLike[str]) -> Gallery:
    """Read the `.npz` that `Gallery.save` wrote.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of something else.

    Example:
        >>> read_gallery("people.npz")
        Traceback (most recent call last):
        FileNotFoundError: people.npz: no such file

    Source: ours.
    """
    check_exists(Path(path))
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in ("embeddings", "labels", "space")}
    except Exception as error:  # zipfile, zlib, struct, KeyError: NumPy passes on each its own
        raise ValueError(f"{path} is no gallery ({type(error).__name__}): export it again") from error
    labels = held["labels"]
    names: Names = tuple(map(str, labels)) if labels.dtype.kind == "U" else torch.from_numpy(labels).long()
    return Gallery(templates=torch.from_numpy(held["embeddings"]), names=names, space=str(held["space"]))
