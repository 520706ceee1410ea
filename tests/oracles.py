"""Slow, obvious answers that every implementation is held against."""

import numpy as np

_TIE = 4 * 2.0**-23  # the distance up to which unit rows have one direction


def similarity(x: np.ndarray, y: np.ndarray, metric: str) -> float:
    """The similarity that decides, in float64 of the float32 rows; under cosine, of the normalised rows.

    By squared differences, kept to 33 bits: `geometry.exact_similarity`, written down a second time.
    """
    if metric == "cosine":
        x, y = unit(x), unit(y)
    a, b = x.astype(np.float64), y.astype(np.float64)
    if metric == "dot":
        return _settled(float((a * b).sum()))
    squared = _settled(float(((a - b) ** 2).sum()))
    if metric == "euclidean":
        return -float(np.sqrt(squared))
    return 1.0 if squared <= _TIE**2 else max(-1.0, 1 - squared / 2)


def reported(x: np.ndarray, y: np.ndarray, metric: str) -> float:
    """The similarity that is shown: the one that decides, rounded to float32."""
    return float(np.float32(similarity(x, y, metric)))


def _settled(value: float) -> float:
    """Rounded to 33 bits, so that an order of adding changes nothing."""
    mantissa, exponent = np.frexp(value)
    return float(np.ldexp(np.rint(mantissa * 2.0**33), exponent - 33))


def unit(x: np.ndarray) -> np.ndarray:
    """Unit rows; those that are unit to 2^-22 as they are."""
    wide = x.astype(np.float64)
    norm = np.sqrt((wide**2).sum(-1, keepdims=True))
    return (wide / np.where(np.abs(norm - 1) <= 2.0**-22, 1, norm)).astype(np.float32)


def allowed(want, query, row) -> bool:
    """The relation between a query and a row, each (label, id, group)."""
    (q_label, q_id, q_group), (label, own_id, group) = query, row
    if q_id == own_id:
        return False
    if want == "any":
        return True
    if q_label == -1:
        return False
    if want == "negative":
        return label != q_label
    if want == "positive":
        return label == q_label
    return label == q_label and group != q_group


def neighbors(queries, rows, k, *, want, metric, farthest=False, window=None):
    """Brute force. queries and rows are lists of (vector, label, id, group). Returns ids and similarities, [q][k]."""
    ids, values = [], []
    for number, (vector, *query) in enumerate(queries):
        found = []
        for other, *row in rows:
            if not allowed(want, query, row):
                continue
            s = similarity(vector, other, metric)
            if window is not None:
                low, high = float(window[0][number]), float(window[1][number])
                if not (np.isnan(low) or s > low) or not (np.isnan(high) or s < high):
                    continue
            found.append((s if farthest else -s, row[1], s))
        found = sorted(found)[:k]
        missing = k - len(found)
        ids.append([own_id for _, own_id, _ in found] + [-1] * missing)
        values.append([s for *_, s in found] + [-np.inf] * missing)
    return np.array(ids), np.array(values, dtype=np.float32)
