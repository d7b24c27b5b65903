"""One picture, or the two views of a pair, restored from file to file."""

import functools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.text import Text

from tlc_jax.cli.common import UserError, console
from tlc_jax.evaluation import metrics
from tlc_jax.evaluation.sheets import comparison
from tlc_jax.files.datasets import PICTURES
from tlc_jax.files.pictures import check_finite as check_finite
from tlc_jax.files.pictures import read_picture, write_image, write_restored
from tlc_jax.inference.guard import restore_guarded
from tlc_jax.inference.ways import at_once, restore, shifted, warm_up
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params
from tlc_jax.ops.pixels import from_float, to_float


def restore_picture(
    model: Network,
    params: Params,
    sources: Sequence[Path],
    targets: Sequence[Path],
    reference: Path | None = None,
    buckets: dict[tuple[int, int], tuple[int, int]] | None = None,
    *,
    guarded: bool = False,
    shifts: int = 1,
    sheet: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Restore a picture, or a pair into one picture or two, and tell of it.

    Args:
      model, params: the network.
      sources: the picture, or the left and the right view.
      targets: .png files.
      reference: the true picture, or a folder of them by the names of the sources; for two targets
        with subfolders `left` and `right`.
      buckets: those of the sizes that share one.
      guarded: restored with global statistics where the local ones fail.
      shifts: how many places against the network's blocks are averaged.
      sheet: a .png file for what compares both modes.
      overwrite: replace the targets that are there; else only what is not there is written.

    Raises:
      ImageError, UserError: a file cannot be read or written, or sizes differ.
    """
    source, channels = sources[0], model.inp_channels // len(sources)
    pictures = [read_picture(path, channels=channels) for path in sources]
    height, width, _ = pictures[0].pixels.shape
    for path, picture in zip(sources, pictures, strict=True):
        h, w, _ = picture.pixels.shape
        if (h, w) != (height, width):
            raise UserError(
                f"{path}: is {w}x{h}, but {source} is {width}x{height}; the views of a pair are of "
                "one size."
            )
    pixels = np.concatenate([to_float(picture.pixels) for picture in pictures], axis=-1)
    scale = model.scale
    truth = None
    if reference is not None:
        views = sources[: len(targets)]
        truth = _truth(reference, views, (height * scale, width * scale, channels))

    bucket = (buckets or {}).get((height, width))
    way = shifted(shifts) if shifts > 1 else at_once
    run = functools.partial(restore, way=way, bucket=bucket)
    start = time.perf_counter()
    with console.status(Text(f"{source}: compiling")):
        warm_up(model, params, pixels, way=way, bucket=bucket)
    compiled = time.perf_counter()
    with console.status(Text(f"{source}: restoring")):
        if guarded:
            restored, mode = restore_guarded(model, params, pixels, bucket=bucket)
        else:
            restored = run(model, params, pixels)
            mode = "local" if model.local_mode else "global"
    done = time.perf_counter()
    check_finite(source, restored)
    written = from_float(restored, np.result_type(*(picture.pixels for picture in pictures)))
    outputs = []
    for target, part, picture in zip(
        targets, np.split(written, len(targets), axis=-1), pictures, strict=False
    ):
        if overwrite or not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_restored(target, part, picture)
            outputs.append(target)
    if sheet is not None:
        other = "global" if mode == "local" else "local"
        with console.status(Text(f"{source}: restoring in {other} mode")):
            compared = run(model.clone(local_mode=other == "local"), params, pixels)
        check_finite(f"{source} in {other} mode", compared)
        globally, locally = (compared, restored) if mode == "local" else (restored, compared)
        write_image(sheet, comparison(pixels, globally, locally))
        outputs.append(sheet)

    size = f"{width}x{height}" + (f" to {width * scale}x{height * scale}" if scale > 1 else "")
    if bucket:
        size += f" in {bucket[1]}x{bucket[0]}"
    console.print(
        f"{', '.join(map(str, sources))} -> {', '.join(map(str, outputs))}: {size}, compiled in "
        f"{compiled - start:.1f} s, ran in {done - compiled:.1f} s"
    )
    if guarded and mode == "global" and targets[0] in outputs:
        console.print("  local statistics make false colours here, so these are global ones")
    for note in dict.fromkeys(note for picture in pictures for note in picture.notes):
        console.print(f"  {note}")
    if scale > 1 and any(picture.alpha is not None for picture in pictures):
        console.print("  alpha left out")
    if truth is not None:
        before = pixels if pixels.shape == truth.shape else None
        console.print(f"  {_compare(before, restored, to_float(written), truth)}")


def read_truth(reference: Path, source: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The true picture of what a source becomes, (H, W, C) floats; of a folder that of its name."""
    if reference.is_dir():
        matches = sorted(
            file
            for file in reference.iterdir()
            if file.stem == source.stem and file.suffix.lower() in PICTURES
        )
        if not matches:
            raise UserError(f"{source}: no picture of the same name in {reference}.")
        reference = matches[0]
    truth = to_float(read_picture(reference, channels=shape[2]).pixels)
    if truth.shape != shape:
        (h, w, _), (height, width, _) = shape, truth.shape
        raise UserError(f"{reference}: is {width}x{height}, but {source} becomes {w}x{h}.")
    return truth


def _truth(reference: Path, views: Sequence[Path], shape: tuple[int, ...]) -> np.ndarray:
    if len(views) == 1:
        return read_truth(reference, views[0], shape)
    folders = [reference / side for side in ("left", "right")]
    if not all(map(Path.is_dir, folders)):
        raise UserError(f"{reference}: for pairs give a folder with left/ and right/ in it.")
    truths = [read_truth(*view, shape) for view in zip(folders, views, strict=True)]
    return np.concatenate(truths, axis=-1)


def _compare(
    before: np.ndarray | None, restored: np.ndarray, written: np.ndarray, truth: np.ndarray
) -> str:
    """PSNR and SSIM, from those of the input where that is of the same size."""
    images = [image for image in (before, restored) if image is not None]
    psnr = " -> ".join(f"{float(metrics.psnr(image, truth)):.3f}" for image in images)
    text = f"PSNR {psnr} dB ({float(metrics.psnr(written, truth)):.3f} as written)"
    if min(truth.shape[:2]) >= metrics.TAPS:
        ssim = " -> ".join(f"{float(metrics.ssim(image, truth)):.4f}" for image in images)
        text += f", SSIM per channel {ssim}"
    return text
