"""A run's history in one file of JSON lines: written while it goes on, read by whoever looks at it."""

import json
import math
import os
import platform
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from legolas_metric.signatures import typed

_PACKAGES = ("legolas-metric", "torch", "numpy", "lightning", "faiss-cpu", "pytorch-metric-learning")


class RunHistory:
    """`history.jsonl` of a run: one JSON object a line, by `kind`; lines are only ever added, and whole.

    Kinds: `start` (settings, versions, seed, digests), `epoch` (values of an epoch; 0 is the encoder before training),
    `round` (values of mining), `event` (a stage, a guard, a stop, a resume, and why), `end`. Of an epoch that was run
    again after a resume the later line counts. A line that was cut short by a crash is skipped, and counted in
    `broken`. A value that is not finite is written as null, and read as NaN.

    Args:
        path: of the file, or of the run's folder, in which it is `history.jsonl`. It need not exist yet.

    Raises:
        TypeError: a path that is none.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from legolas_metric.training import RunHistory
        >>> with TemporaryDirectory() as folder:
        ...     history = RunHistory(folder)
        ...     history.start(seed=0, settings={"lr": 0.1})
        ...     history.epoch(epoch=0, step=0, values={"rank_at_1": 0.25})
        ...     history.epoch(epoch=1, step=10, values={"rank_at_1": 0.5})
        ...     RunHistory(Path(folder) / "history.jsonl").series("rank_at_1")
        {0: 0.25, 1: 0.5}

    Source: ours.
    """

    @typed
    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"path must be the path of history.jsonl or of a run's folder, got {path!r}")
        given = Path(path)
        self.path = given / "history.jsonl" if given.is_dir() or not given.suffix else given

    def __repr__(self) -> str:
        return f"RunHistory({str(self.path)!r})"

    # Writing

    def start(self, *, seed: int | None = None, settings: Mapping[str, Any] | None = None, **digests: str) -> None:
        """Begin a run: its settings and seed, the versions of what computes, and digests by name (data, weights)."""
        self.write(
            "start", versions=versions(), seed=seed, settings=settings or {}, digest=dict(sorted(digests.items()))
        )

    def epoch(self, *, epoch: int, step: int, values: Mapping[str, Any], **words: Any) -> None:
        """The values of an epoch, under the names of `measures.py`; epoch 0 is the encoder before training."""
        self.write("epoch", epoch=epoch, step=step, values=values, **words)

    def round(self, *, epoch: int, step: int, values: Mapping[str, Any], **words: Any) -> None:
        """The values of a round of mining."""
        self.write("round", epoch=epoch, step=step, values=values, **words)

    def event(self, *, epoch: int, step: int, what: str, why: str) -> None:
        """Something that happened: "stage", "guard", "stop", "restore" or "resume", and why."""
        self.write("event", epoch=epoch, step=step, what=what, why=why)

    def end(self, *, why: str, best_epoch: int | None = None, values: Mapping[str, Any] | None = None) -> None:
        """The end of a run: why, and the values of its best epoch."""
        self.write("end", why=why, best_epoch=best_epoch, values=values or {})

    def write(self, kind: str, **entries: Any) -> None:
        """Add a line, whole: in one call to the system, after the end of a line.

        Raises:
            OSError: what the system did not take, with the file's name.
        """
        line = json.dumps({"kind": kind, "time": time.time()} | _plain(entries), ensure_ascii=False, allow_nan=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(file).st_size
            cut = size > 0 and os.pread(file, 1, size - 1) != b"\n"  # a line that a crash left unfinished
            left = (b"\n" if cut else b"") + line.encode() + b"\n"
            while left:  # a full disk takes a part, and refuses the rest
                left = left[os.write(file, left) :]
        except OSError as error:
            raise OSError(error.errno, f"cannot write to {self.path}: {error.strerror}") from error
        finally:
            os.close(file)

    # Reading

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines, in order; none where there is no file yet."""
        return [entry for entry in self._read() if entry is not None]

    @property
    def broken(self) -> int:
        """Lines that are no JSON object, or lack what their kind has, such as one that a crash cut short."""
        return sum(entry is None for entry in self._read())

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Lines of kind `start`: one, and one more for each resume."""
        return self._of("start")

    @property
    def epochs(self) -> dict[int, dict[str, Any]]:
        """Lines of kind `epoch` by epoch; of one that was run again, the later."""
        latest = {entry["epoch"]: entry for entry in self._of("epoch")}
        return {epoch: latest[epoch] for epoch in sorted(latest)}

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """Lines of kind `round`; of a step that was run again, the later."""
        latest = {(entry["epoch"], entry["step"]): entry for entry in self._of("round")}
        return [latest[place] for place in sorted(latest)]

    @property
    def events(self) -> list[dict[str, Any]]:
        """Lines of kind `event`."""
        return self._of("event")

    @property
    def ended(self) -> dict[str, Any] | None:
        """The last line of kind `end`, if the run has come to one."""
        found = self._of("end")
        return found[-1] if found else None

    def series(self, name: str) -> dict[int, float | int]:
        """A value by epoch, of the epochs that have it; NaN where it was not finite."""
        values = {epoch: entry.get("values", {}) for epoch, entry in self.epochs.items()}
        return {
            epoch: math.nan if of_epoch[name] is None else of_epoch[name]
            for epoch, of_epoch in values.items()
            if name in of_epoch
        }

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [entry for entry in self.lines() if entry.get("kind") == kind]

    def _read(self) -> Iterable[dict[str, Any] | None]:
        if not self.path.exists():
            return
        for line in self.path.read_bytes().split(b"\n")[:-1]:  # behind the last end of line nothing is whole
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            yield entry if _is_line(entry) else None


def _is_line(entry: Any) -> bool:
    """Whether it is an object with what its kind is read by."""
    asked: dict[str, dict[str, type]] = {
        "start": {"settings": dict},
        "epoch": {"epoch": int, "values": dict},
        "round": {"epoch": int, "step": int, "values": dict},
    }
    held = asked.get(entry.get("kind", "") if isinstance(entry, dict) else "", {})
    return isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in held.items())


def _plain(value: Any) -> Any:
    """What JSON can hold: any library's numbers as Python's, what is not finite as None, other things as text."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    return str(value)


def versions() -> dict[str, str]:
    """Of Python and of what computes."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
