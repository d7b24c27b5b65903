"""Videos, and clips as folders of frames, restored from file to file."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from rich.text import Text

from tlc_jax.cli.common import UserError, complain, console
from tlc_jax.cli.pictures import read_truth
from tlc_jax.evaluation import metrics
from tlc_jax.files.pictures import ImageError, Picture, read_picture, write_restored
from tlc_jax.files.pictures import check_finite as check_finite
from tlc_jax.files.video import VideoError, VideoWriter, read_video
from tlc_jax.inference.clips import restore_clip
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.ops.pixels import from_float, to_float, to_gray


def restore_video(
    model: Network,
    params: Params,
    source: Path,
    target: Path,
    reference: Path | None,
    chunk: int,
    overlap: int,
) -> None:
    """Restore a video file, with its times and its sound, and tell of it.

    Raises:
      VideoError, UserError: it cannot be read or written, or has too few frames; and at the end, if
        parts of it were damaged.
    """
    if reference is not None:
        raise UserError(f"{source}: --reference is for pictures; leave it out.")
    video = read_video(source)
    gray = model.inp_channels == 1
    times: deque[Fraction] = deque()

    def frames() -> Iterator[np.ndarray]:
        for at, pixels in video:
            times.append(at)
            yield to_float(to_gray(pixels) if gray else pixels)

    target.parent.mkdir(parents=True, exist_ok=True)
    start, count = time.perf_counter(), 0
    with VideoWriter(target, video) as writer, _progress(source, video.frames) as show:
        for restored in _restored(model, params, frames(), source, chunk, overlap):
            writer.write(times.popleft(), np.repeat(restored, 3, axis=-1) if gray else restored)
            count += 1
            show(count)
    height, width, _ = video.shape
    sound = "its sound" if writer.has_audio else "no sound"
    console.print(
        f"{source} -> {target}: {_pace(count, width, height, start)}, {float(video.rate):.5g} "
        f"frames/s when played, {sound}"
    )
    for note in (*writer.notes, *(["colours converted to gray"] if gray else [])):
        console.print(f"  {note}")
    if video.damaged:
        places = ", ".join(f"{at:.2f} s" for at in video.damaged[:5])
        more = f" and {len(video.damaged) - 5} more" if len(video.damaged) > 5 else ""
        raise UserError(
            f"{source}: damaged at {places}{more}; frames are missing or marred there in {target}, "
            "the others are restored."
        )


def restore_frames(
    model: Network,
    params: Params,
    sources: Sequence[Path],
    targets: Sequence[Path],
    reference: Path | None,
    chunk: int,
    overlap: int,
) -> None:
    """Restore the frames of a clip, each written as soon as it is done, and tell of it.

    Raises:
      ImageError, UserError: a frame cannot be written, frames differ in size or are too few; and
        at the end, if some could not be read.
    """
    folder = sources[0].parent
    reading: deque[tuple[Path, Picture, Path]] = deque()
    lost: list[Path] = []
    sizes: dict[tuple[int, int], Path] = {}
    notes: dict[str, None] = {}  # each one once, in their order
    before: list[float] = []
    after: list[float] = []

    def frames() -> Iterator[np.ndarray]:
        for source, target in zip(sources, targets, strict=True):
            try:
                picture = read_picture(source, channels=model.inp_channels)
            except ImageError as error:
                lost.append(source)
                complain(error)
                continue
            h, w, _ = picture.pixels.shape
            sizes.setdefault((h, w), source)
            if len(sizes) > 1:
                (height, width), first = next(iter(sizes.items()))
                raise UserError(
                    f"{source}: is {w}x{h}, but {first.name} is {width}x{height}; the frames of a "
                    "clip are of one size."
                )
            notes.update(dict.fromkeys(picture.notes))
            reading.append((source, picture, target))
            yield to_float(picture.pixels)

    start, count, width, height = time.perf_counter(), 0, 0, 0
    with _progress(folder, len(sources)) as show:
        for restored in _restored(model, params, frames(), folder, chunk, overlap):
            source, picture, target = reading.popleft()
            if reference is not None:
                truth = read_truth(reference, source, restored.shape)
                before.append(float(metrics.psnr(picture.pixels, truth)))
                after.append(float(metrics.psnr(restored, truth)))
            target.parent.mkdir(parents=True, exist_ok=True)
            written = from_float(restored, picture.pixels.dtype)
            write_restored(target, written, picture)
            count, (height, width, _) = count + 1, restored.shape
            show(count)
    console.print(f"{folder} -> {targets[0].parent}: {_pace(count, width, height, start)}")
    for note in notes:
        console.print(f"  {note}")
    if after:
        console.print(f"  PSNR {np.mean(before):.3f} -> {np.mean(after):.3f} dB, mean over frames")
    if lost:
        raise UserError(
            f"{folder}: {len(lost)} of {len(sources)} frames cannot be read, {lost[0].name} first; "
            "the others are restored as if those were not there."
        )


def _restored(
    model: Network,
    params: Params,
    frames: Iterator[np.ndarray],
    source: Path,
    chunk: int,
    overlap: int,
) -> Iterator[np.ndarray]:
    """As `restore_clip`, with the errors that are the user's as sentences about `source`."""
    try:
        for restored in restore_clip(model, params, frames, chunk=chunk, overlap=overlap):
            check_finite(source, restored)
            yield restored
    except (UserError, ImageError, VideoError):
        raise
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None


@contextlib.contextmanager
def _progress(source: Path, total: int | None) -> Iterator:
    with console.status(Text(f"{source}: compiling")) as status:
        of = "" if total is None else f" of {total}"
        yield lambda count: status.update(Text(f"{source}: frame {count}{of}"))


def _pace(count: int, width: int, height: int, start: float) -> str:
    seconds = time.perf_counter() - start
    return f"{count} frames of {width}x{height} in {seconds:.1f} s with compiling"
