"""Files that are whole or absent, and outputs that destroy nothing: no input, no link, no permission, no device."""

import glob
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows: what a kill leaves behind is not found there
    fcntl = None


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends without an error.

    A symbolic link stays one: the file that it leads to is replaced. A file that is replaced keeps its permissions; a
    device or a pipe is written to. What a killed writer of the same file left behind is removed.

    Raises:
        OSError: the folder cannot be created or written, or the file may not be, before the block runs.
    """
    check_file(path)
    if is_stream(Path(path)):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / f"whole{Path(path).suffix}"
            yield temporary
            with temporary.open("rb") as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)
        return
    final = followed(path)
    check_writable(final.parent)
    before = final.stat() if final.exists() else None
    start = f".{final.name[:60]}."
    _remove_left(final.parent, start)
    temporary = final.parent / f"{start}{secrets.token_hex(8)}{final.suffix[:20]}"
    handle = _locked(temporary)
    try:
        yield temporary
        if before is not None:
            with suppress(OSError):
                os.chown(temporary, before.st_uid, before.st_gid)
            temporary.chmod(stat.S_IMODE(before.st_mode))
        os.fsync(handle)
        temporary.replace(final)
        _sync(final.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def followed(path: str | os.PathLike[str]) -> Path:
    """What a symbolic link leads to, whether it is there or not; any other path as it is."""
    return Path(os.path.realpath(path)) if Path(path).is_symlink() else Path(path)


def _locked(temporary: Path) -> int:
    """A new file, locked for as long as its writer lives. Another writer may take it for left before it is locked."""
    while True:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks: then nothing is removed there either
                fcntl.flock(handle, fcntl.LOCK_EX)
        if temporary.exists():
            return handle
        os.close(handle)


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse an output that is a folder, or a file that may not be changed."""
    if Path(path).is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder. Name a file, such as one in that folder.")
    if Path(path).exists() and not os.access(path, os.W_OK):
        raise PermissionError(f"cannot write {path}: it may not be changed. Choose another output file.")


def check_not_read(output: str | os.PathLike[str], inputs: Sequence[str | os.PathLike[str] | None]) -> None:
    """Refuse an output that is one of the files that are read, by whatever name.

    Raises:
        ValueError: it is.
    """
    for path in inputs:
        if path is not None and os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
            raise ValueError(f"{output} would be overwritten, but {path} is read from there: name another output file")


def check_writable(folder: Path) -> None:
    """Create a folder where it is missing; raise OSError, with the remedy, unless files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot write to {folder}: {reason}. Choose another output folder.") from error


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe, or an open file, such as /dev/stdout: written to, and not replaced."""
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        return True
    while path.is_symlink():
        if path.parent.resolve().is_relative_to("/proc"):
            return True
        path = path.parent / path.readlink()
    return False


def _remove_left(folder: Path, start: str) -> None:
    """Remove temporary files whose writer is gone: its lock went with it."""
    if fcntl is None:
        return
    for left in folder.glob(f"{glob.escape(start)}*"):
        if not re.fullmatch(r"[0-9a-f]{16}(\..*)?", left.name.removeprefix(start)):
            continue
        with suppress(OSError), left.open("rb") as held:  # another writer's, or already gone
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def _sync(folder: Path) -> None:
    """Make a renaming last through a loss of power, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
