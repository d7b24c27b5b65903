"""Convert published weights: PyTorch .pth and .safetensors, and MAXIM's .npz.

    python -m checkpoints_convert SOURCE DESTINATION

The network and its configuration are recognised from the tensors' names and shapes.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert import hinet, maxim, mprnet, nafnet, nafssr, restormer, rnn_mbp
from checkpoints_convert.engine import ConversionError, fill
from checkpoints_convert.sources import read_tensors
from tlc_jax.files import catalogue
from tlc_jax.files.atomic import first_line
from tlc_jax.files.checkpoints import config_fields, save
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params, abstract_params
from tlc_jax.models import MODELS

__all__ = ["ConversionError", "convert_file", "convert_state_dict"]


RELEASES = {
    name: release
    for module in (nafnet, restormer, maxim, hinet, mprnet, nafssr, rnn_mbp)
    for name, release in module.RELEASES.items()
}

# The task, by a pattern in the published file name.
TASKS = (
    (r"dual_pixel_defocus", catalogue.DUAL_PIXEL),
    (r"defocus", catalogue.DEFOCUS),
    (r"gopro|reds|(motion|model)_deblurring", catalogue.MOTION),
    (r"sidd|(real|model)_denoising", catalogue.PHOTOGRAPHS),
    (r"gaussian_gray_denoising", catalogue.GRAY),
    (r"gaussian_color_denoising", catalogue.COLOUR),
    (r"derain|rain13k", catalogue.RAIN),
    (r"nafssr.*2x", catalogue.STEREO_2X),
    (r"nafssr.*4x", catalogue.STEREO_4X),
)


def convert_state_dict(
    tensors: Mapping[str, np.ndarray], **overrides: Any
) -> tuple[Network, Params]:
    """Turn a release's state dict into a network and its parameters.

    Args:
      tensors: NumPy arrays by the release's names: a PyTorch state dict, or MAXIM's flat dictionary
        of paths, without wrappers such as "params".
      **overrides: fields of the network that replace what the shapes tell, e.g. `train_size`.

    Returns:
      The network, global, and its parameter tree of NumPy arrays.

    Raises:
      ConversionError: the network is unknown, or a tensor is unknown, missing, misshapen or not
        finite.

    Examples:
      >>> tensors = {k: v.numpy() for k, v in module.state_dict().items()}  # doctest: +SKIP
      >>> model, params = convert_state_dict(tensors)  # doctest: +SKIP
    """
    name = _recognise(tensors)
    release, cls = RELEASES[name], MODELS[name]
    fields = config_fields(cls)
    if unknown := ", ".join(sorted(overrides.keys() - fields)):
        raise ConversionError(f"{cls.__name__} has no field {unknown}; it has {', '.join(fields)}.")
    for field, value in overrides.items():
        if type(value) is not type(default := getattr(cls, field)):
            raise ConversionError(f"{field}={value} is not of the kind of {field}={default}.")
    try:
        config = release.infer_config({name: tensor.shape for name, tensor in tensors.items()})
    except Exception as error:  # whatever unforeseen shapes lead to
        missing = isinstance(error, KeyError)
        reason = f"{error} is missing" if missing else f"an unexpected shape: {error}"
        raise ConversionError(
            f"looks like {cls.__name__}, but its configuration cannot be told ({reason}); take the "
            "file as its authors publish it."
        ) from None
    try:
        model = cls(**(config | overrides))
        model.check_windows()
        target = abstract_params(model)
    except Exception as error:  # whatever a network raises for impossible fields
        raise ConversionError(
            f"looks like {cls.__name__}, which cannot be of this configuration: "
            f"{first_line(error).rstrip('.')}; take the file as its authors publish it, and fields "
            "that fit it."
        ) from None
    try:
        return model, fill(target, tensors, release.rules, release.unused)
    except ConversionError as error:
        raise ConversionError(
            f"looks like {cls.__name__}, but {error}\nTake the file as its authors publish it."
        ) from None


def convert_file(
    source: str | os.PathLike, destination: str | os.PathLike, /, **overrides: Any
) -> None:
    """Convert a file of published weights into a checkpoint folder, atomically.

    Args:
      source: a .pth, .pt, .safetensors or MAXIM .npz file.
      destination: a folder that does not exist yet.
      **overrides: fields of the network, as for `convert_state_dict`.

    Raises:
      ConversionError: the file cannot be read or does not fit a network.
      tlc_jax.files.checkpoints.CheckpointError: the destination exists or cannot be written.
    """
    source = Path(source)
    tensors = read_tensors(source)
    try:
        model, params = convert_state_dict(tensors, **overrides)
    except ConversionError as error:
        raise ConversionError(f"{source}: {error}") from None
    name = _recognise(tensors)
    save(
        destination,
        model,
        params,
        source={"file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()},
        weights_licence=catalogue.LICENCES[name],
        task=next((task for mark, task in TASKS if re.search(mark, source.name, re.I)), None),
        assumed=[field for field in RELEASES[name].assumed if field not in overrides],
    )


def _recognise(tensors: Mapping[str, np.ndarray]) -> str:
    for name, release in RELEASES.items():
        if any(re.fullmatch(release.mark, tensor) for tensor in tensors):
            return name
    first = ", ".join(list(tensors)[:3])
    raise ConversionError(
        f"weights of no known network (first tensors: {first}); known are {', '.join(RELEASES)}."
    )
