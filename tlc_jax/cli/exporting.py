"""`tlc-jax export`: a checkpoint as one file for other runtimes."""

import re
from pathlib import Path
from typing import Annotated, Literal

import jax
import typer

from tlc_jax.cli import common
from tlc_jax.cli.common import UserError, console, say
from tlc_jax.files import checkpoints
from tlc_jax.files.atomic import write_atomically
from tlc_jax.files.limits import TooLargeError, check_pixels
from tlc_jax.inference.exported import PLATFORMS, Format

FORMATS: dict[str, Format] = {".onnx": "onnx", ".stablehlo": "stablehlo"}


def export(
    checkpoint: Annotated[
        str, typer.Argument(help="A folder, an installed one's name, or 'denoise' or 'deblur'.")
    ],
    output: Annotated[Path, typer.Argument(help="The file to write, an .onnx or a .stablehlo.")],
    size: Annotated[
        str, typer.Option(metavar="WxH", help="Of the pictures that it will restore, in pixels.")
    ],
    batch: Annotated[
        int | None, typer.Option(min=1, help="Pictures at a time; 0 leaves it open [1].")
    ] = 1,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Take any number of pictures at a time.")
    ] = False,
    mode: Annotated[
        Literal["local", "global"], typer.Option(help="Statistics of windows (TLC), or of all.")
    ] = "local",
    window: common.WindowSide = None,
    dtype: common.ComputeIn = "float32",
    precision: common.Products = None,
    settings: common.Settings = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file, if there is one.")
    ] = False,
) -> None:
    """Write a network with its weights as one program, for servers and other runtimes.

    An .onnx runs in ONNX Runtime, OpenVINO and others; a .stablehlo is what jax.export makes, for
    CPUs, GPUs and TPUs. It is for pictures of one size, from which the windows of TLC follow.
    """
    kind = FORMATS.get(output.suffix.lower())
    if kind is None:
        raise UserError(f"{output}: the name says the format; let it end with .onnx or .stablehlo.")
    if output.exists() and not overwrite:
        raise UserError(f"{output}: exists already; --overwrite replaces it.")
    common.check_writable(output.parent)
