"""Atomic writing: a file or folder appears under its name only once it is complete."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path


def where_numbers_count() -> str:
    """A short name of where processes have numbers of their own: a container, or the machine."""
    container = ""
    with contextlib.suppress(OSError):  # of other systems than Linux
        container = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{socket.gethostname()} {container}".encode()).hexdigest()[:12]


HOST = where_numbers_count()
_folders: set[Path] = set()  # where this process writes
_beginning = threading.RLock()  # held while a file is made


def temporary(path: Path) -> Path:
    """A hidden name beside `path`, on the same disk, for what will be renamed to it.

    The first time in a folder, what processes left there that are dead is removed.
    """
    if path.parent not in _folders:
        _folders.add(path.parent)
        _remove(path.parent, of=None)
    return path.with_name(f".{HOST}-{os.getpid()}-{uuid.uuid4().hex[:12]}.tmp")


def remove_unfinished() -> None:
    """Remove what this process has begun to write, as it is about to end; no thread begins more."""
    _beginning.acquire()
    for folder in _folders:
        _remove(folder, of=os.getpid())


def _remove(folder: Path, of: int | None) -> None:
    """Remove what is left of a process of this machine, or of all that are dead."""
    with contextlib.suppress(OSError):  # who cannot remove it cannot write here, either
        for path in folder.glob(f".{HOST}-*.tmp"):
            name = re.fullmatch(rf"\.{HOST}-(\d+)-[0-9a-f]{{12}}\.tmp", path.name)
            if name and (int(name[1]) == of if of else not _is_alive(int(name[1]))):
                shutil.rmtree(path, ignore_errors=True)
                path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file, in place of an older one.

    Raises:
      OSError: it cannot be written; what was there before still is.
    """
    with _beginning:
        file = temporary(path)
        stream = file.open("xb")
    try:
        with stream:
            stream.write(data)
        settle(file)
        file.replace(path)
    finally:
        file.unlink(missing_ok=True)


def settle(file: Path) -> None:
    """Wait until a file is on its disk, so that no power cut leaves its name without its content.

    Raises:
      OSError: it cannot be written.
    """
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process or thread is within this for the same file, which is left there.

    On Windows, and on disks that lock nothing, nobody waits.

    Raises:
      OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """A new folder, with its parents, that is renamed to `path` once everything in it is written.

    Raises:
      OSError: it cannot be written, or `path` is a folder that is not empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = temporary(path)
    folder.mkdir()
    try:
        yield folder
        for file in folder.rglob("*"):
            if file.is_file():
                settle(file)
        folder.rename(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Renames a complete folder to `path`, in place of an older one.

    Where that is interrupted, `path` may be missing; `recover_folder` puts the older one back.
    """
    old = _set_aside(path)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Puts an older folder back, where `replace_folder` was interrupted."""
    if not path.exists():
        with contextlib.suppress(FileNotFoundError):
            _set_aside(path).rename(path)


def _set_aside(path: Path) -> Path:
    return path.with_name(f".{path.name}-old")


def why_not_written(error: Exception) -> str:
    """The reason of a failed write, also where tensorstore quotes it in an error of its own."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    reasons = map(os.strerror, errno.errorcode)
    return next((reason for reason in reasons if reason in str(error)), first_line(error))


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def reserve(folder: Path, size: int) -> None:
    """Checks that `size` bytes can be written in a folder, before others begin to write there.

    Raises:
      OSError: there is less: the disk or a quota is full, or files may not grow as large.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        elif shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
