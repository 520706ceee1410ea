"""Files that are whole or absent, and outputs that destroy nothing: no input, no link, no permission, no device."""

import errno
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
    with _told_if_full(path):
        yield from _beside(final)


def _beside(final: Path) -> Iterator[Path]:
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


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends without an error.

    So a folder is never half written. What a killed writer of the same folder left behind is removed.

    Raises:
        FileExistsError: there is something already, other than an empty folder.
        OSError: the folder around it cannot be created or written.
    """
    final = Path(path).resolve()
    check_new_folder(final)
    check_writable(final.parent)
    with _told_if_full(path):
        yield from _folder_beside(final)


def _folder_beside(final: Path) -> Iterator[Path]:
    start = f".{final.name[:60]}."
    _remove_left(final.parent, start)
    temporary = final.parent / f"{start}{secrets.token_hex(8)}"
    temporary.mkdir()
    handle = _lock(os.open(temporary, os.O_RDONLY))
    try:
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        temporary.replace(final)  # onto an empty folder too
        _sync(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


@contextmanager
def _told_if_full(path: str | os.PathLike[str]) -> Iterator[None]:
    """What the system says of a full disk, also through a library in Rust, names neither the file nor the remedy."""
    try:
        yield
    except Exception as error:
        through = re.search(r"\(os error (\d+)\)", str(error))
        code = error.errno if isinstance(error, OSError) else through and int(through[1])
        if code not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        what = error.strerror if isinstance(error, OSError) else os.strerror(code)
        why = f"cannot write {path}: {what}. What was there is as it was: make room, or write elsewhere"
        raise OSError(code, why) from error


def check_new_folder(path: str | os.PathLike[str]) -> None:
    """Refuse a folder that holds something: what is there already is not touched."""
    place = Path(path)
    if place.is_dir() and any(place.iterdir()):
        raise FileExistsError(f"{path} holds something already, which is not touched: name a new folder")
    if place.exists() and not place.is_dir():
        raise FileExistsError(f"{path} is a file: name a new folder")


def followed(path: str | os.PathLike[str]) -> Path:
    """What a symbolic link leads to, whether it is there or not; any other path as it is."""
    return Path(os.path.realpath(path)) if Path(path).is_symlink() else Path(path)


def _locked(temporary: Path) -> int:
    """A new file, locked for as long as its writer lives. Another writer may take it for left before it is locked."""
    while True:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(handle)
        if temporary.exists():
            return handle
        os.close(handle)


def _lock(handle: int) -> int:
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks: then nothing is removed there either
            fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse an output that is a folder, or a file that may not be changed."""
    if Path(path).is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder. Name a file, such as one in that folder.")
    if Path(path).exists() and not os.access(path, os.W_OK):
        raise PermissionError(f"cannot write {path}: it may not be changed. Choose another output file.")


def of_column(path: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """A file and the name of its column: of "people.csv:camera", where that is no file itself and people.csv is one."""
    file, colon, column = str(path).rpartition(":")
    if colon and column and not Path(path).exists() and Path(file).is_file():
        return Path(file), column
    return Path(path), None


def check_not_read(output: str | os.PathLike[str], inputs: Sequence[str | os.PathLike[str] | None]) -> None:
    """Refuse an output that is one of the files that are read, by whatever name.

    Raises:
        ValueError: it is.
    """
    for named in inputs:
        path = None if named is None else of_column(named)[0]
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
    """Remove temporary files and folders whose writer is gone: its lock went with it."""
    if fcntl is None:
        return
    for left in folder.glob(f"{glob.escape(start)}*"):
        if not re.fullmatch(r"[0-9a-f]{16}(\..*)?", left.name.removeprefix(start)):
            continue
        with suppress(OSError):  # another writer's, or already gone
            held = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink()
            finally:
                os.close(held)


def _sync(path: Path) -> None:
    """Make a file, or a renaming in a folder, last through a loss of power, where the system can."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
