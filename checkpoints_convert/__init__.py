"""Convert published weights: PyTorch .pth and .safetensors, MAXIM's .npz and its packages of npm.

    python -m checkpoints_convert SOURCE [DESTINATION]

The network and its configuration are recognised from the tensors' names and shapes.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from checkpoints_convert import hinet, maxim, mprnet, nafnet, nafssr, restormer, rnn_mbp
from checkpoints_convert.engine import ConversionError, fill
from checkpoints_convert.packages import is_package, read_package
from checkpoints_convert.sources import problems_told, read_tensors
from tlc_jax import published
from tlc_jax.files import catalogue
from tlc_jax.files.atomic import first_line
from tlc_jax.files.checkpoints import check_absent, config_fields, home, save
from tlc_jax.files.paths import real_path
from tlc_jax.files.printable import printable
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
        target = abstract_params(model, most=len(tensors))
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
    source: str | os.PathLike,
    destination: str | os.PathLike | None = None,
    /,
    *,
    half: bool = False,
    **overrides: Any,
) -> Path:
    """Convert published weights into a checkpoint folder, atomically.

    Args:
      source: a .pth, .pt, .safetensors or MAXIM .npz file, or one of MAXIM's packages of npm, as a
        .tgz or as the folder that it was unpacked to; or the address of such a file, as a string
        that begins with https://, or hf://owner/repo/file, with @revision after it if need be.
      destination: a folder that does not exist yet; `None` installs the checkpoint by a name, such
        as maxim-gopro, for `tlc_jax.load` to find.
      half: store the parameters as float16; they load as float32.
      **overrides: fields of the network, as for `convert_state_dict`.

    Returns:
      The checkpoint folder.

    Raises:
      ConversionError: the source cannot be read, does not fit a network, or holds numbers that
        float16 cannot.
      tlc_jax.files.checkpoints.CheckpointError: the destination exists or cannot be written, or
        what lies at an address cannot be fetched.

    Examples:
      >>> convert_file("NAFNet-GoPro-width32.pth", "nafnet")  # doctest: +SKIP
      >>> convert_file("hf://nyanko7/nafnet-models/NAFNet-GoPro-width32.pth")  # doctest: +SKIP
    """
    if destination is not None:
        check_absent(Path(destination))
    if not published.is_address(source):
        return _convert(Path(source), destination, half, overrides)
    with published.fetched(os.fspath(source)) as came:
        try:
            return _convert(came.path, destination, half, overrides, came)
        except ConversionError as error:
            raise ConversionError(str(error).replace(str(came.path), str(source))) from None


def _convert(
    source: Path,
    destination: str | os.PathLike | None,
    half: bool,
    overrides: dict[str, Any],
    came: published.Fetched | None = None,
) -> Path:
    if is_package(source):
        with problems_told(source):
            tensors, told = read_package(source)
    else:
        tensors, told = read_tensors(source), _told(source)
    try:
        model, params = convert_state_dict(tensors, **overrides)
        params = _halved(params) if half else params
    except ConversionError as error:
        raise ConversionError(f"{source}: {error}") from None
    name = _recognise(tensors)
    if came is not None:
        told["source"] |= {key: printable(text) for key, text in came.origin.items()}
        if one := came.published:
            told |= {"task": one.task, "dataset": one.dataset}
            destination = home() / one.name if destination is None else destination
    if destination is None:
        # What the hub's client has fetched is a link to a file that is called by its digest.
        file = source if came is not None else real_path(source)
        rest = told["dataset"] if is_package(source) and told["dataset"] else file.stem
        rest = printable(rest)
        destination = home() / catalogue.checkpoint_name(name, rest)
    save(
        destination,
        model,
        params,
        **told,
        weights_licence=catalogue.LICENCES[name],
        assumed=[field for field in RELEASES[name].assumed if field not in overrides],
        **({"stored": "float16"} if half else {}),
    )
    return Path(destination)


def _told(source: Path) -> dict[str, Any]:
    """What the name of a published file tells of its weights."""
    known = catalogue.FILES.get(source.name)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "source": {"file": printable(source.name), "sha256": digest},
        "task": next((task for mark, task in TASKS if re.search(mark, source.name, re.I)), None),
        "dataset": known.dataset if known else None,
    }


def _halved(params: Params) -> Params:
    def halve(path: jax.tree_util.KeyPath, x: np.ndarray) -> np.ndarray:
        if np.abs(x).max(initial=0) > np.finfo(np.float16).max:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ConversionError(f"{name}: holds numbers too large for float16; leave out half.")
        return x.astype(np.float16)

    return jax.tree.map_with_path(halve, params)


def _recognise(tensors: Mapping[str, np.ndarray]) -> str:
    for name, release in RELEASES.items():
        if any(re.fullmatch(release.mark, tensor) for tensor in tensors):
            return name
    first = ", ".join(list(tensors)[:3])
    raise ConversionError(
        f"weights of no known network (first tensors: {first}); known are {', '.join(RELEASES)}."
    )
