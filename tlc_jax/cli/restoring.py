"""`tlc-jax restore`: pictures in, restored pictures out."""

import time
from pathlib import Path
from typing import Annotated, Any

import flax.linen as nn
import numpy as np
import typer
from rich.progress import track
from rich.text import Text

from tlc_jax import metrics
from tlc_jax.cli.common import (
    Checkpoint,
    ComputeIn,
    Dtype,
    Mode,
    Settings,
    UserError,
    WindowSide,
    check_writable,
    complain,
    console,
    enough_memory,
    load_network,
)
from tlc_jax.image import ImageError, Picture, from_float, read_picture, to_float, write_image
from tlc_jax.models import Params
from tlc_jax.restore import restore as restore_array
from tlc_jax.restore import warm_up

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def restore(
    inputs: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder, or a .png for one picture.")
    ],
    checkpoint: Checkpoint,
    mode: Annotated[Mode, typer.Option(help="Statistics over windows (TLC), or all.")] = Mode.LOCAL,
    window: WindowSide = None,
    dtype: ComputeIn = Dtype.FLOAT32,
    reference: Annotated[
        Path | None, typer.Option(help="The true picture, or a folder of them by the same names.")
    ] = None,
    settings: Settings = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace old outputs.")] = False,
) -> None:
    """Restore pictures; they are written as PNG, with 8 or 16 bits as they came."""
    jobs = _jobs(inputs, output, overwrite)
    if not jobs:
        return
    check_writable(jobs[0][1].parent)
    model, params = load_network(checkpoint, mode, window, dtype, settings)
    if model.inp_channels not in (1, 3):
        raise UserError(
            f"{checkpoint}: the network takes {model.inp_channels} channels (two views), a picture "
            "has 3; choose a network for single pictures."
        )
    failed = False
    for source, target in track(
        jobs, "", console=console, transient=True, disable=len(jobs) < 2 or not console.is_terminal
    ):
        try:
            with enough_memory(source):
                console.print(_restore_file(model, params, source, target, reference))
        except (ImageError, UserError) as error:
            failed = True
            complain(error)
    if failed:
        raise typer.Exit(2)


def _restore_file(
    model: nn.Module, params: Params, source: Path, target: Path, reference: Path | None
) -> str:
    """Restore one file; returns what to tell of it."""
    picture = read_picture(source, channels=model.inp_channels)
    truth = None if reference is None else _reference(reference, source, picture)
    pixels = to_float(picture.pixels)
    start = time.perf_counter()
    with console.status(Text(f"{source}: compiling")):
        warm_up(model, params, pixels)
    compiled = time.perf_counter()
    with console.status(Text(f"{source}: restoring")):
        restored = restore_array(model, params, pixels)
    done = time.perf_counter()
    if not np.isfinite(restored).all():
        raise UserError(
            f"{source}: the restored picture holds NaN or infinite numbers; convert the weights "
            "again, and compute in float32."
        )
    written = from_float(restored, picture.pixels.dtype)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_image(target, written, alpha=picture.alpha, icc_profile=picture.icc_profile)

    height, width, _ = pixels.shape
    lines = [
        f"{source} -> {target}: {width}x{height}, compiled in {compiled - start:.1f} s, "
        f"ran in {done - compiled:.1f} s",
        *(f"  {note}" for note in picture.notes),
    ]
    if truth is not None:
        before, after, as_written = (
            float(metrics.psnr(image, truth)) for image in (pixels, restored, to_float(written))
        )
        lines.append(f"  PSNR {before:.3f} -> {after:.3f} dB ({as_written:.3f} as written)")
        if min(height, width) >= metrics.TAPS:
            before, after = (float(metrics.ssim(image, truth)) for image in (pixels, restored))
            lines[-1] += f", SSIM per channel {before:.4f} -> {after:.4f}"
    return "\n".join(lines)


def _jobs(inputs: list[Path], output: Path, overwrite: bool) -> list[tuple[Path, Path]]:
    """What to restore and where to write it, without the outputs that exist already."""
    sources: list[Path] = []
    for path in inputs:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
            if not inside:
                raise UserError(f"{path}: no pictures in this folder ({', '.join(PICTURES)}).")
            sources += inside
        else:
            sources.append(path)
    if output.suffix and not output.is_dir():
        if output.suffix.lower() != ".png" or len(sources) > 1:
            raise UserError(
                f"{output}: outputs are PNG; name a folder, or for one picture a .png file."
            )
        jobs = [(sources[0], output)]
    else:
        jobs = [(source, output / f"{source.stem}.png") for source in sources]
    by_target: dict[Path, Path] = {}
    for source, target in jobs:
        if target in by_target:
            raise UserError(
                f"{source} and {by_target[target]} would both be written to {target}; rename one "
                "or restore them into two folders."
            )
        if target.resolve() == source.resolve():
            raise UserError(f"{target}: this would replace its own input; choose another output.")
        by_target[target] = source
    if overwrite:
        return jobs
    kept = [target for _, target in jobs if target.exists()]
    if kept:
        console.print(
            f"{len(kept)} outputs exist already, {kept[0]} first; --overwrite redoes them"
        )
    return [(source, target) for source, target in jobs if not target.exists()]


def _reference(reference: Path, source: Path, picture: Picture) -> Any:
    """The true picture of a source, at the same size."""
    if reference.is_dir():
        matches = sorted(
            file
            for file in reference.iterdir()
            if file.stem == source.stem and file.suffix.lower() in PICTURES
        )
        if not matches:
            raise UserError(f"{source}: no picture of the same name in {reference}.")
        reference = matches[0]
    truth = to_float(read_picture(reference, channels=picture.pixels.shape[2]).pixels)
    if truth.shape != picture.pixels.shape:
        (h, w, _), (height, width, _) = picture.pixels.shape, truth.shape
        raise UserError(f"{reference}: is {width}x{height}, but {source} is {w}x{h}.")
    return truth
