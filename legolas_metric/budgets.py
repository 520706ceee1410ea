"""How much memory a blockwise pass may hold: named once, and the bound of archives.

A pass over a table too large to be held at once goes block by block; `rows_for` says how many rows a block has.
"""

CACHE = 4 << 20
"""Bytes that stay in a processor's cache: for passes that read a block several times."""

PAGES = 1 << 18
"""Bytes of a mapped file that come into memory with a row that is read by itself: pages that lie together."""

WIDE = 2**16
"""Numbers in float64 at once, where rows of float32 are widened: larger tables come from fresh pages each time, which
cost more than the sums."""

BLOCK = 64 << 20
"""Bytes of a block that is read once or twice, and of the temporaries beside it."""

WORKSPACE = 256 << 20
"""Bytes of the large tables of a search: tiles of scores, candidates, reference rows."""

PAIRS = 2 << 20
"""Pairs that a plain scan compares at once: larger blocks leave the cache, and come from fresh pages each time."""

UNPACKED = 1 << 30
"""Bytes from which on an archive must not unpack to many times its own size."""


def rows_for(budget: int, bytes_a_row: int) -> int:
    """How many rows fit a budget, at least one.

    Example:
        >>> from legolas_metric.budgets import CACHE, rows_for
        >>> rows_for(CACHE, 4 * 1024)
        1024
    """
    return max(1, budget // max(1, bytes_a_row))
