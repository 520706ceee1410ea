"""The bundled data: handwritten characters of 30 alphabets, each drawn once by 20 people."""

from dataclasses import dataclass
from importlib.resources import as_file, files

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

VALIDATION_ALPHABETS = 6
"""Alphabets that the standard split keeps for validation; the other 24 train."""


@dataclass(frozen=True, slots=True, eq=False)
class Omniglot(Dataset[tuple[Tensor, int]]):
    """Omniglot's background set, 28 x 28: 964 characters, 20 drawings of each; items are (image, label).

    Attributes:
        images: uint8 [n, 28, 28], 255 = ink.
        labels: int64 [n], the character.
        alphabets: int64 [n], 0 to 29; a natural group for splits, since alphabets share no characters.
        drawers: int64 [n], 0 to 19; the same number is the same person within one alphabet only.
        alphabet_names: by alphabet number.

    Example:
        >>> from legolas_metric.datasets import load_omniglot
        >>> data = load_omniglot()
        >>> len(data), data.alphabet_names[int(data.alphabets[0])]
        (19280, 'Arcadian')

    Source: Lake, Salakhutdinov, Tenenbaum (2015), Human-level concept learning through probabilistic program
    induction, Science 350. MIT licence, Copyright (c) 2015 Brenden Lake (OMNIGLOT-LICENSE.txt beside this file).
    """

    images: UInt8[Tensor, "n 28 28"]
    labels: Int64[Tensor, " n"]
    alphabets: Int64[Tensor, " n"]
    drawers: Int64[Tensor, " n"]
    alphabet_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Float32[Tensor, "1 28 28"], int]:
        return self.images[row, None].float() / 255, int(self.labels[row])

    def take(self, rows: Int64[Tensor, " m"]) -> "Omniglot":
        """The data set of some rows; labels and alphabets keep their numbers."""
        return Omniglot(
            self.images[rows], self.labels[rows], self.alphabets[rows], self.drawers[rows], self.alphabet_names
        )


def load_omniglot() -> Omniglot:
    """The bundled Omniglot background set, from the package itself; nothing is downloaded.

    Example:
        >>> from legolas_metric.datasets import load_omniglot
        >>> data = load_omniglot()
        >>> len(data), len(data.labels.unique()), data[0][0].shape
        (19280, 964, torch.Size([1, 28, 28]))

    Source: Lake, Salakhutdinov, Tenenbaum (2015), Human-level concept learning through probabilistic program induction.
    """
    with (
        as_file(files("legolas_metric.datasets") / "omniglot_background.npz") as path,
        np.load(path, allow_pickle=False) as z,
    ):
        return Omniglot(
            torch.from_numpy(z["x"]),
            torch.from_numpy(z["y"].astype(np.int64)),
            torch.from_numpy(z["alphabet"].astype(np.int64)),
            torch.from_numpy(z["drawer"].astype(np.int64)),
            tuple(str(name) for name in z["alphabet_names"]),
        )


def split_omniglot(*, seed: int = 0) -> tuple[Omniglot, Omniglot]:
    """The standard split by alphabet: 24 to train, 6 unseen ones (chosen by the seed) to validate.

    Args:
        seed: of the choice of alphabets.

    Example:
        >>> from legolas_metric.datasets import split_omniglot
        >>> train, validation = split_omniglot(seed=0)
        >>> len(train.alphabets.unique()), len(validation.alphabets.unique())
        (24, 6)

    Source: ours; of the data, see `Omniglot`.
    """
    data = load_omniglot()
    generator = torch.Generator().manual_seed(seed)
    held_out = data.alphabets.unique()[torch.randperm(30, generator=generator)[:VALIDATION_ALPHABETS]]
    unseen = torch.isin(data.alphabets, held_out)
    return data.take((~unseen).nonzero().flatten()), data.take(unseen.nonzero().flatten())
