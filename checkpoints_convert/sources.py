"""Read files of weights, of whatever suffix. No code from a file is ever run."""

import contextlib
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from checkpoints_convert.engine import ConversionError
from checkpoints_convert.pth import ADVICE, Saved, is_old, read_archive, read_old

SHARED = 4  # times that tensors are larger than their file, at most: some share numbers
PACKED = 20  # times that an archive is larger unpacked, at most: numbers hardly get smaller
# How files start that are taken for weights, and what to do about them.
STARTS = {
    b"<": "a page of the web, not weights; download the file itself, after logging in if asked to.",
    b"version https://git-lfs": "a pointer of Git LFS, not weights; fetch them by 'git lfs pull'.",
    b"\x89HDF": "of HDF5 or Keras, which is not read; take the release of PyTorch.",
    b"GGUF": "GGUF, which is not read; take the file that it was made of.",
    b"\x1f\x8b": "packed by gzip; unpack it first.",
    b"{": "JSON, not weights; where it lists shards, put their tensors into one file.",
    b"\x08": "ONNX or TensorFlow, which is not read; take the weights that it was made of.",
}
UNKNOWN = "damaged, or no weights of PyTorch, safetensors or NumPy; download it again."


class Source(NamedTuple):
    """What a file holds."""

    content: Any  # names and tensors, maybe nested
    array: Callable[[Any], np.ndarray] = lambda tensor: tensor  # the numbers of one of them
    most: float = np.inf  # bytes of those that belong together, at most


def read_source(path: Path) -> Source:
    """What a file of PyTorch, safetensors or NumPy holds; the contents decide, not the suffix.

    Raises:
      ConversionError: the file is missing, of another kind, damaged, or refused.
    """
    if path.is_dir():
        raise ConversionError(f"{path}: a folder, and no package of npm; name the file in it.")
    if not path.is_file():
        raise ConversionError(f"{path}: there is no such file; name a published checkpoint.")
    if re.search(r"\d-of-\d", path.name):
        raise ConversionError(f"{path}: one of several shards; put their tensors into one file.")
    with problems_told(path):
        with path.open("rb") as file:
            start = file.read(64)
        if not start:
            raise ConversionError("an empty file; download it again.")
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        if is_old(start):
            return _saved(read_old(path), path)
        header = int.from_bytes(start[:8], "little")
        if start[8:9] == b"{" and header < path.stat().st_size:
            return Source(_read_safetensors(path))
        if start[:1] == b"\x80":
            raise ConversionError(f"a pickle, but none of PyTorch, or damaged; {ADVICE}")
        known = (what for mark, what in STARTS.items() if start.lstrip().startswith(mark))
        raise ConversionError(next(known, UNKNOWN))


@contextlib.contextmanager
def problems_told(path: Path) -> Iterator[None]:
    """Whatever the reader of a file raises becomes one sentence about it."""
    try:
        yield
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from None
    except Exception as error:  # the readers raise many kinds for a damaged file
        reason = re.split(r"\.\s|\n", str(error).strip())[0] or type(error).__name__
        raise ConversionError(f"{path}: damaged ({reason}); download it again.") from None


def _read_zip(path: Path) -> Source:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > PACKED * path.stat().st_size + 2**20:
        raise ConversionError("refused, unpacked it would be far larger than any weights.")
    if any(member.filename.endswith("data.pkl") for member in members):
        return _saved(read_archive(path), path)
    # Opened here: np.load would leave a damaged file open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        try:
            return Source(dict(arrays))
        except ValueError as error:
            if "Object arrays" not in str(error):
                raise
            raise ConversionError(
                "refused, it holds objects of Python; save arrays by their names, with "
                "np.savez('net.npz', **tensors)."
            ) from None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (AttributeError, KeyError, TypeError):  # of types that NumPy has not
        raise ConversionError(
            "holds numbers of a kind that is not read, such as those of 8 bits; take the file that "
            "it was made of."
        ) from None


def _saved(saved: Saved, path: Path) -> Source:
    return Source(saved.content, saved.array, SHARED * path.stat().st_size + 2**20)
