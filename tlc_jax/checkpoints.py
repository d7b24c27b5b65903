"""Checkpoints: a folder with the parameters (orbax) and a readable `model.json`.

nafnet-gopro-width32/
  model.json   network, its configuration, where the weights come from and their licence
  params/      the parameter tree
"""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tlc_jax.models import MODELS, Params

FORMAT = 1
# How a network is run, not what it is.
RUN_FIELDS = {"local_mode", "local_attention", "local_grid", "window", "padding", "dtype"}


class CheckpointError(ValueError):
    """Not a whole checkpoint, or one that cannot be written. The message is meant for the user."""


def config_of(model: nn.Module) -> dict[str, Any]:
    """The fields that make the network what it is: sizes, kinds of layer, training size."""
    return {name: getattr(model, name) for name in config_fields(type(model))}


def config_fields(network: type[nn.Module]) -> list[str]:
    """The names of the fields that `config_of` gives."""
    names = [field.name for field in dataclasses.fields(network)]  # the last two are Linen's own
    return [name for name in names if name not in {*RUN_FIELDS, "parent", "name"}]


def abstract_params(model: nn.Module) -> Params:
    """The parameter tree as shapes and types, without allocating it."""
    image = jax.ShapeDtypeStruct((1, 8, 8, model.inp_channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


def count_params(params: Params) -> int:
    """How many numbers a parameter tree (of arrays or of shapes) holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def save(path: str | os.PathLike, model: nn.Module, params: Params, **metadata: Any) -> None:
    """Write a checkpoint folder, whole or not at all.

    Args:
      path: a folder that does not exist yet.
      model: a network of `tlc_jax.models.MODELS`.
      params: its parameter tree.
      **metadata: further entries of model.json (source, licence of the weights, task, ...).

    Raises:
      CheckpointError: the path exists, its parent does not, or it cannot be written.
    """
    import orbax.checkpoint as ocp  # half a second that only loading and saving should pay

    path = Path(path).absolute()
    names = {cls: name for name, cls in MODELS.items()}
    description = {
        "format": FORMAT,
        "network": names[type(model)],
        "config": config_of(model),
        "parameters": count_params(params),
        **metadata,
    }
    with _whole_folder(path) as folder:
        (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "params", params)


def describe(path: str | os.PathLike) -> dict[str, Any]:
    """The contents of a checkpoint's model.json.

    Raises:
      CheckpointError: there is none, or it is not what this version writes.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: there is no such checkpoint folder; convert the published weights with "
            "'tlc-jax convert SOURCE DESTINATION' and name the destination."
        )
    try:
        description = json.loads((path / "model.json").read_text())
        network, config, version = (description[key] for key in ("network", "config", "format"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: not a checkpoint of tlc-jax, it holds no model.json; make one with "
            "'tlc-jax convert SOURCE DESTINATION'."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path / 'model.json'}: cannot be read ({error}); convert the weights again."
        ) from None
    if version != FORMAT or network not in MODELS or not isinstance(config, dict):
        raise CheckpointError(
            f"{path / 'model.json'}: network {network!r} in format {version!r} is unknown to this "
            f"version, which reads format {FORMAT} of {', '.join(MODELS)}; update tlc-jax."
        )
    return description


def load(path: str | os.PathLike) -> tuple[nn.Module, Params]:
    """Read a checkpoint folder.

    Args:
      path: a folder that `save` or the converter wrote.

    Returns:
      The network, global, and its parameters. `model.clone(local_mode=True)` takes the same ones.

    Raises:
      CheckpointError: not a checkpoint, incomplete, or not of the network that it names.
    """
    import orbax.checkpoint as ocp

    path = Path(path).absolute()
    description = describe(path)
    config = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description["config"].items()
    }
    try:
        model = MODELS[description["network"]](**config)
        target = abstract_params(model)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path / 'model.json'}: not a configuration of {description['network']} ({error}); "
            "convert the weights again."
        ) from None
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            params = checkpointer.restore(path / "params", target)
    except Exception as error:  # orbax and tensorstore raise many kinds for a damaged folder
        raise CheckpointError(
            f"{path / 'params'}: damaged, or not the parameters of the network in model.json "
            f"({_first_line(error)}); convert the weights again."
        ) from None
    return model, params


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


@contextlib.contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that takes its name once everything in it is written."""
    if path.exists():
        raise CheckpointError(f"{path}: exists already; remove it or choose another destination.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); choose another destination."
        ) from None
    try:
        yield scratch
        scratch.chmod(0o755)
        scratch.rename(path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose another "
            "destination."
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
