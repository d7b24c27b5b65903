"""Videos, and clips as folders of frames, restored from file to file."""

import time
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from tlc_jax.evaluation import metrics
from tlc_jax.files.pictures import ImageError, Picture, read_picture
from tlc_jax.files.video import VideoError, VideoWriter, read_video
from tlc_jax.files.writing import write_restored
from tlc_jax.inference.batches import Batches, batches_pay
from tlc_jax.inference.clips import restore_clip
from tlc_jax.inference.pipeline import ahead, behind
from tlc_jax.inference.timed import Watch, check_finite
from tlc_jax.jobs.job import Job, JobError, Options, Outcome
from tlc_jax.jobs.pictures import check_size, read_truth
from tlc_jax.layers.network import Network, Params
from tlc_jax.ops.pixels import from_float, to_float, to_gray

AHEAD = 2  # frames that are decoded before they are restored, and restored before they are encoded


def restore_video(
    job: Job, model: Network, params: Params, options: Options, watch: Watch
) -> Outcome:
    """Restore a video file, with its times and its sound; arguments as for `run`."""
    (source,), (target,) = job.sources, job.targets
    if options.reference is not None:
        raise JobError(f"{source}: --reference is for pictures; leave it out.")
    video = read_video(source)
    gray = model.inp_channels == 1
    times: deque[Fraction] = deque()

    def frames() -> Iterator[np.ndarray]:
        for at, pixels in video:
            times.append(at)
            yield to_float(to_gray(pixels) if gray else pixels)

    target.parent.mkdir(parents=True, exist_ok=True)
    start, count = time.perf_counter(), 0
    watch("compiling")
    of = f" of {video.frames}" if video.frames else ""
    with VideoWriter(target, video) as writer:

        def encode(pixels: np.ndarray) -> None:
            writer.write(times.popleft(), np.repeat(pixels, 3, axis=-1) if gray else pixels)

        restored = _restored(model, params, ahead(frames(), AHEAD), source, options)
        for count, _ in enumerate(behind(encode, restored, AHEAD), 1):
            watch(f"frame {count}{of}")
    sound = "its sound" if writer.has_audio else "no sound"
    problem = None
    if seconds := video.damaged:
        places = ", ".join(f"{at:.2f} s" for at in seconds[:5])
        more = f" and {len(seconds) - 5} more" if len(seconds) > 5 else ""
        problem = (
            f"{source}: damaged at {places}{more}; frames are missing or marred there in {target}, "
            "the others are restored."
        )
    return Outcome(
        written=(target,),
        facts=f"{_pace(count, video.shape, start)}, {float(video.rate):.5g} frames/s when played, "
        f"{sound}",
        notes=(*writer.notes, *(["colours converted to gray"] if gray else [])),
        problem=problem,
        running=time.perf_counter() - start,
    )


def restore_frames(
    job: Job, model: Network, params: Params, options: Options, watch: Watch
) -> Outcome:
    """Restore the frames of a clip, each written as soon as it is done; arguments as for `run`."""
    folder, total = job.sources[0].parent, len(job.sources)
    reading: deque[tuple[Path, Picture, Path]] = deque()
    lost: list[Path] = []
    notes: dict[str, None] = {}  # each one once, in their order
    scores: list[list[float]] = []

    def frames() -> Iterator[np.ndarray]:
        first = None
        for source, target in zip(job.sources, job.targets, strict=True):
            try:
                picture = read_picture(source, channels=model.inp_channels)
            except ImageError as error:
                lost.append(source)
                options.complain(error)
                continue
            first = first or (source.name, picture)
            check_size(source, picture, *first, "the frames of a clip")
            notes.update(dict.fromkeys(picture.notes))
            reading.append((source, picture, target))
            yield to_float(picture.pixels)

    watch("compiling")
    start, count, shape = time.perf_counter(), 0, (0, 0, 0)
    for count, restored in enumerate(_restored(model, params, frames(), folder, options), 1):
        source, picture, target = reading.popleft()
        if options.reference is not None:
            truth = read_truth(options.reference, source, restored.shape)
            scores.append([float(metrics.psnr(x, truth)) for x in (picture.pixels, restored)])
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = from_float(restored, picture.pixels.dtype)
        notes.update(dict.fromkeys(write_restored(target, pixels, picture, options.quality)))
        shape = restored.shape
        watch(f"frame {count} of {total}")
    if scores:
        before, after = np.mean(scores, axis=0)
        notes[f"PSNR {before:.3f} -> {after:.3f} dB, mean over frames"] = None
    problem = None
    if lost:
        problem = (
            f"{folder}: {len(lost)} of {total} frames cannot be read, {lost[0].name} first; the "
            "others are restored as if those were not there."
        )
    return Outcome(
        written=(job.targets[0].parent,),
        facts=_pace(count, shape, start),
        notes=tuple(notes),
        problem=problem,
        running=time.perf_counter() - start,
    )


def _restored(
    model: Network, params: Params, frames: Iterator[np.ndarray], source: Path, options: Options
) -> Iterator[np.ndarray]:
    """Restored frames; what `restore_clip` refuses becomes a sentence about `source`."""
    try:
        if model.takes == "pictures" and batches_pay(options.devices):
            yield from Batches(model, params, options.devices).each(frames)
            return
        made = restore_clip(model, params, frames, chunk=options.chunk, overlap=options.overlap)
        for restored in made:
            check_finite(restored)
            yield restored
    except (JobError, ImageError, VideoError):
        raise
    except ValueError as error:
        raise JobError(f"{source}: {error}") from None


def _pace(count: int, shape: tuple[int, ...], start: float) -> str:
    height, width, _ = shape
    seconds = time.perf_counter() - start
    return f"{count} frames of {width}x{height} in {seconds:.1f} s with compiling"
