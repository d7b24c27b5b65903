"""One picture, or the two views of a pair, restored from file to file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tlc_jax.evaluation import metrics
from tlc_jax.evaluation.sheets import comparison
from tlc_jax.files.datasets import PICTURES
from tlc_jax.files.pictures import (
    ImageError,
    Picture,
    read_picture,
    write_image,
    write_restored,
)
from tlc_jax.inference.timed import NotFiniteError, Timed, Watch, restore_timed
from tlc_jax.jobs.job import Job, JobError, Options, Outcome
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.ops.pixels import from_float, to_float

FALSE_COLOURS = "local statistics make false colours here, so these are global ones"


def restore_picture(
    job: Job, model: Network, params: Params, options: Options, watch: Watch
) -> Outcome:
    """Restore a picture, or a pair into one picture or two, as `run`."""
    watch("reading")
    pictures = _read(job.sources, model.inp_channels // len(job.sources))
    before = np.concatenate([to_float(picture.pixels) for picture in pictures], axis=-1)
    height, width, channels = before.shape
    result = height * model.scale, width * model.scale, channels // len(job.sources)
    truth = _truth(options.reference, job, result)
    bucket = options.buckets.get((height, width))

    def timed(model: Network, name: str, guard: bool, watch: Watch) -> Timed:
        try:
            return restore_timed(
                model, params, before, way=options.way, bucket=bucket, guard=guard, watch=watch
            )
        except NotFiniteError as error:
            raise ImageError(f"{name}: {error}") from None

    made = timed(model, str(job.sources[0]), options.guard, watch)
    watch("writing")
    pixels = from_float(made.pixels, np.result_type(*(picture.pixels for picture in pictures)))
    written = _write(job.targets, pixels, pictures, options.overwrite)
    notes = [FALSE_COLOURS] if options.guard and made.mode == "global" and written else []
    notes += dict.fromkeys(note for picture in pictures for note in picture.notes)
    if model.scale > 1 and any(picture.alpha is not None for picture in pictures):
        notes.append("alpha left out")
    if truth is not None:
        notes.append(_scores(before, made.pixels, to_float(pixels), truth))
    if job.sheet is not None:
        other = "global" if made.mode == "local" else "local"
        compared = timed(
            model.clone(local_mode=other == "local"), f"{job.sources[0]} in {other} mode", False,
            lambda words: watch(f"{words}, in {other} mode"),
        )  # fmt: skip
        results = {made.mode: made.pixels, other: compared.pixels}
        write_image(job.sheet, comparison(before, results["global"], results["local"]))
        written.append(job.sheet)
    return Outcome(
        written=tuple(written),
        facts=f"{_size(before, made.pixels, bucket)}, compiled in {made.compiling:.1f} s, ran in "
        f"{made.running:.1f} s",
        notes=tuple(notes),
        before=pictures[0],
        after=pixels,
        mode=made.mode,
        compiling=made.compiling,
        running=made.running,
        memory=made.memory,
    )


def _read(sources: Sequence[Path], channels: int) -> list[Picture]:
    pictures = [read_picture(path, channels=channels) for path in sources]
    height, width, _ = pictures[0].pixels.shape
    for path, picture in zip(sources, pictures, strict=True):
        h, w, _ = picture.pixels.shape
        if (h, w) != (height, width):
            raise JobError(
                f"{path}: is {w}x{h}, but {sources[0]} is {width}x{height}; the views of a pair "
                "are of one size."
            )
    return pictures


def _write(
    targets: Sequence[Path], pixels: np.ndarray, pictures: Sequence[Picture], overwrite: bool
) -> list[Path]:
    """Each target takes its part of the channels, unless it is there and is to stay."""
    written = []
    parts = np.split(pixels, len(targets), axis=-1)
    for target, part, picture in zip(targets, parts, pictures, strict=False):
        if overwrite or not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_restored(target, part, picture)
            written.append(target)
    return written


def _size(before: np.ndarray, after: np.ndarray, bucket: tuple[int, int] | None) -> str:
    (h, w, _), (height, width, _) = before.shape, after.shape
    size = f"{w}x{h}" if (h, w) == (height, width) else f"{w}x{h} to {width}x{height}"
    return f"{size} in {bucket[1]}x{bucket[0]}" if bucket else size


def read_truth(reference: Path, source: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The ground truth of what a source becomes, (H, W, C) floats; of a folder that of its name."""
    if reference.is_dir():
        matches = sorted(
            file
            for file in reference.iterdir()
            if file.stem == source.stem and file.suffix.lower() in PICTURES
        )
        if not matches:
            raise JobError(f"{source}: no picture of the same name in {reference}.")
        reference = matches[0]
    truth = to_float(read_picture(reference, channels=shape[2]).pixels)
    if truth.shape != shape:
        (h, w, _), (height, width, _) = shape, truth.shape
        raise JobError(f"{reference}: is {width}x{height}, but {source} becomes {w}x{h}.")
    return truth


def _truth(reference: Path | None, job: Job, shape: tuple[int, ...]) -> np.ndarray | None:
    views = job.sources[: len(job.targets)]
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
) -> str:
    """PSNR and SSIM, from those of the input where that is of the same size."""
    images = [image for image in (before, restored) if image.shape == truth.shape]
    psnr = " -> ".join(f"{float(metrics.psnr(image, truth)):.3f}" for image in images)
    text = f"PSNR {psnr} dB ({float(metrics.psnr(written, truth)):.3f} as written)"
    if min(truth.shape[:2]) >= metrics.TAPS:
        ssim = " -> ".join(f"{float(metrics.ssim(image, truth)):.4f}" for image in images)
        text += f", SSIM per channel {ssim}"
    return text
