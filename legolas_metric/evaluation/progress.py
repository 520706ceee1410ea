"""A bar for passes over all pairs or queries: only on a terminal, and only where it takes longer than two seconds."""

from tqdm import tqdm

from legolas_metric.datasets.embedding import screen_is_taken

_DELAY = 2.0


def bar(total: int, what: str, unit: str) -> tqdm:
    """A bar of so many pairs or rows on stderr, which several threads may `update`; a context manager."""
    disable = True if screen_is_taken() else None  # None: unless stderr is a terminal
    return tqdm(total=total, desc=what, unit=unit, unit_scale=True, delay=_DELAY, disable=disable, leave=False)
