"""`tlc-jax export`: a checkpoint as one file for other runtimes."""

from pathlib import Path
from typing import Annotated, Literal

import jax
import typer

from tlc_jax.cli import common
from tlc_jax.cli.common import UserError, console, parse_size, say
from tlc_jax.files import checkpoints
from tlc_jax.files.atomic import write_atomically
from tlc_jax.files.limits import PIXELS, TooLargeError, check_pixels, limit_pixels
from tlc_jax.inference import exported
from tlc_jax.inference.exported import PLATFORMS, Format

FORMATS: dict[str, Format] = {".onnx": "onnx", ".stablehlo": "stablehlo"}


def export(
    checkpoint: Annotated[
        str, typer.Argument(help="A folder, an installed one's name, or 'denoise' or 'deblur'.")
    ],
    output: Annotated[Path, typer.Argument(help="The file to write.")],
    size: Annotated[
        str, typer.Option(metavar="WxH", help="Of the pictures that it will restore, in pixels.")
    ],
    wanted: Annotated[
        Format | None,
        typer.Option("--format", help="Of the file [as its name ends: .onnx or .stablehlo]."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=2**16, help="Pictures at a time [1].")
    ] = None,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Take any number of pictures at a time.")
    ] = False,
    mode: Annotated[
        Literal["local", "global"], typer.Option(help="Statistics of windows (TLC), or of all.")
    ] = "local",
    window: common.WindowSide = None,
    dtype: common.ComputeIn = "float32",
    precision: common.Products = None,
    max_pixels: common.MaxPixels = PIXELS,
    settings: common.Settings = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file, if there is one.")
    ] = False,
) -> None:
    """Write a network with its weights as one program, for servers and other runtimes.

    An .onnx runs in ONNX Runtime, OpenVINO and others; a .stablehlo is what jax.export makes, for
    CPUs, GPUs and TPUs. It is for pictures of one size, from which the windows of TLC follow.
    """
    limit_pixels(max_pixels)
    told = FORMATS.get(output.suffix.lower())
    kind = wanted or told
    if told not in (None, kind):
        raise UserError(f"{output}: --format {kind} is not what the name says; change one of them.")
    if window is not None and mode == "global":
        raise UserError(f"--window {window}: is of --mode local; leave one of them out.")
    if kind is None:
        raise UserError(
            f"{output}: --format is onnx or stablehlo; name it, or let the file end with .onnx or "
            ".stablehlo."
        )
    if output.exists() and not overwrite:
        raise UserError(f"{output}: exists already; --overwrite replaces it.")
    common.check_writable(output.parent)
    if dynamic_batch and batch is not None:
        raise UserError(
            f"--batch {batch}: --dynamic-batch takes any number; leave one of them out."
        )
    height, width = parse_size(size)
    try:
        check_pixels(width, height)
    except TooLargeError as error:
        raise UserError(f"--size {size}: {error}.") from None

    folder = common.find_checkpoint(checkpoint)
    model, shapes = common.open_network(folder, mode, window, dtype, settings)
    description = checkpoints.describe(folder)
    licence = description.get("weights_licence", "not recorded")
    about = {
        "checkpoint": checkpoints.network_name(folder),
        "weights_licence": licence,
        "source": description.get("source", "not recorded"),
        "params_sha256": description.get("params_sha256", "not recorded"),
    }
    params = checkpoints.load_params(folder, shapes)
    images = None if dynamic_batch else batch or 1
    try:
        with common.enough_memory(folder, "a smaller --size"), console.status(f"tracing {size}"):
            program = exported.export(
                model, params, (height, width), format=kind, batch=images, about=about
            )
    except ValueError as error:  # what this network cannot be
        raise UserError(f"{checkpoint}: {error}") from None
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise UserError(
            f"{output}: this needs onnx, which is not installed; pip install 'tlc-jax[onnx]'."
        ) from None
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, program)
    say(
        f"{checkpoint} -> {output}: {type(model).__name__} {mode} in {dtype} for {size}, "
        f"{images or 'any number'} at a time, {len(program) / 1e6:.1f} MB, licence of the "
        f"weights: {licence}"
    )
    if kind == "stablehlo":
        say(
            f"for {', '.join(PLATFORMS)}: JAX {jax.__version__} made it, and versions that are up "
            "to 6 months newer or 3 weeks older run it"
        )
