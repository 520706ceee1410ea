"""Heartbeats of known persons, cut from the recordings of an ECG-ID file."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.data import Dataset

from legolas_metric.checks import check_at_least

_MISSING = 100  # equal samples, 0.2 s, that no heart gives
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
            numbers), fs in Hz: a recording each row. Or the database's own folder, as PhysioNet has it
            (`Person_01/rec_1.hea`, `.dat`, `.atr`), which is read through wfdb: the filtered channel, the R peaks of
            the annotations, the day of the header.
        before, after: seconds of the window on each side of the R peak.
        every: samples of the recording that one sample of the window is the mean of.

    Raises:
        ValueError: a window without a sample, a file that lacks one of the arrays, or a folder without records.
        ModuleNotFoundError: a folder, without wfdb.

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
    held = _of_folder(Path(path)) if Path(path).is_dir() else _of_file(path)
    signals, peaks, rate = held["x_filtered"].astype(np.float32), held["r_peaks"].astype(np.int64), int(held["fs"])
    persons, days, first = (held[name].astype(np.int64) for name in ("y", "day", "valid_from"))
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


def _of_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    names = {"x_filtered", "y", "day", "valid_from", "r_peaks", "fs"}
    with np.load(path, allow_pickle=False) as file:
        if missing := names - set(file.files):
            raise ValueError(f"{path} is no ECG-ID file: it lacks {', '.join(sorted(missing))}")
        return {name: file[name] for name in names}


def _of_folder(path: Path) -> dict[str, np.ndarray]:
    """The same arrays from PhysioNet's records, persons in the order of their folders."""
    try:
        import wfdb
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("PhysioNet's records need wfdb: pip install 'legolas-metric[ecg]'") from error
    found = [(header, _number(header.parent.name), _number(header.stem)) for header in path.rglob("*.hea")]
    if not found:
        raise ValueError(f"{path} holds no records of PhysioNet: expected Person_01/rec_1.hea and the like")
    signals, peaks, persons, dates, rates = [], [], [], [], set()
    for header, person, _ in sorted(found, key=lambda entry: entry[1:]):
        name = str(header.with_suffix(""))
        record = wfdb.rdrecord(name, physical=False)
        assert isinstance(record, wfdb.Record)
        assert record.d_signal is not None
        assert record.sig_name is not None
        assert record.baseline is not None
        channel = next((i for i, said in enumerate(record.sig_name) if "filter" in said.lower()), -1)
        signals.append(record.d_signal[:, channel] - int(record.baseline[channel]))
        marks = wfdb.rdann(name, "atr")
        beats = np.array([symbol not in ("p", "t", "T", "(", ")", "+", "~", "|") for symbol in marks.symbol or ()])
        peaks.append(np.asarray(marks.sample)[beats])
        persons.append(person)
        dates.append(_day(record.comments or ()))
        rates.add(record.fs)
    if len(rates) > 1 or len({len(signal) for signal in signals}) > 1:
        raise ValueError(f"the records in {path} differ in rate or length: expected those of ECG-ID, 20 s at 500 Hz")
    numbers, y = np.unique(persons, return_inverse=True)
    first = {person: min(day for day, own in zip(dates, y) if own == person) for person in range(len(numbers))}
    most = max(map(len, peaks))
    return {
        "x_filtered": np.stack(signals),
        "y": y,
        "day": np.array([(day - first[own]).days for day, own in zip(dates, y)]),
        "valid_from": np.array([_leading(signal) for signal in signals]),
        "r_peaks": np.stack([np.pad(row, (0, most - len(row)), constant_values=-1) for row in peaks]),
        "fs": np.array(rates.pop()),
    }


def _number(name: str) -> int:
    digits = re.search(r"(\d+)$", name)
    if digits is None:
        raise ValueError(f"{name!r} does not end in a number, as Person_01 and rec_1 do")
    return int(digits[1])


def _day(comments: Sequence[str]) -> date:
    """Of `ECG date: 15.12.2004`."""
    for comment in comments:
        told = re.search(r"date:?\s*(\d{1,2})\.(\d{1,2})\.(\d{4})", comment, re.I)
        if told is not None:
            return date(int(told[3]), int(told[2]), int(told[1]))
    raise ValueError(f"no `ECG date` in a header, only {list(comments)}")


def _leading(signal: np.ndarray) -> int:
    """Samples that are missing at the start: there the published files repeat one value."""
    changes = np.flatnonzero(signal != signal[0])
    run = int(changes[0]) if len(changes) else len(signal)
    return run if run >= _MISSING else 0
