"""Random choices that depend on their place in the run only: counters in, bits out.

The plan of an epoch must be the same on every rank, on every machine, and after a resume. So nothing is drawn from a
stream that has a past: each choice is SplitMix64 (Steele et al. 2014) of the seed and of what is being chosen.
"""

import numpy as np
from jaxtyping import Int64, UInt64

ORDER, EXTRA, ROWS, GROUPS, TRIPLETS, NEIGHBORS, HARD = range(7)
"""The first counter of each kind of choice, so that no two kinds share their bits."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
_LAST_SHIFT = np.uint64(31)
_HALF = np.uint64(32)


def random_bits(seed: int, *counters: int | Int64[np.ndarray, "..."]) -> UInt64[np.ndarray, " n"]:
    """64 random bits for each entry of the counters: numbers, and arrays of one length."""
    state = np.full(1, seed % 2**64, np.uint64)  # an array even for one: NumPy warns when scalars wrap around
    for counter in counters:
        state = (state ^ np.atleast_1d(np.asarray(counter, np.int64)).view(np.uint64)) + _GOLDEN
        for shift, factor in _ROUNDS:
            state = (state ^ (state >> shift)) * factor
        state ^= state >> _LAST_SHIFT
    return state


def random_order(seed: int, *counters: int | Int64[np.ndarray, "..."]) -> Int64[np.ndarray, " n"]:
    """A random permutation of the entries of the counters."""
    return stable_order((random_bits(seed, *counters) >> np.uint64(33)).astype(np.int64))


def stable_order(values: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The order of numbers in [0, 2^31), equal ones as they stand: by a sort of numbers alone, a tenth of `argsort`."""
    return np.sort((values << 32) | np.arange(len(values))) & 0xFFFFFFFF


def shuffled_members(
    offsets: Int64[np.ndarray, " u1"],
    unit: Int64[np.ndarray, " v"],
    cycle: Int64[np.ndarray, " v"],
    visit: Int64[np.ndarray, " r"],
    position: Int64[np.ndarray, " r"],
    *,
    seed: int,
    kind: int,
) -> Int64[np.ndarray, " r"]:
    """What stands at a position of a unit's shuffled members.

    A unit (a class, or a group within one) owns the members offsets[u]..offsets[u + 1]; each of its cycles shuffles
    them anew.

    Args:
        offsets: where each unit's members begin, and where the last one's end.
        unit, cycle: [v], which shuffle each visit reads.
        visit, position: [r], the visit that asks, and for which place (below the size of its unit).
        seed, kind: of the shuffles.
    """
    _, first, shuffle_of = np.unique(unit * (cycle.max(initial=0) + 1) + cycle, return_index=True, return_inverse=True)
    begin, sizes = offsets[unit[first]], np.diff(offsets)[unit[first]]
    starts = np.cumsum(sizes) - sizes
    shuffle = np.repeat(np.arange(len(sizes)), sizes)
    member = np.arange(len(shuffle)) + (begin - starts)[shuffle]
    keys = random_bits(seed, kind, member, cycle[first][shuffle]) >> _HALF
    order = np.argsort((shuffle.astype(np.uint64) << _HALF) | keys, kind="stable")
    return member[order[starts[shuffle_of[visit]] + position]]


def fingerprint(*arrays: Int64[np.ndarray, "..."]) -> int:
    """A number that changes when an entry of the arrays changes, or its place."""
    parts = [random_bits(len(array), np.arange(len(array)), array).sum(dtype=np.uint64) for array in arrays]
    return int(random_bits(0, *(int(part >> np.uint64(1)) for part in parts))[0] >> np.uint64(1))
