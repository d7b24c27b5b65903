"""Files that nobody meets half of."""

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
