"""Which classes stand in which batch of a round."""

from typing import Literal

import numpy as np
from jaxtyping import Int64

from legolas_metric.samplers.draws import EXTRA, ORDER, random_order, stable_order

Weights = Literal["balanced", "sqrt", "proportional"]

_EXPONENT = {"balanced": 0.0, "sqrt": 0.5, "proportional": 1.0}


def class_visits(sizes: Int64[np.ndarray, " c"], k: int, weights: Weights) -> Int64[np.ndarray, " c"]:
    """Visits of each class in a round, ceil((size / k)^q), with q = 0, 1/2 or 1."""
    return np.ceil(np.maximum(sizes / k, 1.0) ** _EXPONENT[weights]).astype(np.int64)


def round_steps(visits: Int64[np.ndarray, " c"], width: int) -> int:
    """Steps of a round: each holds `width` classes, all different."""
    return max(-(-int(visits.sum()) // width), int(visits.max()))


def planned_visits(
    visits: Int64[np.ndarray, " c"], width: int, *, epoch: int, steps: int | None, seed: int
) -> tuple[Int64[np.ndarray, "s w"], Int64[np.ndarray, "s w"]]:
    """The classes that each step of an epoch visits, and which visit of theirs this is, from the start of the run.

    Args:
        visits, width, seed: see `round_schedule`.
        epoch: a window on the endless sequence of rounds.
        steps: of an epoch (default: a round).
    """
    whole = round_steps(visits, width)
    count = whole if steps is None else steps
    turns = range(epoch * count // whole, (epoch * count + count - 1) // whole + 1)
    classes = [round_schedule(visits, width, seed=seed, turn=turn) for turn in turns]
    numbers = [turn * visits[drawn] + occurrence(drawn) for turn, drawn in zip(turns, classes)]
    begin = epoch * count - turns[0] * whole
    window = slice(begin, begin + count)
    return np.concatenate(classes)[window], np.concatenate(numbers)[window]


def round_schedule(visits: Int64[np.ndarray, " c"], width: int, *, seed: int, turn: int) -> Int64[np.ndarray, "s w"]:
    """The classes of each step of a round, all different within a step.

    Args:
        visits: [c], how often a round visits each class, at least; the places that remain are filled at random.
        width: classes of a step, at most c.
        seed, turn: of the random choices; `turn` numbers the round.
    """
    steps = round_steps(visits, width)
    order = random_order(seed, ORDER, turn, np.arange(len(visits)))
    if visits.max() > 1:
        return _grid(order, visits, width, steps, np.random.default_rng([seed % 2**64, ORDER, turn]))
    # One visit each: the shuffled classes in order. The last step is topped up from those that are not in it.
    missing = steps * width - len(order)
    earlier = order[: (steps - 1) * width]
    extra = earlier[random_order(seed, EXTRA, turn, earlier)[:missing]]
    return np.concatenate([order, extra]).reshape(steps, width)


def _grid(
    order: Int64[np.ndarray, " c"],
    visits: Int64[np.ndarray, " c"],
    width: int,
    steps: int,
    rng: np.random.Generator,
) -> Int64[np.ndarray, "s w"]:
    """Steps in which class c stands exactly visits[c] times, never twice in one.

    The visits, class by class, fill `width` rows of `steps` places. No class has more visits than a row has places, so
    it lies in one row, or at the end of one and the head of the next. Each row is then shuffled; the class that it
    shares with the row before goes to steps where it isn't yet.
    """
    filled = _fill(visits, steps, width * steps, rng)
    rows = np.repeat(order, filled[order]).reshape(width, steps)
    for row in range(width):
        shared = rows[row - 1] == rows[row, 0] if row else np.zeros(steps, bool)
        head = int((rows[row] == rows[row, 0]).sum()) if shared.any() else 0
        free = rng.permutation(np.flatnonzero(~shared))[:head]
        rest = np.ones(steps, bool)
        rest[free] = False
        shuffled = np.empty_like(rows[row])
        shuffled[free], shuffled[rest] = rows[row, :head], rng.permutation(rows[row, head:])
        rows[row] = shuffled
    return np.ascontiguousarray(rows.T)


def _fill(
    visits: Int64[np.ndarray, " c"], steps: int, places: int, rng: np.random.Generator
) -> Int64[np.ndarray, " c"]:
    """Visits raised at random, and evenly, until they fill the places; none above the number of steps."""
    filled = visits.copy()
    missing = places - int(filled.sum())
    while missing:
        open_ = rng.permutation(np.flatnonzero(filled < steps))[:missing]
        more = np.minimum(missing // len(open_), steps - filled[open_])
        filled[open_] += more
        missing -= int(more.sum())
    return filled


def occurrence(values: Int64[np.ndarray, "..."]) -> Int64[np.ndarray, "..."]:
    """How often the value of each entry occurred before it."""
    flat = values.ravel()
    order = stable_order(flat)
    ordered = flat[order]
    new = np.ones(len(flat), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    place = np.arange(len(flat))
    out = np.empty_like(place)
    out[order] = place - np.maximum.accumulate(np.where(new, place, 0))
    return out.reshape(values.shape)
