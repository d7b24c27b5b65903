"""Convert published weights: of PyTorch, .safetensors, MAXIM's .npz and its packages of npm.

    python -m checkpoints_convert SOURCE [DESTINATION]

The network and its configuration are recognised from the tensors' names and shapes.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from checkpoints_convert import hinet, maxim, mprnet, nafnet, nafssr, restormer, rnn_mbp
from checkpoints_convert.engine import ConversionError, fill, from_mlx
from checkpoints_convert.packages import is_package, read_package
from checkpoints_convert.parts import Part, find_parts
from checkpoints_convert.sources import Source, problems_told, read_source
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

# Of weight and spectral norm, pruning and adapters.
CHANGED = re.compile(r"_(orig|mask|g|v|u)$|\.parametrizations\.|lora_|\.base_layer\.")
ONLY_RELEASES = (
    "only networks as their authors publish them are converted; for one of your own, see "
    "tlc_jax.localize."
)

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
    tensors: Mapping[str, Any], *, part: str | None = None, **overrides: Any
) -> tuple[Network, Params]:
    """Turn a release's state dict into a network and its parameters.

    Args:
      tensors: NumPy arrays by the release's names: a PyTorch state dict, or MAXIM's flat dictionary
        of paths. Dictionaries around it, and names of modules before the release's, are found.
      part: where in `tensors` the network is, as "net_g", if several places hold one.
      **overrides: fields of the network that replace what the shapes tell, e.g. `train_size`.

    Returns:
      The network, global, and its parameter tree of NumPy arrays.

    Raises:
      ConversionError: the network is unknown, a tensor is unknown, missing, misshapen or not
        finite, or several networks fit.

    Examples:
      >>> tensors = {k: v.numpy() for k, v in module.state_dict().items()}  # doctest: +SKIP
      >>> model, params = convert_state_dict(tensors)  # doctest: +SKIP
    """
    _, model, params = _convert(Source(tensors), part, overrides)
    return model, params


def convert_file(
    source: str | os.PathLike,
    destination: str | os.PathLike | None = None,
    /,
    *,
    part: str | None = None,
    licence: str | None = None,
    half: bool = False,
    **overrides: Any,
) -> Path:
    """Convert published weights into a checkpoint folder, atomically.

    Args:
      source: a file of PyTorch, safetensors or NumPy with any suffix, or one of MAXIM's packages of
        npm, as a .tgz or as the folder that it was unpacked to; or the address of such a file, as a
        string that begins with https://, or hf://owner/repo/file, with @revision after it if need
        be.
      destination: a folder that does not exist yet; `None` installs the checkpoint by a name, such
        as maxim-gopro, for `tlc_jax.load` to find.
      part: where in the file the network is, as "state_dict.net_g", if several places hold one.
        Averaged weights, such as params_ema, are taken first.
      licence: of the weights, if you know it; else that of the published file with these bytes.
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
    if licence is not None and not (licence.strip() and licence.isprintable()):
        raise ConversionError(f"licence {licence!r}: say it in one line.")
    overrides = {name: tuple(x) if isinstance(x, list) else x for name, x in overrides.items()}
    if not published.is_address(source):
        return _install(Path(source), destination, part, licence, half, overrides)
    with published.fetched(os.fspath(source)) as came:
        try:
            return _install(came.path, destination, part, licence, half, overrides, came)
        except ConversionError as error:
            raise ConversionError(str(error).replace(str(came.path), str(source))) from None


def _install(
    source: Path,
    destination: str | os.PathLike | None,
    part: str | None,
    licence: str | None,
    half: bool,
    overrides: dict[str, Any],
    came: published.Fetched | None = None,
) -> Path:
    if is_package(source):
        with problems_told(source):
            tensors, told = read_package(source)
            held = Source(tensors)
    else:
        held, told = read_source(source), _told(source)
    with problems_told(source):
        found, model, params = _convert(held, part, overrides)
        params = _halved(params) if half else params
    if found.name:
        told["source"]["part"] = printable(found.name)
    # Its authors' own address tells whose it is, as the bytes of a copy do.
    known = catalogue.of_digest(told["source"]["sha256"])
    if came is not None:
        told["source"] |= {key: printable(text) for key, text in came.origin.items()}
        if one := came.published:
            known = one
            destination = home() / one.name if destination is None else destination
    published_file = known or _by_name(source.name, found.network, model)
    if published_file:
        told |= {"task": published_file.task, "dataset": published_file.dataset}
    if destination is None:
        # What the hub's client has fetched is a link to a file that is called by its digest.
        file = source if came is not None else real_path(source)
        rest = told["dataset"] if is_package(source) and told["dataset"] else file.stem
        name = catalogue.checkpoint_name(found.network, printable(rest))
        if catalogue.named(name) and not (published_file or is_package(source)):
            name += f"-{told['source']['sha256'][:8]}"  # which is another's
        destination = home() / name
    if licence is None:
        licence = catalogue.LICENCES[found.network]
        if known is None:
            whose = type(model).__name__
            licence = f"unknown; the authors of {whose} publish theirs under: {licence}"
    save(
        destination,
        model,
        params,
        **told,
        weights_licence=licence,
        assumed=[field for field in RELEASES[found.network].assumed if field not in overrides],
        **({"stored": "float16"} if half else {}),
    )
    return Path(destination)


def _convert(
    source: Source, part: str | None, overrides: Mapping[str, Any]
) -> tuple[Part, Network, Params]:
    """The network that a file holds; of several the averaged one, or the one that `part` names."""
    found = find_parts(source.content, RELEASES)
    parts = [one for one in found if part in (None, one.name)]
    if not parts:
        names = {one.name or "the whole file" for one in found}
        raise ConversionError(f"part {part}: a network may be in {', '.join(sorted(names))}.")
    refused: list[ConversionError] = []
    for _, group in itertools.groupby(parts, lambda one: one.averaged):
        fitting = []
        for one in group:
            try:
                fitting.append((one, *_fit(one, source, overrides)))
            except ConversionError as error:
                refused.append(error)
        if any(not _same(fitting[0], other) for other in fitting[1:]):
            names = [one.name or "the file itself" for one, *_ in fitting]
            raise ConversionError(
                f"holds {len(fitting)} networks that differ, in {', '.join(names)}; choose one, as "
                f"with --part {names[-1]}."
            )
        if fitting:
            return fitting[0]
    raise min(refused, key=lambda error: str(error).count("\n"))


def _fit(part: Part, source: Source, overrides: Mapping[str, Any]) -> tuple[Network, Params]:
    release, cls = RELEASES[part.network], MODELS[part.network]
    whose = f"{part.name} looks" if part.name else "looks"
    fields = config_fields(cls)
    if unknown := ", ".join(sorted(overrides.keys() - fields)):
        raise ConversionError(f"{cls.__name__} has no field {unknown}; it has {', '.join(fields)}.")
    for field, value in overrides.items():
        if type(value) is not type(default := getattr(cls, field)):
            raise ConversionError(f"{field}={value} is not of the kind of {field}={default}.")
    if sum(x.nbytes for x in part.tensors.values()) > source.most:
        raise ConversionError("refused, its tensors are far larger than the file.")
    tensors = from_mlx({name: source.array(x) for name, x in part.tensors.items()})
    try:
        config = release.infer_config({name: tensor.shape for name, tensor in tensors.items()})
    except Exception as error:  # whatever unforeseen shapes lead to
        missing = isinstance(error, KeyError)
        reason = f"{error} is missing" if missing else f"an unexpected shape: {error}"
        if odd := next(filter(CHANGED.search, part.tensors), None):
            reason += f"; {odd} is of a change that has to be merged or removed first"
        raise ConversionError(
            f"{whose} like {cls.__name__}, but its configuration cannot be told ({reason}); "
            f"{ONLY_RELEASES}"
        ) from None
    try:
        model = cls(**(config | overrides))
        model.check_windows()
        target = abstract_params(model, most=len(tensors))
    except Exception as error:  # whatever a network raises for impossible fields
        raise ConversionError(
            f"{whose} like {cls.__name__}, which cannot be of this configuration: "
            f"{first_line(error).rstrip('.')}; {ONLY_RELEASES}"
        ) from None
    try:
        return model, fill(target, tensors, release.rules, release.unused)
    except ConversionError as error:
        raise ConversionError(
            f"{whose} like {cls.__name__}, but {error}\n{ONLY_RELEASES.capitalize()}"
        ) from None


def _same(one: tuple[Part, Network, Params], other: tuple[Part, Network, Params]) -> bool:
    return one[1] == other[1] and jax.tree.all(jax.tree.map(np.array_equal, one[2], other[2]))


def _by_name(file: str, network: str, model: Network) -> catalogue.Published | None:
    """The published file that one is called like, where its bytes are not known and it may be."""
    one = catalogue.FILES.get(file)
    if one is None or one.sha256 is not None or one.network != network:
        return None
    published = type(model).variant(one.variant)
    return one if model.clone(train_size=published.train_size) == published else None


def _told(source: Path) -> dict[str, Any]:
    """What a file tells of its weights by itself."""
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    copied = source.name in catalogue.FILES  # so it does not tell what else it may be
    tasks = (task for mark, task in TASKS if re.search(mark, source.name, re.I) and not copied)
    return {
        "source": {"file": printable(source.name), "sha256": digest},
        "task": next(tasks, None),
        "dataset": None,
    }


def _halved(params: Params) -> Params:
    def halve(path: jax.tree_util.KeyPath, x: np.ndarray) -> np.ndarray:
        if np.abs(x).max(initial=0) > np.finfo(np.float16).max:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ConversionError(f"{name}: holds numbers too large for float16; leave out half.")
        return x.astype(np.float16)

    return jax.tree.map_with_path(halve, params)
