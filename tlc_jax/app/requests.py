"""What the page asks of a worker: pictures made of a visitor's picture, in a folder of theirs."""

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from tlc_jax import jobs
from tlc_jax.evaluation.sheets import most_different, panels
from tlc_jax.files import checkpoints
from tlc_jax.files.pictures import ImageError, Picture, read_picture
from tlc_jax.files.writing import write_image
from tlc_jax.inference.timed import Timed, Watch, restore_timed
from tlc_jax.inference.ways import at_once, tiled
from tlc_jax.jobs.pictures import FALSE_COLOURS
from tlc_jax.layers.network import Network, Params
from tlc_jax.ops.pixels import from_float, to_float

SHOWN = 2048  # pixels, the longer side of what the page shows; the file to keep has all
ENLARGED = 5  # times
# How much is done, by the first word of what `watch` is told.
SHARES = {"reading": 0.0, "compiling": 0.1, "restoring": 0.4, "writing": 0.8}
SHARES |= {"global": 0.1, "local": 0.4, "tiles": 0.7, "drawing": 0.95}  # of `compared`


class Request(NamedTuple):
    """What a visitor chose."""

    source: Path
    folder: Path  # for the results
    checkpoint: Path
    mode: str  # "local", "global" or "auto"
    window: int | None  # side in pixels; `None` for the network's own


class Made(NamedTuple):
    """What there is to tell, pictures to look at with what they show, and one to keep."""

    facts: dict[str, str]
    pictures: list[tuple[Path, str]]
    file: Path | None = None


def share(words: str) -> float:
    """How much is done, in [0, 1], when `watch` is told these words."""
    return SHARES[re.split(r"\W", words)[0]]


def preview(source: Path, folder: Path, watch: Watch) -> Path:
    """Make a picture that a browser can show."""
    watch("reading")
    picture = _read(source, None)
    return _show(folder / "before.jpg", to_float(picture.pixels), picture.icc_profile)


def restored(request: Request, watch: Watch) -> Made:
    """Restore a picture as `tlc-jax restore` does, and show it before and after."""
    watch("reading")
    model, params, licence = _network(request)
    model = model.clone(local_mode=request.mode != "global")
    file = request.folder / f"{request.source.stem}-restored.png"
    options = jobs.Options(guard=request.mode == "auto")
    with by_name(request.source, file, request.folder):
        done = jobs.run(jobs.Job((request.source,), (file,)), [(model, params)], options, watch)
    assert done.before is not None and done.after is not None  # as they are of a picture
    height, width, _ = done.before.pixels.shape
    facts = {
        "picture": f"{width} x {height}, {8 * done.before.pixels.itemsize} bits",
        "network": f"{type(model).__name__}, {done.mode} statistics, float32",
        "time": f"{done.running:.1f} s, and {done.compiling:.1f} s to compile for this size",
        "memory": f"{done.memory / 2**30:.2f} GiB predicted, on {jax.default_backend()}",
        "licence of the weights": licence,
        "auto": FALSE_COLOURS if FALSE_COLOURS in done.notes else "",
        "note": "; ".join(note for note in done.notes if note != FALSE_COLOURS),
    }
    profile = done.before.icc_profile
    pictures = [
        (_show(request.folder / f"{name}.jpg", to_float(pixels), profile), name)
        for name, pixels in (("before", done.before.pixels), ("after", done.after))
    ]
    return Made({name: fact for name, fact in facts.items() if fact}, pictures, file)


def compared(request: Request, watch: Watch) -> Made:
    """Restore a picture with global and local statistics and in tiles, and show how they differ.

    The tiles are of the size of the training crops, and overlap by an eighth.
    """
    watch("reading")
    model, params, licence = _network(request)
    picture = _read(request.source, model.inp_channels)
    pixels = to_float(picture.pixels)
    height, width, _ = pixels.shape
    tile = max(model.train_size)
    made = {}
    for name, way in {"global": at_once, "local": at_once, "tiles": tiled(tile, tile // 8)}.items():
        network = model.clone(local_mode=name == "local")
        made[name] = restore_timed(
            network, params, pixels, way=way, watch=lambda words, of=name: watch(f"{of}: {words}")
        )
    watch("drawing")
    facts = {
        "picture": f"{width} x {height}",
        "network": f"{type(model).__name__}, float32, on {jax.default_backend()}",
        "tiles": f"{tile} x {tile}, as the training crops, overlapping by {tile // 8}",
        "memory": f"{max(one.memory for one in made.values()) / 2**30:.2f} GiB predicted",
        "enlarged": f"{ENLARGED} times, where global and local differ most",
        "licence of the weights": licence,
    }
    shown = enumerate(_compare(pixels, made).items())
    profile = picture.icc_profile
    pictures = [(_show(request.folder / f"{n}.jpg", x, profile), title) for n, (title, x) in shown]
    return Made(facts, pictures)


def _compare(pixels: np.ndarray, made: Mapping[str, Timed]) -> dict[str, np.ndarray]:
    """The panels by their captions, and of each result the part that differs most, enlarged."""
    results = {name: one.pixels for name, one in made.items()}
    captions = {name: f"{name}, {one.running:.1f} s" for name, one in made.items()}
    shown = panels(pixels, results["global"], results["local"], results["tiles"])
    shown = {captions.get(title, title): part for title, part in shown.items()}
    difference = np.abs(results["local"] - results["global"])
    for top, left, height, width in most_different(difference, 1):
        for name, result in results.items():
            part = result[top : top + height, left : left + width]
            shown[f"{name}, enlarged"] = part.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    return shown


_load = functools.cache(checkpoints.load)


def _network(request: Request) -> tuple[Network, Params, str]:
    """The network, its parameters, and the licence of its weights."""
    with by_name(request.checkpoint):
        model, params = _load(request.checkpoint)
        licence = checkpoints.describe(request.checkpoint).get("weights_licence", "not recorded")
    side = request.window
    return model.clone(window=None if side is None else (side, side)), params, licence


def _read(source: Path, channels: int | None) -> Picture:
    with by_name(source):
        return read_picture(source, channels=channels)


@contextlib.contextmanager
def by_name(*paths: Path) -> Iterator[None]:
    """Errors name these paths by their last parts, which are all that a visitor knows of them."""
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

    samples = from_float(pixels, np.uint8)
    image = Image.fromarray(samples[..., 0] if samples.shape[-1] == 1 else samples)
    image.thumbnail((SHOWN, SHOWN), Image.Resampling.BOX)
    samples = np.asarray(image).reshape(image.height, image.width, -1)
    with by_name(path, path.parent):
        write_image(path, samples, icc_profile=icc_profile)
    return path
