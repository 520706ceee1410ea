"""R peaks of an ECG, found where nobody marked them."""

import numpy as np
from jaxtyping import Int64, Shaped

_AROUND = 0.05  # seconds on each side of what the detector marks, which is the QRS complex and not its peak


def find_r_peaks(signal: Shaped[np.ndarray, " s"], rate: float | int) -> Int64[np.ndarray, " p"]:
    """Sample numbers of the R peaks: wfdb's XQRS detector, each mark moved to the peak near it.

    peak = argmax |x - median(x)| within 50 ms of the mark; without a heartbeat there is none

    Args:
        signal: [s], one lead, in any unit.
        rate: of the samples, in Hz.

    Raises:
        ModuleNotFoundError: wfdb is missing.

    Source: wfdb's XQRS detector (a band-pass filter, a wavelet, adaptive thresholds); the shift is ours.
    """
    try:
        from wfdb.processing import xqrs_detect
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("finding R peaks needs wfdb: pip install 'legolas-metric[ecg]'") from error
    values = signal.astype(np.float64)
    far = np.abs(values - np.median(values)) if len(values) else values
    if not far.any():  # a flat line, which the detector can't scale
        return np.empty(0, dtype=np.int64)
    reach = round(_AROUND * rate)
    marks = np.asarray(xqrs_detect(values, rate, verbose=False), dtype=np.int64)
    starts = np.maximum(marks - reach, 0)
    peaks = [int(start + far[start : mark + reach + 1].argmax()) for start, mark in zip(starts, marks, strict=True)]
    return np.unique(np.array(peaks, dtype=np.int64))
