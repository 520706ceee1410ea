"""Heartbeats of known persons, cut from the recordings of an ECG-ID file."""

import os
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.data import Dataset

from legolas_metric.checks import check_at_least

_LIMIT = 2048  # converter units; beyond, the signal is an artefact


@dataclass(frozen=True, slots=True, eq=False)
class EcgBeats(Dataset[tuple[Tensor, int]]):
    """Single heartbeats; items are (signal, label).

    Attributes:
        signals: float32 [n, 1, t], one beat each with its R peak at the same sample, of mean 0 and variance 1.
        labels: int64 [n], the person.
        recordings: int64 [n], numbered across persons.
        days: int64 [n], days since the person's first recording.

    Example:
        >>> import torch
        >>> from legolas_metric.datasets import EcgBeats
        >>> person, recording, day = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]), torch.tensor([0, 9, 0])
        >>> beats = EcgBeats(torch.randn(3, 1, 200), person, recording, day)
        >>> len(beats), beats.take(beats.days > 0).labels.tolist()
        (3, [0])
    """

    signals: Float32[Tensor, "n 1 t"]
    labels: Int64[Tensor, " n"]
    recordings: Int64[Tensor, " n"]
    days: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Float32[Tensor, "1 t"], int]:
        return self.signals[row], int(self.labels[row])

    def take(self, rows: Tensor) -> "EcgBeats":
        """The data set of some rows (numbers or a mask); labels, recordings and days keep their numbers."""
        return EcgBeats(self.signals[rows], self.labels[rows], self.recordings[rows], self.days[rows])


def load_ecg_id(path: str | os.PathLike[str], *, before: float = 0.3, after: float = 0.5, every: int = 2) -> EcgBeats:
    """Cut a window around each R peak of an ECG-ID file, and scale it to mean 0 and variance 1.

    A window is left out where it reaches beyond the recording or before `valid_from`, or where the signal leaves the
    converter's range of 2,048 units (an artefact).

    Args:
        path: an `.npz` with x_filtered [r, s] in converter units, y, day, valid_from [r], r_peaks [r, p] (sample
            numbers), fs in Hz: a recording each row.
        before, after: seconds of the window on each side of the R peak.
        every: samples of the recording that one sample of the window is the mean of.

    Raises:
        ValueError: a window without a sample, or a file that lacks one of the arrays.

    Example:
        >>> import numpy as np
        >>> from legolas_metric.datasets import load_ecg_id
        >>> rng = np.random.default_rng(0)
        >>> columns = {"y": [0, 0], "day": [0, 3], "valid_from": [0, 400], "r_peaks": [[300, 700], [300, 700]]}
        >>> np.savez("tiny.npz", x_filtered=rng.integers(-99, 99, (2, 1000)), fs=500, **columns)
        >>> beats = load_ecg_id("tiny.npz")  # the second recording's first beat lies before valid_from
        >>> tuple(beats.signals.shape), beats.days.tolist()
        ((3, 1, 200), [0, 0, 3])
    """
    check_at_least("every", every, 1)
    with np.load(path, allow_pickle=False) as file:
        if missing := {"x_filtered", "y", "day", "valid_from", "r_peaks", "fs"} - set(file.files):
            raise ValueError(f"{path} is no ECG-ID file: it lacks {', '.join(sorted(missing))}")
        signals, peaks, rate = file["x_filtered"].astype(np.float32), file["r_peaks"].astype(np.int64), int(file["fs"])
        persons, days, first = (file[name].astype(np.int64) for name in ("y", "day", "valid_from"))
    left, right = round(before * rate), round(after * rate)
    length = (left + right) // every * every
    if length < every or left < 0:
        raise ValueError(f"a window of {before} s before and {after} s after the R peak holds no sample")
    start = peaks - left
    inside = (start >= first[:, None]) & (start + length <= signals.shape[1])
    recording, beat = inside.nonzero()
    place = start[recording, beat][:, None] + np.arange(length)
    windows = signals[recording[:, None], place]
    sound = np.abs(windows).max(1) <= _LIMIT
    windows = windows[sound].reshape(-1, length // every, every).mean(2)
    windows -= windows.mean(1, keepdims=True)
    windows /= np.maximum(windows.std(1, keepdims=True), 1e-6)
    recording = recording[sound]
    return EcgBeats(
        torch.from_numpy(windows[:, None]),
        torch.from_numpy(persons[recording]),
        torch.from_numpy(recording),
        torch.from_numpy(days[recording]),
    )
