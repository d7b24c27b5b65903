"""What the page asks of a worker: pictures from file to file, in the folders of a visitor.

Each job is a generator: it tells how far it is, as a share and in words, and at last what it made.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from tlc_jax.evaluation.sheets import most_different, panels
from tlc_jax.files import checkpoints
from tlc_jax.files.pictures import ImageError, Picture, read_picture, write_image, write_restored
from tlc_jax.inference.timed import restore_timed
from tlc_jax.inference.ways import at_once, tiled
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.ops.pixels import from_float, to_float

SHOWN = 2048  # pixels, the longer side of what the page shows; the file to keep has all
ENLARGED = 5  # times


class Progress(NamedTuple):
    """How far a job is."""

    share: float
    text: str


class Request(NamedTuple):
    """What a visitor chose."""

    source: Path
    folder: Path  # for the results
    checkpoint: Path
    mode: str  # "local", "global" or "auto"
    window: int | None  # side in pixels; `None` for the network's own


class Restored(NamedTuple):
    """A picture to keep, two to look at, and what there is to tell."""

    file: Path
    before: Path
    after: Path
    facts: dict[str, str]


class Compared(NamedTuple):
    """Pictures to look at, with what they show, and what there is to tell."""

    pictures: list[tuple[Path, str]]
    facts: dict[str, str]


def preview(source: Path, folder: Path) -> Iterator[Progress | Path]:
    """Make of a picture what a browser can show."""
    yield Progress(0, "reading")
    picture = _read(source, None)
    yield _show(folder / "before.jpg", to_float(picture.pixels), picture.icc_profile)


def restored(request: Request) -> Iterator[Progress | Restored]:
    """Restore a picture as `tlc-jax restore` does."""
    yield Progress(0, "reading")
    model, params = _network(request)
    picture = _read(request.source, model.inp_channels)
    pixels = to_float(picture.pixels)
    height, width, _ = pixels.shape
    model = model.clone(local_mode=request.mode != "global")
    yield Progress(0.1, f"compiling for {width} x {height}")
    result, mode, compiling, running, memory = restore_timed(
        model, params, pixels, guard=request.mode == "auto"
    )
    yield Progress(0.8, "writing")
    file = request.folder / f"{request.source.stem}-restored.png"
    written = from_float(result, picture.pixels.dtype)
    with by_name(file, request.folder):
        write_restored(file, written, picture)
    facts = {
        "picture": f"{width} x {height}, {8 * picture.pixels.itemsize} bits",
        "network": f"{type(model).__name__}, {mode} statistics, float32",
        "time": f"{running:.1f} s, and {compiling:.1f} s to compile for this size",
        "memory": f"{_memory(memory)} predicted, on {jax.default_backend()}",
        "licence of the weights": _licence(request),
    }
    if request.mode == "auto" and mode == "global":
        facts["auto"] = "local statistics make false colours here, so these are global ones"
    if picture.notes:
        facts["note"] = "; ".join(picture.notes)
    profile = picture.icc_profile
    yield Restored(
        file,
        _show(request.folder / "before.jpg", pixels, profile),
        _show(request.folder / "after.jpg", to_float(written), profile),
        facts,
    )


def compared(request: Request) -> Iterator[Progress | Compared]:
    """Restore a picture with global and local statistics and in tiles, and show how they differ.

    The tiles are of the size of the training crops, and overlap by an eighth.
    """
    yield Progress(0, "reading")
    model, params = _network(request)
    picture = _read(request.source, model.inp_channels)
    pixels = to_float(picture.pixels)
    height, width, _ = pixels.shape
    tile = max(model.train_size)
    globally, locally = (model.clone(local_mode=local) for local in (False, True))
    modes = {
        "global": (globally, at_once),
        "local": (locally, at_once),
        "tiles": (globally, tiled(tile, tile // 8)),
    }
    made = {}
    for number, (name, (network, way)) in enumerate(modes.items()):
        yield Progress((3 * number + 1) / 10, f"{name}: compiling and restoring")
        made[name] = restore_timed(network, params, pixels, way=way)
    results = {name: one.pixels for name, one in made.items()}
    yield Progress(0.95, "drawing")
    shown = panels(pixels, results["global"], results["local"], results["tiles"])
    captions = {name: f"{name}, {one.running:.1f} s" for name, one in made.items()}
    pictures = {captions.get(title, title): part for title, part in shown.items()}
    for place in most_different(np.abs(results["local"] - results["global"]), 1):
        here = np.s_[place.top : place.top + place.height, place.left : place.left + place.width]
        for name, result in results.items():
            part = result[here].repeat(ENLARGED, 0).repeat(ENLARGED, 1)
            pictures[f"{name}, enlarged"] = part
    profile = picture.icc_profile
    yield Compared(
        [
            (_show(request.folder / f"{number}.jpg", part, profile), title)
            for number, (title, part) in enumerate(pictures.items())
        ],
        {
            "picture": f"{width} x {height}",
            "network": f"{type(model).__name__}, float32, on {jax.default_backend()}",
            "tiles": f"{tile} x {tile}, as the training crops, overlapping by {tile // 8}",
            "memory": f"{_memory(max(one.memory for one in made.values()))} predicted",
            "enlarged": f"{ENLARGED} times, where global and local differ most",
            "licence of the weights": _licence(request),
        },
    )


@functools.cache
def _load(checkpoint: Path) -> tuple[Network, Params]:
    return checkpoints.load(checkpoint)


def _network(request: Request) -> tuple[Network, Params]:
    with by_name(request.checkpoint):
        model, params = _load(request.checkpoint)
    side = request.window
    return model.clone(window=None if side is None else (side, side)), params


def _licence(request: Request) -> str:
    return checkpoints.describe(request.checkpoint).get("weights_licence", "not recorded")


def _read(source: Path, channels: int | None) -> Picture:
    with by_name(source):
        return read_picture(source, channels=channels)


@contextlib.contextmanager
def by_name(*paths: Path) -> Iterator[None]:
    """Errors that name these by their names alone, which is all that a visitor knows of them."""
    try:
        yield
    except (ImageError, checkpoints.CheckpointError) as error:
        sentence = str(error)
        for path in paths:
            sentence = sentence.replace(str(path), path.name)
        raise type(error)(sentence) from None


def _show(path: Path, pixels: np.ndarray, icc_profile: bytes | None) -> Path:
    """Write floats as a picture for the page, no larger than what it shows."""
    from PIL import Image

    scale = SHOWN / max(pixels.shape[:2])
    if scale < 1:
        size = [max(1, round(scale * length)) for length in pixels.shape[1::-1]]
        shrink = functools.partial(Image.Image.resize, size=size, resample=Image.Resampling.BOX)
        channels = np.moveaxis(np.asarray(pixels, np.float32), -1, 0)
        pixels = np.stack([np.asarray(shrink(Image.fromarray(c))) for c in channels], -1)
    with by_name(path, path.parent):
        write_image(path, pixels, icc_profile=icc_profile)
    return path


def _memory(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
