"""Where paths lead."""

import os
from pathlib import Path


def real_path(path: str | os.PathLike[str]) -> Path:
    """The path without links, but for links that lead to themselves."""
    return Path(os.path.realpath(path))  # for which `Path.resolve` may raise
