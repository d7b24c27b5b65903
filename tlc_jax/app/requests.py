"""What the page asks of a worker: pictures made of a visitor's picture, in a folder of theirs."""

import contextlib
import functools
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from tlc_jax import jobs
from tlc_jax.evaluation.sheets import most_different, panels
from tlc_jax.files import checkpoints
from tlc_jax.files.pictures import FORMATS, ImageError, Picture, picture_size, read_picture
from tlc_jax.files.writing import write_image
from tlc_jax.inference.timed import Timed, Watch, restore_timed
from tlc_jax.inference.ways import at_once, tiled
from tlc_jax.jobs.pictures import FALSE_COLOURS
from tlc_jax.layers.network import Network, Params
from tlc_jax.ops.pixels import from_float, to_float

SHOWN = 4096  # pixels, the longer side of what the page shows; the file to keep has all
VISIBLE = 1  # level of 8 bits, below which nobody sees a difference
ENLARGED = 5  # times
# How much is done, by the first word of what `watch` is told.
SHARES = {
    "waiting": 0.0,
    "reading": 0.0,
    "looking": 0.05,
    "compiling": 0.1,
    "restoring": 0.4,
    "writing": 0.8,
}
SHARES |= {"global": 0.1, "local": 0.4, "tiles": 0.7, "drawing": 0.95}  # of `compared`


class Request(NamedTuple):
    """What a visitor chose."""

    sources: tuple[Path, ...]
    folder: Path  # for the results
    checkpoints: tuple[Path, ...]  # one after the other; of `auto` for noise and for blur
    auto: bool  # whether only what a picture needs
    strength: float
    mode: str  # "local", "global" or "auto"
    window: int | None  # side in pixels; `None` for the network's own


class Made(NamedTuple):
    """What there is to tell, pictures to look at with what they show, and a file to keep.

    Attributes:
      facts: what was done, by name.
      pictures: what a browser can show; of a restored picture "before" and "after".
      size: (width, height) of the picture that they show.
      file: the restored picture, or a zip of several.
    """

    facts: dict[str, str]
    pictures: list[tuple[Path, str]]
    size: tuple[int, int] = (0, 0)
    file: Path | None = None


def share(words: str) -> float:
    """How much is done, in [0, 1], when `watch` is told these words."""
    part, _, rest = words.rpartition(": ")
    if number := re.match(r"(\d+) of (\d+)", part):  # of several pictures
        return (int(number[1]) - 1 + share(rest)) / int(number[2])
    begin = SHARES[re.split(r"\W", words)[0]]
    if number := re.search(r"part (\d+) of (\d+)", words):
        begin += (SHARES["writing"] - begin) * (int(number[1]) - 1) / int(number[2])
    return begin


def of_sources(sources: Sequence[Path], size: str = "") -> dict[str, str]:
    """What is told of pictures before anything is made of them."""
    more = f", and {len(sources) - 1} more" if sources[1:] else ""
    return {"picture": f"{sources[0].name}{size}{more}"}


def count_pixels(sources: Sequence[Path], watch: Watch) -> int:
    """Those of all pictures, of which some may be none, by their heads."""
    watch("reading")
    count = 0
    for source in sources:
        with contextlib.suppress(ImageError):
            width, height = picture_size(source)
            count += width * height
    return count


def preview(sources: Sequence[Path], folder: Path, watch: Watch) -> Made:
    """Look at the heads of all pictures, and make one of the first that a browser can show.

    Raises:
      ImageError: none can be read.
    """
    watch("reading")
    good, problems = [], []
    for source in sources:
        try:
            with by_name(source):
                picture_size(source)
            picture = _read(source, None) if not good else None
        except ImageError as error:
            problems.append(error)
        else:
            good.append((source, picture))
    if not good:
        raise problems[0]
    _, picture = good[0]
    height, width, _ = picture.pixels.shape
    shown = _show(folder / "before.jpg", to_float(picture.pixels), picture.icc_profile)
    size = f", {width} x {height}, {height * width / 1e6:.1f} megapixels"
    facts = of_sources([source for source, _ in good], size) | _left_out(problems)
    return Made(facts, [(shown, "before")], (width, height))


def _left_out(problems: Sequence[Exception]) -> dict[str, str]:
    return {"left out": " ".join(map(str, problems))} if problems else {}


def restored(request: Request, watch: Watch) -> Made:
    """Restore pictures as `tlc-jax restore` does, and show the first one before and after."""
    watch("reading")
    found = [_network(folder, request.window) for folder in request.checkpoints]
    networks = [(one.model.clone(local_mode=request.mode != "global"), one.params) for one in found]
    options = jobs.Options(
        auto=request.auto, strength=request.strength, guard=request.mode == "auto", overwrite=True
    )
    count = len(request.sources)
    done: list[jobs.Outcome] = []
    problems: list[Exception] = []
    for number, source in enumerate(request.sources, 1):
        suffix = source.suffix if source.suffix.lower() in FORMATS else ".png"
        file = request.folder / f"{source.stem}-restored{suffix}"
        while any(file in one.written for one in done):  # of two with one stem
            file = file.with_stem(f"{file.stem}-{number}")
        part = f"{number} of {count}: " if count > 1 else ""
        try:
            with by_name(source, file, request.folder):
                done.append(
                    jobs.run(
                        jobs.Job((source,), (file,)), networks, options,
                        lambda words, part=part: watch(f"{part}{words}"),
                    )
                )  # fmt: skip
        except ImageError as error:  # the others are restored all the same
            problems.append(error)
    if not done:
        raise problems[0]
    first = done[0]
    assert first.before is not None and first.after is not None  # as they are of a picture
    height, width, _ = first.before.pixels.shape
    differ = np.abs(to_float(first.after) - to_float(first.before.pixels)).max() * 255
    names = ", ".join(dict.fromkeys(type(model).__name__ for model, _ in networks))
    facts = {
        "picture": f"{width} x {height}, {8 * first.before.pixels.itemsize} bits",
        "result": "no visible difference" if differ < VISIBLE else "",
        "network": f"{names}, {first.mode} statistics, float32",
        "time": f"{first.running:.1f} s, and {first.compiling:.1f} s to compile for this size",
        "memory": f"{first.memory / 2**30:.2f} GiB predicted, on {jax.default_backend()}",
        "licence of the weights": ", ".join(dict.fromkeys(one.licence for one in found)),
        "auto": FALSE_COLOURS if FALSE_COLOURS in first.notes else "",
        "note": "; ".join(note for note in first.notes if note != FALSE_COLOURS),
        "pictures": f"{len(done)}; the first one is shown" if done[1:] else "",
    } | _left_out(problems)
    profile = first.before.icc_profile
    pictures = [
        (_show(request.folder / f"{name}.jpg", to_float(pixels), profile), name)
        for name, pixels in (("before", first.before.pixels), ("after", first.after))
    ]
    file = _zipped(request.folder, done) if done[1:] else first.written[0]
    facts = {name: fact for name, fact in facts.items() if fact}
    return Made(facts, pictures, (width, height), file)


def _zipped(folder: Path, done: Sequence[jobs.Outcome]) -> Path:
    """All results in one file; they are compressed already."""
    path = folder / "restored.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for outcome in done:
            archive.write(outcome.written[0], outcome.written[0].name)
            outcome.written[0].unlink()
    return path


def compared(request: Request, watch: Watch) -> Made:
    """Restore a picture with global and local statistics and in tiles, and show how they differ.

    The tiles are of the size of the training crops, and overlap by an eighth.
    """
    watch("reading")
    model, params, licence = _network(request.checkpoints[0], request.window)
    picture = _read(request.sources[0], model.inp_channels)
    pixels = to_float(picture.pixels)
    height, width, _ = pixels.shape
    tile = max(model.train_size)
    made: dict[str, Timed] = {}
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
    return Made(facts, pictures, (width, height))


def _compare(pixels: np.ndarray, made: Mapping[str, Timed]) -> dict[str, np.ndarray]:
    """The panels by their captions, and of each result the part that differs most, enlarged."""
    results = {name: one.pixels for name, one in made.items()}
    captions = {name: f"{name}, {one.running:.1f} s" for name, one in made.items()}
    shown = panels(pixels, results["global"], results["local"], results["tiles"])
    shown = {captions.get(title, title): part for title, part in shown.items()}
    difference = np.abs(results["local"] - results["global"])
    if difference.max() * 255 < VISIBLE:
        return {x: part for x, part in shown.items() if not x.startswith("|local - global|")}
    for top, left, height, width in most_different(difference, 1):
        for name, result in results.items():
            part = result[top : top + height, left : left + width]
            shown[f"{name}, enlarged"] = part.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    return shown


_load = functools.cache(checkpoints.load)


class _Network(NamedTuple):
    model: Network
    params: Params
    licence: str  # of the weights


def _network(checkpoint: Path, side: int | None) -> _Network:
    with by_name(checkpoint):
        model, params = _load(checkpoint)
        licence = checkpoints.describe(checkpoint).get("weights_licence", "not recorded")
    return _Network(model.clone(window=None if side is None else (side, side)), params, licence)


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
