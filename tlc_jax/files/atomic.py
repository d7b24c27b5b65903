"""Files that nobody meets half of."""

import errno
import os
import shutil
import tempfile
import uuid
from pathlib import Path


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Writes a file beside its name first, so that nobody meets half of it.

    Raises:
      OSError: it cannot be written; what was there before still is.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def reserve(folder: Path, size: int) -> None:
    """Asks for room for `size` bytes in a folder, before others begin to write there.

    Raises:
      OSError: there is less: the disk or a quota is full, or files may not grow as large.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        elif shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
