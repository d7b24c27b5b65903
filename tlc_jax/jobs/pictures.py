"""One picture, or the two views of a pair, restored from file to file."""

import itertools
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tlc_jax.evaluation import metrics
from tlc_jax.files.datasets import PICTURES
from tlc_jax.files.limits import TooLargeError, check_pixels
from tlc_jax.files.pictures import ImageError, Picture, read_picture
from tlc_jax.files.whole import is_done
from tlc_jax.files.writing import (
    check_holds,
    copy_picture,
    has_format,
    write_image,
    write_restored,
)
from tlc_jax.inference.fitting import COPIES
from tlc_jax.inference.timed import NotFiniteError, Timed, Watch, restore_timed
from tlc_jax.jobs.job import Job, JobError, Networks, Options, Outcome
from tlc_jax.jobs.needs import needs_of
from tlc_jax.layers import Network
from tlc_jax.ops.pixels import from_float, to_float
from tlc_jax.ops.windows import Size

FALSE_COLOURS = "local statistics make false colours here, so these are global ones"
IN_TILES = "restored in parts of {1}x{0}, which overlap, to take less memory"


class Before(NamedTuple):
    """What was read for a job.

    Attributes:
      job: the job.
      pictures: those of its sources.
      pixels: (H, W, C) of all, views one after the other; whole numbers if all have one depth.
      seconds: that it took.
    """

    job: Job
    pictures: list[Picture]
    pixels: np.ndarray
    seconds: float


class After(NamedTuple):
    """What was made of it.

    Attributes:
      made: the result, whose pixels are whole numbers already, if it came out of a batch.
      other: that of the other mode, to compare with, or why there is none.
      notes: what there is to say.
      unchanged: whether the result is the source.
      at_once: how many pictures were restored with it.
    """

    made: Timed
    other: Timed | Exception | None = None
    notes: tuple[str, ...] = ()
    unchanged: bool = False
    at_once: int = 1


def restore_picture(job: Job, networks: Networks, options: Options, watch: Watch) -> Outcome:
    """Restore a picture, or a pair of views into one picture or two; arguments as for `run`."""
    watch("reading")
    before = read(job, networks, options)
    after = compute(before, networks, options, watch)
    watch("writing")
    return write(before, after, options)


def read(job: Job, networks: Networks, options: Options) -> Before:
    """Read the sources of a job, and refuse what cannot be restored or written."""
    start = time.perf_counter()
    model, _ = networks[0]
    views, channels = len(job.sources), model.inp_channels
    pictures = [read_picture(path, channels=channels // views) for path in job.sources]
    for path, picture in zip(job.sources, pictures, strict=True):
        check_size(path, picture, job.sources[0], pictures[0], "the views of a pair")
    height, width, _ = pictures[0].pixels.shape
    try:
        check_pixels(width, height, bytes_of_a_pixel(model))
    except TooLargeError as error:
        raise ImageError(f"cannot restore {job.sources[0]}: {error}.") from None
    for target in job.targets:
        check_holds(target, height * model.scale, width * model.scale)
    parts = [picture.pixels for picture in pictures]
    if len({part.dtype for part in parts}) > 1:
        parts = [to_float(part) for part in parts]
    return Before(job, pictures, np.concatenate(parts, axis=-1), time.perf_counter() - start)


def bytes_of_a_pixel(model: Network) -> int:
    """That a picture takes on its way from file to file."""
    return 4 * model.inp_channels * COPIES


def compute(before: Before, networks: Networks, options: Options, watch: Watch) -> After:
    """Restore what was read by itself, on the first device."""
    job, pixels, notes = before.job, to_float(before.pixels), ()
    bucket = options.buckets.get(pixels.shape[:2])
    if options.auto:
        watch("looking for noise and blur")
        needs = needs_of(pixels)
        networks = list(itertools.compress(networks, needs.tasks))
        notes = (str(needs),)

    def timed(networks: Networks, name: str, guard: bool, watch: Watch) -> Timed:
        try:
            return _restored(pixels, networks, options, bucket, guard, watch)
        except NotFiniteError as error:
            raise ImageError(f"{name}: {error}") from None

    made, other = timed(networks, str(job.sources[0]), options.guard, watch), None
    if job.sheet is not None:
        mode = "global" if made.mode == "local" else "local"
        others = [(model.clone(local_mode=mode == "local"), params) for model, params in networks]
        try:
            other = timed(
                others, f"{job.sources[0]} in {mode} mode", False,
                lambda words: watch(f"{words}, in {mode} mode"),
            )._replace(mode=mode)  # fmt: skip
        except Exception as error:  # told once the result is written
            other = error
    return After(made, other, notes, not networks or options.strength == 0)


def write(before: Before, after: After, options: Options) -> Outcome:
    """Write what was made of a job, and tell of it."""
    start = time.perf_counter()
    (job, pictures, *_), made = before, after.made
    height, width, channels = before.pixels.shape
    pixels = made.pixels
    if not np.issubdtype(pixels.dtype, np.integer):
        pixels = from_float(pixels, np.result_type(*(picture.pixels for picture in pictures)))
    notes = [*after.notes] + ([FALSE_COLOURS] if options.guard and made.mode == "global" else [])
    if made.tile is not None:
        notes.append(IN_TILES.format(*made.tile))
        if made.mode == "global":
            notes.append("global statistics are those of each part")
    written = []
    parts = np.split(pixels, len(job.targets), axis=-1)
    for source, target, part, picture in zip(
        job.sources, job.targets, parts, pictures, strict=False
    ):
        if options.overwrite or not is_done(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if after.unchanged and options.quality is None and has_format(target, picture):
                copy_picture(source, target)  # or a JPEG would lose something for nothing
                notes.append("copied as it is")
            else:
                notes += picture.notes
                notes += write_restored(target, part, picture, options.quality, options.png_level)
            written.append(target)
    if isinstance(after.other, Exception):
        raise after.other
    if job.sheet is not None and after.other is not None:
        from tlc_jax.evaluation.sheets import comparison  # brings Pillow

        results = {result.mode: result.pixels for result in (made, after.other)}
        sheet = comparison(to_float(before.pixels), results["global"], results["local"])
        write_image(job.sheet, sheet)
        written.append(job.sheet)
    problem, psnr = None, ()
    try:
        truth = _truth(options, job, (*made.pixels.shape[:2], channels // len(pictures)))
        if truth is not None:
            files = [
                read_picture(target, channels=truth.shape[2] // len(parts))
                for target in job.targets
            ]
            stored = np.concatenate([to_float(file.pixels) for file in files], axis=-1)
            psnr, scores = _scores(to_float(before.pixels), made.pixels, stored, truth)
            notes.append(scores)
    except (JobError, ImageError) as error:  # the result is there all the same
        problem = str(error)
    h, w, _ = made.pixels.shape
    bucket = options.buckets.get((height, width))
    facts = [
        f"{width}x{height}",
        f" to {w}x{h}" if (h, w) != (height, width) else "",
        f" in {bucket[1]}x{bucket[0]}" if bucket else "",
        f", compiled in {made.compiling:.1f} s, ran in {made.running:.1f} s",
        f", one of {after.at_once} at once" if after.at_once > 1 else "",
    ]
    return Outcome(
        written=tuple(written),
        facts="".join(facts),
        notes=tuple(dict.fromkeys(notes)),
        problem=problem,
        before=pictures[0],
        after=pixels,
        mode=made.mode,
        psnr=psnr,
        reading=before.seconds,
        compiling=made.compiling,
        running=made.running,
        writing=time.perf_counter() - start,
        memory=made.memory,
    )


def _restored(
    before: np.ndarray,
    networks: Networks,
    options: Options,
    bucket: Size | None,
    guard: bool,
    watch: Watch,
) -> Timed:
    """A picture restored by one network after the other, and mixed with what it was."""
    made = Timed(before, "local", 0.0, 0.0, 0)
    for model, params in networks:
        step = restore_timed(
            model, params, made.pixels,
            way=options.way, bucket=bucket, devices=options.split, fit=options.fit, guard=guard,
            watch=watch,
        )  # fmt: skip
        made = Timed(
            step.pixels,
            step.mode if made.mode == "local" else made.mode,
            made.compiling + step.compiling,
            made.running + step.running,
            max(made.memory, step.memory),
            step.tile or made.tile,
        )
    if options.strength != 1:
        if made.pixels.shape != before.shape:
            raise JobError("a strength is for networks that keep the size; leave it out.")
        made = made._replace(pixels=before + options.strength * (made.pixels - before))
    return made


def check_size(path: Path, picture: Picture, first: Path | str, like: Picture, what: str) -> None:
    """Refuse a picture of another size than the first of those that are restored at once."""
    (h, w, _), (height, width, _) = picture.pixels.shape, like.pixels.shape
    if (h, w) != (height, width):
        raise JobError(
            f"{path}: is {w}x{h}, but {first} is {width}x{height}; {what} are of one size."
        )


def read_truth(reference: Path, source: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The ground truth of a restored source, (H, W, C) floats, in a file or a folder by its name.

    Raises:
      JobError: it is missing, or not of this shape.
    """
    if reference.is_dir():
        # That of photos/summer/a.jpg in reference/photos/summer, reference/summer, or reference.
        above = [reference.joinpath(*source.parent.parts[i:]) for i in range(len(source.parts))]
        inside = (folder for folder in above if folder.is_relative_to(reference))
        named = (file for folder in inside for file in sorted(folder.glob("*")))
        truths = (
            file
            for file in named
            if file.stem == source.stem
            and file.suffix.lower() in PICTURES
            and not file.samefile(source)  # which lies below the reference, it may be
        )
        truth_file = next(truths, None)
        if truth_file is None:
            raise JobError(f"{source}: no picture of the same name in {reference}.")
        reference = truth_file
    truth = to_float(read_picture(reference, channels=shape[2]).pixels)
    if truth.shape != shape:
        (h, w, _), (height, width, _) = shape, truth.shape
        raise JobError(f"{reference}: is {width}x{height}, but {source} becomes {w}x{h}.")
    return truth


def _truth(options: Options, job: Job, shape: tuple[int, ...]) -> np.ndarray | None:
    """The ground truth of all targets, each of a shape, if there is one."""
    reference, views = options.reference, job.sources[: len(job.targets)]
    if reference is None:
        return None
    if len(views) == 1:
        return read_truth(reference, views[0], shape)
    folders = [reference / side for side in ("left", "right")]
    if not all(map(Path.is_dir, folders)):
        raise JobError(f"{reference}: for pairs give a folder with left/ and right/ in it.")
    truths = [read_truth(*view, shape) for view in zip(folders, views, strict=True)]
    return np.concatenate(truths, axis=-1)


def _scores(
    before: np.ndarray, restored: np.ndarray, written: np.ndarray, truth: np.ndarray
) -> tuple[tuple[float, ...], str]:
    """PSNR, and it and SSIM in words, from those of the input where that is of the same size."""
    images = [image for image in (before, restored) if image.shape == truth.shape]
    psnr = tuple(float(metrics.psnr(image, truth)) for image in images)
    shown = " -> ".join(f"{number:.3f}" for number in psnr)
    text = f"PSNR {shown} dB ({float(metrics.psnr(written, truth)):.3f} as written)"
    if min(truth.shape[:2]) >= metrics.TAPS:
        ssim = " -> ".join(f"{float(metrics.ssim(image, truth)):.4f}" for image in images)
        text += f", SSIM per channel {ssim}"
    return psnr, text
