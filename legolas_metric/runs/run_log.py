"""A run's text log: the same lines on the screen and in `log.txt`, warnings too."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from legolas_metric.tables import Table

NAME = "legolas_metric"
log = logging.getLogger(f"{NAME}.runs")


class _OnScreen(logging.Formatter):
    """A record that brings a table shows it as a terminal can: drawn, and turned where it is too wide."""

    def format(self, record: logging.LogRecord) -> str:
        table: Table | None = getattr(record, "table", None)
        if table is None or not sys.stdout.isatty():
            return super().format(record)
        console = Console()
        with console.capture() as drawn:
            console.print(table.screen(console.width))
        return f"\n{drawn.get()}\n{record.args[-1] if isinstance(record.args, tuple) else ''}"


@contextmanager
def run_log(folder: Path) -> Iterator[None]:
    """Within the block, what the library logs and warns of goes to the screen and to the end of `log.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    written = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    shown = logging.StreamHandler(sys.stdout)
    shown.setFormatter(_OnScreen("%(message)s"))
    logger = logging.getLogger(NAME)
    level, show = logger.level, warnings.showwarning

    def warned(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        log.warning("%s", " ".join(str(message).split()))

    lightning = logging.getLogger("lightning.pytorch")
    before = lightning.level
    try:
        logger.setLevel(logging.INFO)
        lightning.setLevel(logging.WARNING)
        for handler in (written, shown):
            logger.addHandler(handler)
        warnings.showwarning = warned
        yield
    except BaseException as error:
        log.error("ended by %s: %s", type(error).__name__, error)
        raise
    finally:
        warnings.showwarning = show
        logger.setLevel(level)
        lightning.setLevel(before)
        for handler in (written, shown):
            logger.removeHandler(handler)
        written.close()
