"""Read files of weights as tensors by name. No code from a file is ever run."""

import contextlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from checkpoints_convert.engine import ConversionError

# The keys of a state dict inside a file, in order of preference: averaged weights first.
WRAPPERS = ("params_ema", "params", "state_dict")
FLAX_TARGET = "opt/target/"
SHARED = 4  # times that tensors are larger than their file, at most: some share numbers
PACKED = 20  # times that an archive is larger unpacked, at most: numbers hardly get smaller
MOST_NAMES = 2**23  # bytes of the pickle in a .pth file, which is read as slowly as it is long


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a .pth, .pt, .safetensors or .npz file by their bare names, as float32.

    Raises:
      ConversionError: the file is missing, of another kind, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise ConversionError(f"{path}: there is no such file; name a published checkpoint.")
    if path.suffix not in READERS:
        raise ConversionError(
            f"{path}: weights are read from {', '.join(READERS)} and .tgz files; "
            "name a published checkpoint."
        )
    with problems_told(path):
        tensors = _bare(READERS[path.suffix](path))
        if empty := next((name for name, tensor in tensors.items() if not tensor.size), None):
            raise ConversionError(f"its {empty} holds no numbers, which no network has.")
        return {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}


@contextlib.contextmanager
def problems_told(path: Path) -> Iterator[None]:
    """Whatever the reader of a file raises becomes one sentence about it."""
    try:
        yield
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from None
    except ImportError:
        package = "safetensors" if path.suffix == ".safetensors" else "PyTorch"
        raise ConversionError(
            f"{path}: reading it needs {package}; install it with pip install 'tlc-jax[convert]'."
        ) from None
    except Exception as error:  # the readers raise many kinds for a damaged file
        # Only their first sentence: the next ones may advise to load the file unsafely.
        reason = re.split(r"\.\s|\n", str(error).strip())[0] or type(error).__name__
        kind = "package" if path.is_dir() else f"{path.suffix} file"
        raise ConversionError(
            f"{path}: damaged or not a {kind} ({reason}); download it again."
        ) from None


def _check_archive(path: Path) -> None:
    """Refuse a zip that is far larger unpacked than it is."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > PACKED * path.stat().st_size + 2**20:
        raise ConversionError("refused, unpacked it would be far larger than any weights.")
    names = (member for member in members if member.filename.endswith(".pkl"))
    if any(member.file_size > MOST_NAMES for member in names):
        raise ConversionError(f"refused, what names its tensors has more than {MOST_NAMES:,} bytes")


def _read_torch(path: Path) -> Any:
    _check_archive(path)
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # it raises for what it warns of
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, LookupError):  # a text read as a pickle may raise the latter
        raise ConversionError(
            "refused, it is damaged or holds more than tensors, which could run code when "
            "read; download it again from its authors, or ask for a .safetensors file."
        ) from None
    # A tensor may be a view that repeats few numbers, or many be views of the same.
    numbers = sum(tensor.nbytes for tensor in _tensors(content))
    if numbers > SHARED * path.stat().st_size + 2**20:
        raise ConversionError("refused, its tensors are far larger than the file.")
    return _to_numpy(content)


def _tensors(content: Any) -> Iterator[Any]:
    if isinstance(content, Mapping):
        for value in content.values():
            yield from _tensors(value)
    elif hasattr(content, "numpy"):
        yield content


def _to_numpy(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _to_numpy(value) for name, value in content.items()}
    return content.detach().float().numpy() if hasattr(content, "numpy") else content


def _read_safetensors(path: Path) -> Any:
    from safetensors.numpy import load_file

    return load_file(path)


def _read_npz(path: Path) -> Any:
    _check_archive(path)
    # Opened here: np.load would leave a damaged file open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


READERS = {
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
}


def _bare(content: Any) -> dict[str, np.ndarray]:
    """The tensors without the wrappers and name prefixes of training code."""
    content = content if isinstance(content, Mapping) else {}
    wrapped = (content.get(wrapper) for wrapper in WRAPPERS)
    content = next((inner for inner in wrapped if isinstance(inner, Mapping)), content)
    tensors = {name: x for name, x in content.items() if isinstance(name, str) and _is_tensor(x)}
    if any(name.startswith(FLAX_TARGET) for name in tensors):
        tensors = {name: x for name, x in tensors.items() if name.startswith(FLAX_TARGET)}
    bare = {
        name.removeprefix(FLAX_TARGET).removeprefix("module."): x for name, x in tensors.items()
    }
    if len(bare) < len(tensors):
        raise ConversionError(
            "names tensors both with and without 'module.'; take the file as its authors publish "
            "it."
        )
    if not bare:
        raise ConversionError("holds no tensors; name a published checkpoint.")
    return bare


def _is_tensor(x: Any) -> bool:
    """Whether x is an array of real numbers; releases keep texts and counters beside them."""
    kinds = (jnp.floating, jnp.integer)  # of JAX, which knows bfloat16
    return isinstance(x, np.ndarray) and any(jnp.issubdtype(x.dtype, kind) for kind in kinds)
