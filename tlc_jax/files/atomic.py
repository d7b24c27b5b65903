"""Atomic writing: a file or folder appears under its name only once it is complete."""

import contextlib
import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path


def temporary(path: Path) -> Path:
    """A hidden name beside `path`, on the same disk, for what will be renamed to it."""
    return path.with_name(f".{uuid.uuid4().hex}.tmp")


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Writes a file, in place of an older one.

    Raises:
      OSError: it cannot be written; what was there before still is.
    """
    file = temporary(path)
    try:
        file.write_bytes(data)
        file.replace(path)
    finally:
        file.unlink(missing_ok=True)


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
