"""Checkpoints: a folder with the parameters (orbax) and a readable `model.json`.

nafnet-gopro-width32/
  model.json   network, its configuration, where the weights come from and their licence
  params/      the parameter tree

Two come with the package, and go by their names alone: "denoise" and "deblur". So do those that are
installed, which are the folders in `home`.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from tlc_jax.files import catalogue
from tlc_jax.files.atomic import (
    first_line,
    folder_atomically,
    reserve,
    why_not_written,
    write_atomically,
)
from tlc_jax.files.paths import real_path
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params, abstract_params
from tlc_jax.models import MODELS
from tlc_jax.ops.windows import Size

FORMAT = 1
DESCRIBED = 2**20  # bytes of a model.json, at most
# Of an array in params/, which is one chunk, as zarr describes it.
LAYOUT = {
    "compressor": {"id": "zstd", "level": 1},
    "dimension_separator": ".",
    "fill_value": None,
    "filters": None,
    "order": "C",
    "zarr_format": 2,
}
DTYPES = ("<f4", "<f2", "bfloat16")
LISTED = 2**24  # bytes of a file that tells where the arrays lie
MOST_PACKED = 100  # times that parameters are larger than their files; of ours 1.1
WEIGHTS = Path(__file__).parent.parent / "weights"
SHIPPED = ("denoise", "deblur")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # which steer a terminal
# How a network is run, which is not kept; but for a window, see `keep_window`.
RUN_FIELDS = {"local_mode", "local_attention", "local_grid", "window", "padding", "dtype"}


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written; the message is a sentence for the user."""


def config_of(model: Network) -> dict[str, Any]:
    """The fields that make the network what it is: sizes, kinds of layer, training size."""
    return {name: getattr(model, name) for name in config_fields(type(model))}


def config_fields(network: type[Network]) -> list[str]:
    """The names of the fields that `config_of` gives."""
    left_out = {*RUN_FIELDS, "parent", "name"}  # the last two are Linen's own
    return [field.name for field in dataclasses.fields(network) if field.name not in left_out]


def count_params(params: Params) -> int:
    """How many numbers a parameter tree (of arrays or of shapes) holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def save(path: str | os.PathLike, model: Network, params: Params, **metadata: Any) -> None:
    """Write a checkpoint folder atomically.

    Args:
      path: a folder that does not exist yet.
      model: a network of `tlc_jax.models.MODELS`. How it is run is not kept: `load` gives a global
        one with the defaults for `window`, `dtype` and what else no parameter depends on; to keep
        a window call `keep_window` after it.
      params: its parameter tree.
      **metadata: further JSON entries of model.json (source, licence of the weights, task, ...).

    Raises:
      CheckpointError: the path exists or cannot be written, the network is none of ours, or the
        parameters are not its.
    """
    path, network = Path(path).absolute(), type(model)
    names = {cls: name for name, cls in MODELS.items()}
    if network not in names:
        raise CheckpointError(
            f"{path}: {network.__name__} is none of {', '.join(MODELS)}, which are all that a "
            "checkpoint can name; save its parameters with orbax."
        )
    params = jax.tree.map(np.asarray, params)  # arrays of JAX load only where they were saved
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, abstract_params(model)):
        raise CheckpointError(f"{path}: these are not the parameters of this {network.__name__}.")
    description = {
        **metadata,
        "format": FORMAT,
        "network": names[network],
        "config": config_of(model),
        "parameters": count_params(params),
    }
    check_absent(path)
    try:
        with folder_atomically(path) as folder:
            _write_params(folder / "params", params)
            description["params_sha256"] = _digest(folder / "params")
            (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")
            load_abstract(folder)  # what could not be loaded is not written, either
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(folder), str(path))) from None
    except (OSError, ValueError) as error:  # the latter is tensorstore's
        check_absent(path)  # where another process was faster
        raise CheckpointError(
            f"{path}: cannot be written ({why_not_written(error)}); free some space or choose "
            "another destination."
        ) from None


def keep_window(path: str | os.PathLike, window: Size) -> None:
    """Write into a checkpoint the window that its network has unless another one is asked for.

    The parameters stay as they are, and so does their digest; only model.json gets an entry, or
    another value of it.

    Args:
      path: a checkpoint folder, not one of the package.
      window: (height, width) in input pixels.

    Raises:
      CheckpointError: not a checkpoint, one of the package, or it cannot be written.
    """
    folder = find(path)
    if real_path(folder).parent == real_path(WEIGHTS):
        raise CheckpointError(
            f"{folder}: comes with the package and stays as it is; copy the folder, and name the "
            "copy with --checkpoint."
        )
    description = describe(folder) | {"window": list(window)}
    try:
        write_atomically(folder / "model.json", (json.dumps(description, indent=2) + "\n").encode())
    except OSError as error:
        raise CheckpointError(
            f"{folder / 'model.json'}: cannot be written ({why_not_written(error)}); mend that "
            "and run it again."
        ) from None


def check_absent(path: Path) -> None:
    """Refuse a destination that is there, with a `CheckpointError`."""
    if path.exists():
        raise CheckpointError(f"{path}: exists already; remove it or choose another destination.")


def _write_params(folder: Path, params: Params) -> None:
    import orbax.checkpoint as ocp  # half a second that only loading and saving should pay

    # This process alone, so that the other hosts of a training run are not waited for.
    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})
    # Where tensorstore finds a full disk, it prints a traceback for each array.
    reserve(folder.parent, sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
    with ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
        checkpointer.save(folder, params)
    # It tells nothing but a path on this machine.
    (folder / "commit_success.txt").unlink(missing_ok=True)


def home() -> Path:
    """The folder of installed checkpoints: $TLC_JAX_HOME, or tlc-jax in the user's data folder."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    folder = os.environ.get("TLC_JAX_HOME") or os.path.join(data, "tlc-jax")
    return Path(os.path.expanduser(folder))


def installed() -> list[str]:
    """The names of the checkpoints in `home`."""
    return sorted(file.parent.name for file in home().glob("[!.]*/model.json") if file.is_file())


def find(path: str | os.PathLike) -> Path:
    """The folder of a checkpoint.

    It is one of ours for a string of `SHIPPED`; else `path` itself, if there is such a file or
    folder; else the installed one of that name. A folder of one's own that is called "denoise" is
    "./denoise", or a `Path`.
    """
    if isinstance(path, str) and path in SHIPPED:
        return WEIGHTS / path
    path = Path(path)
    return home() / path if not path.exists() and str(path) in installed() else path


def network_name(folder: Path) -> str:
    """What a checkpoint is called; what a training run makes is "model" in the run's folder."""
    whole = real_path(folder)
    return whole.parent.name if whole.name == "model" else whole.name


def describe(path: str | os.PathLike) -> dict[str, Any]:
    """The contents of a checkpoint's model.json.

    Raises:
      CheckpointError: there is none, or it is not what this version writes.
    """
    path = find(path)
    if path.is_file():
        raise CheckpointError(
            f"{path}: a file, not a checkpoint folder; make one with 'tlc-jax convert {path} "
            "DESTINATION' and name the destination."
        )
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such checkpoint folder{_instead(path)}")
    file = path / "model.json"
    if not file.is_file():  # and not a pipe, which might never end
        raise CheckpointError(
            f"{path}: not a checkpoint of tlc-jax, it holds no model.json; make one with "
            "'tlc-jax convert SOURCE DESTINATION'."
        )
    try:
        if file.stat().st_size > DESCRIBED:
            raise ValueError(f"it has more than {DESCRIBED:,} bytes")
        description = json.loads(file.read_text())
        network, config, version = (description[key] for key in ("network", "config", "format"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{file}: cannot be read ({error}); convert the weights again."
        raise CheckpointError(message) from None
    if any(CONTROL_CHARACTERS.search(str(entry)) for entry in jax.tree.leaves(description)):
        raise CheckpointError(f"{file}: holds control characters; convert the weights again.")
    if version != FORMAT or network not in list(MODELS) or not isinstance(config, dict):
        raise CheckpointError(
            f"{file}: network {network!r} in format {version!r} is unknown to this "
            f"version, which reads format {FORMAT} of {', '.join(MODELS)}; update tlc-jax."
        )
    return description


def _instead(path: Path) -> str:
    """What to do where there is no checkpoint, to end a sentence."""
    if one := catalogue.named(path.name):
        if one.address is None:
            return f"; {one.how_by_hand}."
        package = next((package for package in catalogue.PACKAGES if package.holds == one), None)
        smaller = f", or to fetch less {package.commands}" if package else ""
        return (
            f"; to get these weights for {one.task}, type 'tlc-jax download {one.name}'{smaller}."
        )
    ours = f" ({path} of the package is --task {path})" if str(path) in SHIPPED else ""
    known = {*SHIPPED, *installed(), *(one.name for one in catalogue.PUBLISHED)}
    if near := difflib.get_close_matches(str(path), known - {str(path)}, 1, 0.6):
        return f"{ours}; is '{near[0]}' meant?"
    return (
        f"{ours}; name a folder that 'tlc-jax convert' or 'tlc-jax train' wrote, weights that "
        "'tlc-jax models' lists, or what is installed: "
        f"{', '.join(installed()) or 'there are none'}."
    )


def load_abstract(path: str | os.PathLike) -> tuple[Network, Params]:
    """The network of a checkpoint folder, and its parameters as shapes: as `load`, unread.

    Raises:
      CheckpointError: as `describe`, or the configuration is not of the network that it names.
    """
    description, folder = describe(path), find(path) / "params"
    stored = _stored(folder)
    config = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description["config"].items()
    }
    try:
        network = MODELS[description["network"]]
        if unknown := config.keys() - config_fields(network):
            raise ValueError(f"it has no {', '.join(sorted(unknown))}")
        # Before anything is made of it: a level has twice the features of the one above.
        if (depth := description["config"].get("depth", 0)) > len(stored):
            raise ValueError(f"it has {depth} levels, and there are {len(stored)} arrays")
        window = description.get("window")
        model = network(**config, window=tuple(window) if isinstance(window, list) else window)
        model.check_windows()
        params = abstract_params(model, most=len(stored))
    except Exception as error:  # whatever a network raises for sizes that it cannot have
        raise CheckpointError(
            f"{find(path) / 'model.json'}: not a configuration of {description['network']} "
            f"({first_line(error)}); convert the weights again."
        ) from None
    leaves: dict[tuple[str, ...], Any] = flatten_dict(params)
    if {".".join(name): leaf.shape for name, leaf in leaves.items()} != stored:
        raise _of_another(folder)
    return model, params


def _stored(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays in params/, by their names; nothing of them is read.

    What else than `save` writes is refused: other layouts, and arrays far larger than their files,
    could cost any memory, or end the process.

    Raises:
      CheckpointError: incomplete, damaged or not of that layout.
    """
    stored: dict[str, tuple[int, ...]] = {}
    try:
        files = [file for file in folder.rglob("*") if not file.is_dir()]
        if not all(map(Path.is_file, files)):  # to open another kind might take for ever
            raise ValueError
        if any(file.stat().st_size > LISTED for file in files if file.parent.name != "d"):
            raise ValueError  # as they are read whole
        store = array_store(folder)
        keys = {key.decode() for key in store.list().result()}
        for key in keys:
            name, _, part = key.rpartition("/")
            if part != ".zarray":
                continue
            described = json.loads(store.read(key).result().value)
            shape, dtype = described["shape"], described["dtype"]
            chunk = f"{name}/{'.'.join('0' for _ in shape) or '0'}"
            layout = LAYOUT | {"shape": shape, "chunks": shape, "dtype": dtype}
            if described != layout or dtype not in DTYPES or chunk not in keys:
                raise ValueError
            stored[name] = tuple(shape)
        there = sum(file.stat().st_size for file in files)
        wanted = sum(4 * math.prod(shape) for shape in stored.values())
        if not stored or len(keys) != 2 * len(stored):
            raise ValueError
        if wanted > MOST_PACKED * there + 2**24 or there > 2 * wanted + 2**24:
            raise ValueError
    except MemoryError:
        raise
    except Exception:  # tensorstore meets damaged files with almost any exception
        raise _damaged(folder) from None
    return stored


def array_store(folder: Path) -> Any:
    """The arrays that orbax keeps in a folder, as TensorStore's map of keys to bytes."""
    import tensorstore

    base = {"driver": "file", "path": f"{folder.absolute()}/"}
    return tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()


def _damaged(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"{folder}: damaged or incomplete; copy it again or convert the weights again."
    )


def _of_another(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"{folder}: not the parameters of the network in model.json; convert the weights again."
    )


def load(path: str | os.PathLike) -> tuple[Network, Params]:
    """Read a checkpoint folder.

    Args:
      path: a folder that `save` or the converter wrote, "denoise" or "deblur" for ours, or the name
        of an installed one; see `find`.

    Returns:
      The network, global, and its parameters. `model.clone(local_mode=True)` takes the same ones.
      Its window is the one that `keep_window` wrote, if it did.

    Raises:
      CheckpointError: not a checkpoint, incomplete, or not of the network that it names.
    """
    model, target = load_abstract(path)
    return model, load_params(path, target)


def load_params(path: str | os.PathLike, target: Params) -> Params:
    """Read the parameters of a checkpoint folder, of the shapes that `load_abstract` gives.

    Raises:
      CheckpointError: incomplete, damaged or not of these shapes.
    """
    import orbax.checkpoint as ocp

    folder = find(path).absolute() / "params"
    # Before orbax opens the files: where that fails, its threads print tracebacks of their own.
    try:
        whole = _digest(folder) == describe(folder.parent).get("params_sha256")
    except OSError:
        whole = False
    if not whole:
        raise _damaged(folder)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            params = checkpointer.restore(folder, target)
        # Orbax does not refuse arrays of another shape.
        fits = jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, target)
    except MemoryError:
        raise
    except Exception:  # it refuses another tree with almost any exception
        fits = False
    if not fits:
        raise _of_another(folder)
    return jax.tree.map(jnp.asarray, params)


def _digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files in a folder, but what file managers leave."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name not in (".DS_Store", "Thumbs.db"):
            digest.update(file.relative_to(folder).as_posix().encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
