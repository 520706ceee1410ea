"""Heartbeats of known persons, cut from the recordings of an ECG-ID file."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.data import Dataset

from legolas_metric.checks import check_at_least, check_choice
from legolas_metric.datasets.r_peaks import find_r_peaks

Peaks = Literal["given", "found"]
_MISSING = 100  # equal samples, 0.2 s, that no heart gives
_NO_BEATS = ("p", "t", "T", "(", ")", "+", "~", "|")  # annotations of waves, noise and rhythm
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

    Source: Lugovaya (2005), Biometric human identification based on electrocardiogram; PhysioNet's ECG-ID database.
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


def load_ecg_id(
    path: str | os.PathLike[str], *, before: float = 0.3, after: float = 0.5, every: int = 2, peaks: Peaks = "given"
) -> EcgBeats:
    """Cut a window around each R peak of an ECG-ID file, and scale it to mean 0 and variance 1.

    A window is left out where it reaches beyond the recording or before `valid_from`, or where the signal leaves the
    converter's range of 2,048 units (an artefact).

    Args:
        path: an `.npz` with x_filtered [r, s] in converter units, y, day, valid_from [r], r_peaks [r, p] (sample
            numbers), fs in Hz: a recording each row. Or the database's own folder, as PhysioNet has it
            (`Person_01/rec_1.hea`, `.dat`, `.atr`), which is read through wfdb: the filtered channel, the R peaks of
            the annotations (`.atr`), the day of the header.
        before, after: seconds of the window on each side of the R peak.
        every: samples of the recording that one sample of the window is the mean of.
        peaks: "given" reads the R peaks, "found" looks for them (`find_r_peaks`, about 0.2 s a recording), so that
            neither `r_peaks` nor annotations are needed.

    Raises:
        ValueError: a window without a sample, a file that lacks one of the arrays, a folder without records, or given
            peaks of which there are none.
        ModuleNotFoundError: a folder, or peaks to be found, without wfdb.

    Example:
        >>> import numpy as np
        >>> from legolas_metric.datasets import load_ecg_id
        >>> rng = np.random.default_rng(0)
        >>> columns = {"y": [0, 0], "day": [0, 3], "valid_from": [0, 400], "r_peaks": [[300, 700], [300, 700]]}
        >>> np.savez("tiny.npz", x_filtered=rng.integers(-99, 99, (2, 1000)), fs=500, **columns)
        >>> beats = load_ecg_id("tiny.npz")  # the second recording's first beat lies before valid_from
        >>> tuple(beats.signals.shape), beats.days.tolist()
        ((3, 1, 200), [0, 0, 3])

    Source: Lugovaya (2005), Biometric human identification based on electrocardiogram; PhysioNet's ECG-ID database.
    """
    check_at_least("every", every, 1)
    check_choice("peaks", peaks, get_args(Peaks))
    held = _of_folder(Path(path), peaks) if Path(path).is_dir() else _of_file(path, peaks)
    signals, rate = held["x_filtered"].astype(np.float32), int(held["fs"])
    persons, days, first = (held[name].astype(np.int64) for name in ("y", "day", "valid_from"))
    left, right = round(before * rate), round(after * rate)
    length = (left + right) // every * every
    if length < every or left < 0:
        raise ValueError(f"a window of {before} s before and {after} s after the R peak holds no sample")
    beats = held["r_peaks"].astype(np.int64) if peaks == "given" else _found(signals, first, rate)
    start = beats - left
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


def _found(signals: np.ndarray, first: np.ndarray, rate: int) -> np.ndarray:
    """R peaks of each recording from its first sound sample on, [r, p], -1 where a recording has fewer."""
    rows = [find_r_peaks(signal[begin:], rate) + begin for signal, begin in zip(signals, first, strict=True)]
    return _table(rows)


def _table(rows: Sequence[np.ndarray]) -> np.ndarray:
    most = max(map(len, rows))
    return np.stack([np.pad(row, (0, most - len(row)), constant_values=-1) for row in rows]).reshape(len(rows), most)


def _of_file(path: str | os.PathLike[str], peaks: Peaks) -> dict[str, np.ndarray]:
    names = {"x_filtered", "y", "day", "valid_from", "fs"} | ({"r_peaks"} if peaks == "given" else set())
    with np.load(path, allow_pickle=False) as file:
        if missing := names - set(file.files):
            way = ", or have them found with peaks='found'" if missing == {"r_peaks"} else ""
            raise ValueError(f"{path} is no ECG-ID file: it lacks {', '.join(sorted(missing))}{way}")
        return {name: file[name] for name in names}


def _of_folder(path: Path, peaks: Peaks) -> dict[str, np.ndarray]:
    """The same arrays from PhysioNet's records, persons in the order of their folders."""
    try:
        import wfdb
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("PhysioNet's records need wfdb: pip install 'legolas-metric[ecg]'") from error
    found = [(header, _number(header.parent.name), _number(header.stem)) for header in path.rglob("*.hea")]
    if not found:
        raise ValueError(f"{path} holds no records of PhysioNet: expected Person_01/rec_1.hea and the like")
    signals, marked, persons, dates, rates = [], [], [], [], set()
    for header, person, _ in sorted(found, key=lambda entry: entry[1:]):
        name = str(header.with_suffix(""))
        record = wfdb.rdrecord(name, physical=False)
        assert isinstance(record, wfdb.Record)
        assert record.d_signal is not None
        assert record.sig_name is not None
        assert record.baseline is not None
        channel = next((i for i, said in enumerate(record.sig_name) if "filter" in said.lower()), -1)
        signals.append(record.d_signal[:, channel] - int(record.baseline[channel]))
        marked.append(_annotated(header) if peaks == "given" else np.empty(0, np.int64))
        persons.append(person)
        dates.append(_day(record.comments or ()))
        rates.add(record.fs)
    if len(rates) > 1 or len({len(signal) for signal in signals}) > 1:
        raise ValueError(f"the records in {path} differ in rate or length: expected those of ECG-ID, 20 s at 500 Hz")
    numbers, y = np.unique(persons, return_inverse=True)
    first = {person: min(day for day, own in zip(dates, y) if own == person) for person in range(len(numbers))}
    return {
        "x_filtered": np.stack(signals),
        "y": y,
        "day": np.array([(day - first[own]).days for day, own in zip(dates, y)]),
        "valid_from": np.array([_leading(signal) for signal in signals]),
        "r_peaks": _table(marked),
        "fs": np.array(rates.pop()),
    }


def _annotated(header: Path) -> np.ndarray:
    """The beats of a record's annotations."""
    import wfdb

    if not header.with_suffix(".atr").is_file():
        raise ValueError(
            f"{header.with_suffix('')} has no annotations (.atr): have R peaks found with peaks='found' "
            "(r_peaks='found' among the settings of a run)"
        )
    marks = wfdb.rdann(str(header.with_suffix("")), "atr")
    beats = np.array([symbol not in _NO_BEATS for symbol in marks.symbol or ()], dtype=bool)
    return np.asarray(marks.sample, dtype=np.int64)[beats]


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
