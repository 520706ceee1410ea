"""A sign of life for whoever waits at a terminal longer than two seconds."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_DELAY = 2.0
_EVERY = 0.5


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on stderr, from the third second on, what is being done and for how long; only on a terminal.

    Another bar, such as that of an encoder, has the line while it is there.
    """
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    shown = threading.Thread(target=_show, args=(what, done), daemon=True)
    shown.start()
    try:
        yield
    finally:
        done.set()
        shown.join()


def _show(what: str, done: threading.Event) -> None:
    if done.wait(_DELAY):
        return
    from tqdm import tqdm

    from legolas_metric.tables import visible

    own = None
    while not done.is_set():
        if own is None and not getattr(tqdm, "_instances", ()):
            own = tqdm(desc=visible(what), bar_format="{desc}: {elapsed}", leave=False, file=sys.stderr)
        if own is not None:
            own.refresh()
        done.wait(_EVERY)
    if own is not None:
        own.close()
