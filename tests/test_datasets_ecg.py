from pathlib import Path

import numpy as np
import pytest
import torch

from legolas_metric.datasets import load_ecg_id
from legolas_metric.datasets.r_peaks import find_r_peaks

BUNDLED = Path(__file__).parents[1] / "examples/data/ecgid_dev.npz"


def write(path: Path, **changes) -> Path:
    """Three recordings of two persons, 100 samples a second, with a peak every second."""
    rng = np.random.default_rng(0)
    columns = {
        "x_filtered": rng.integers(-300, 300, (3, 500)).astype(np.int16),
        "y": np.array([4, 4, 7], np.int16),
        "day": np.array([0, 12, 0], np.int16),
        "valid_from": np.array([0, 0, 0], np.int16),
        "r_peaks": np.array([[100, 200, 300]] * 3, np.int16),
        "fs": np.int16(100),
    }
    np.savez(path, **(columns | changes))
    return path


def test_beats_are_windows_around_the_peaks(tmp_path):
    path = write(tmp_path / "ecg.npz")
    beats = load_ecg_id(path, before=0.3, after=0.5, every=2)
    assert beats.signals.shape == (9, 1, 40)
    assert beats.labels.tolist() == [4] * 6 + [7] * 3
    assert beats.days.tolist() == [0] * 3 + [12] * 3 + [0] * 3
    assert beats.recordings.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    raw = np.load(path)["x_filtered"][1].astype(float)  # the second recording's third beat, worked by hand
    means = [(raw[270 + 2 * i] + raw[271 + 2 * i]) / 2 for i in range(40)]
    expected = (np.array(means) - np.mean(means)) / np.std(means)
    np.testing.assert_allclose(beats.signals[5, 0].numpy(), expected, atol=1e-5)


def test_windows_that_reach_out_or_hold_artefacts_are_left_out(tmp_path):
    signal = np.zeros((3, 500), np.int16)
    signal[:] = np.arange(500) % 50
    signal[0, 349] = -2049  # in the third window of the first recording, its last sample
    signal[1, 350] = 3000  # just behind the second's
    path = write(
        tmp_path / "ecg.npz",
        x_filtered=signal,
        valid_from=np.array([0, 71, 70]),
        r_peaks=np.array([[29, 200, 300], [100, 200, 300], [100, 200, 451]]),
    )
    beats = load_ecg_id(path, before=0.3, after=0.5, every=1)
    assert beats.recordings.tolist() == [0, 1, 1, 2, 2]


def test_an_item_is_a_beat_and_its_person(tmp_path):
    beats = load_ecg_id(write(tmp_path / "ecg.npz"))
    signal, person = beats[7]
    assert torch.equal(signal, beats.signals[7])
    assert person == 7
    part = beats.take(torch.tensor([8, 0]))
    assert (part.labels.tolist(), part.recordings.tolist(), part.days.tolist()) == ([7, 4], [2, 0], [0, 0])


def test_a_flat_line_has_no_nan(tmp_path):
    beats = load_ecg_id(write(tmp_path / "ecg.npz", x_filtered=np.full((3, 500), 7, np.int16)))
    assert torch.equal(beats.signals, torch.zeros(9, 1, 40))


def test_what_cannot_be_cut_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"a window of -0.1 s before and 0.05 s after the R peak holds no sample"):
        load_ecg_id(write(tmp_path / "ecg.npz"), before=-0.1, after=0.05)
    with pytest.raises(ValueError, match="holds no sample"):
        load_ecg_id(tmp_path / "ecg.npz", before=0.0, after=0.01, every=2)
    np.savez(tmp_path / "other.npz", x=np.zeros(3), fs=100, y=[0])
    with pytest.raises(ValueError, match="is no ECG-ID file: it lacks day, r_peaks, valid_from, x_filtered"):
        load_ecg_id(tmp_path / "other.npz")


def test_the_bundled_recordings():
    beats = load_ecg_id(BUNDLED)
    assert beats.signals.shape == (1510, 1, 200)
    assert (len(beats.labels.unique()), len(beats.recordings.unique())) == (45, 155)
    on_two_days = [int(p) for p in beats.labels.unique() if len(beats.days[beats.labels == p].unique()) > 1]
    assert len(on_two_days) == 10
    torch.testing.assert_close(beats.signals.mean(2), torch.zeros(1510, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(beats.signals.var(2, correction=0), torch.ones(1510, 1))
    assert (beats.signals.mean(0)[0].argmax() - 75).abs() <= 2  # the R peak, 0.3 s in, at 250 Hz


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_physionets_folder_gives_the_beats_of_the_file(tmp_path):
    wfdb = pytest.importorskip("wfdb")
    rng = np.random.default_rng(1)
    signals = rng.integers(-300, 300, (3, 1000)).astype(np.int16)
    signals[2, :350] = -1  # missing, as published
    peaks = np.array([[150, 400, 700, 800], [150, 400, 700, -1], [300, 500, 700, -1]])
    np.savez(
        tmp_path / "ecg.npz",
        x_filtered=signals,
        y=[0, 0, 1],
        day=[0, 9, 0],
        valid_from=[0, 0, 350],
        r_peaks=peaks,
        fs=500,
    )
    records = (("Person_02", "rec_2", "01.03.2005", 0), ("Person_02", "rec_10", "10.03.2005", 1))
    for person, name, day, row in (*records, ("Person_10", "rec_1", "05.12.2004", 2)):
        folder = tmp_path / "ecg-id" / person
        folder.mkdir(parents=True, exist_ok=True)
        wfdb.wrsamp(
            name,
            fs=500,
            units=["mV", "mV"],
            sig_name=["ECG I", "ECG I filtered"],
            d_signal=np.stack([signals[row][::-1], signals[row]], 1).astype(np.int64),
            fmt=["16", "16"],
            adc_gain=[200.0, 200.0],
            baseline=[0, 0],
            comments=["Age: 25", f"ECG date: {day}"],
            write_dir=str(folder),
        )
        beats = peaks[row][peaks[row] >= 0]
        marks = np.sort(np.concatenate([beats, beats + 60]))
        symbols = ["N" if mark in beats else "t" for mark in marks]
        wfdb.wrann(name, "atr", marks, symbol=symbols, write_dir=str(folder))
    of_file, of_folder = load_ecg_id(tmp_path / "ecg.npz"), load_ecg_id(tmp_path / "ecg-id")
    assert len(of_file) == 8
    for name in ("signals", "labels", "recordings", "days"):
        assert torch.equal(getattr(of_file, name), getattr(of_folder, name)), name
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no records of PhysioNet"):
        load_ecg_id(tmp_path / "empty")


def test_peaks_are_found_where_the_database_has_them():
    """All recordings would take half a minute: every twentieth, against the ten peaks that are given."""
    pytest.importorskip("wfdb")
    with np.load(BUNDLED) as held:
        signals, first, given = held["x_filtered"][::20], held["valid_from"][::20], held["r_peaks"][::20]
    hits, strangers, expected, between = 0, 0, 0, 0
    for signal, begin, peaks in zip(signals, first, given, strict=True):
        known = peaks[peaks >= begin]
        found = begin + find_r_peaks(signal[begin:], 500)
        off = np.abs(found[:, None] - known[None])
        hits, expected = hits + int((off.min(0) <= 10).sum()), expected + len(known)  # 20 ms
        within = (found >= known.min()) & (found <= known.max())
        strangers, between = strangers + int((off.min(1)[within] > 10).sum()), between + int(within.sum())
    assert hits >= 0.93 * expected
    assert strangers <= 0.07 * between


def test_peaks_of_a_flat_line_and_of_nothing():
    pytest.importorskip("wfdb")
    assert len(find_r_peaks(np.full(2000, 7, np.int16), 500)) == 0
    assert len(find_r_peaks(np.empty(0), 500)) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_raw_records_without_annotations_give_the_beats_that_the_annotated_ones_give(tmp_path):
    wfdb = pytest.importorskip("wfdb")
    with np.load(BUNDLED) as held:
        rows = [0, 1, 62]
        signals, given = held["x_filtered"][rows], held["r_peaks"][rows]
    for number, signal in enumerate(signals):
        folder = tmp_path / "raw" / f"Person_{number + 1:02}"
        folder.mkdir(parents=True)
        wfdb.wrsamp(
            "rec_1",
            fs=500,
            units=["mV"],
            sig_name=["ECG I filtered"],
            d_signal=signal[:, None].astype(np.int64),
            fmt=["16"],
            adc_gain=[200.0],
            baseline=[0],
            comments=["ECG date: 01.03.2005"],
            write_dir=str(folder),
        )
    with pytest.raises(ValueError, match=r"rec_1 has no annotations \(\.atr\): .* peaks='found'"):
        load_ecg_id(tmp_path / "raw")
    found = load_ecg_id(tmp_path / "raw", peaks="found")
    columns = {"x_filtered": signals, "y": [0, 1, 2], "day": [0] * 3, "valid_from": [0] * 3, "fs": 500}
    np.savez(tmp_path / "bare.npz", **columns)
    with pytest.raises(ValueError, match="it lacks r_peaks, or have them found with peaks='found'"):
        load_ecg_id(tmp_path / "bare.npz")
    bare = load_ecg_id(tmp_path / "bare.npz", peaks="found")
    assert torch.equal(found.signals, bare.signals)
    np.savez(tmp_path / "given.npz", **columns, r_peaks=given)
    told = load_ecg_id(tmp_path / "given.npz")
    alike = torch.stack([(found.signals - beat).flatten(1).square().mean(1).min() for beat in told.signals])
    assert len(found) >= 2 * len(told)  # all 20 s, not the first ten beats
    assert (alike < 0.05).float().mean() >= 0.9  # of beats with variance 1
