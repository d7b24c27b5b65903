"""Read files of weights as tensors by name. No code from a file is ever run."""

import contextlib
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from checkpoints_convert.engine import ConversionError

# The keys of a state dict inside a file, in order of preference: averaged weights first.
WRAPPERS = ("params_ema", "params", "state_dict")
FLAX_TARGET = "opt/target/"


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


def _read_torch(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # it raises for what it warns of
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, LookupError):  # a text read as a pickle may raise the latter
        raise ConversionError(
            "refused, it is damaged or holds more than tensors, which could run code when "
            "read; download it again from its authors, or ask for a .safetensors file."
        ) from None
    return _to_numpy(content)


def _to_numpy(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _to_numpy(value) for name, value in content.items()}
    return content.detach().float().numpy() if hasattr(content, "numpy") else content


def _read_safetensors(path: Path) -> Any:
    from safetensors.numpy import load_file

    return load_file(path)


def _read_npz(path: Path) -> Any:
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
