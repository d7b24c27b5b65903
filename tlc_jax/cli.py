"""The command line: `tlc-jax restore`, `tlc-jax info`, `tlc-jax convert`."""

import dataclasses
import enum
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.text import Text

from tlc_jax import checkpoints, metrics
from tlc_jax.image import ImageError, Picture, from_float, read_picture, to_float, write_image
from tlc_jax.models import Params
from tlc_jax.restore import restore as restore_array
from tlc_jax.restore import sites, warm_up

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

# Linen's own fields, and those that are options here.
NOT_TO_SET = {"parent", "name", "local_mode", "window", "dtype"}

app = typer.Typer(
    help="Restore photographs with JAX networks, with local statistics (TLC) or global ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# Names of files may look like its markup.
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


class UserError(ValueError):
    """What was asked for cannot be done; the message is the sentence to print."""


class Mode(enum.StrEnum):
    """Where the network's statistics come from."""

    LOCAL = "local"
    GLOBAL = "global"


class Dtype(enum.StrEnum):
    """The type to compute in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="A field of the network; can be repeated."),
]


@app.command("restore")
def restore_command(
    inputs: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder, or a .png for one picture.")
    ],
    checkpoint: Annotated[Path, typer.Option(help="A folder that 'tlc-jax convert' wrote.")],
    mode: Annotated[Mode, typer.Option(help="Statistics over windows (TLC), or all.")] = Mode.LOCAL,
    window: Annotated[
        int | None, typer.Option(min=1, help="Side of the window [1.5 x the training crops].")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="The type to compute in.")] = Dtype.FLOAT32,
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
    _check_writable(jobs[0][1].parent)
    model, params = checkpoints.load(checkpoint)
    model = _with_settings(model, settings)
    if model.inp_channels not in (1, 3):
        raise UserError(
            f"{checkpoint}: the network takes {model.inp_channels} channels (two views), a picture "
            "has 3; choose a network for single pictures."
        )
    model = model.clone(
        local_mode=mode is Mode.LOCAL,
        window=None if window is None else (window, window),
        dtype=jnp.bfloat16 if dtype is Dtype.BFLOAT16 else None,
    )
    licence = checkpoints.describe(checkpoint).get("weights_licence", "not recorded")
    console.print(
        f"{type(model).__name__} {mode} in {dtype} on {jax.default_backend()}, "
        f"licence of the weights: {licence}"
    )
    failed = False
    for source, target in track(
        jobs, "", console=console, transient=True, disable=len(jobs) < 2 or not console.is_terminal
    ):
        try:
            console.print(_restore_file(model, params, source, target, reference))
        except (ImageError, UserError) as error:
            failed = True
            _complain(error)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            failed = True
            _complain(f"{source}: not enough memory; try --dtype bfloat16 or cut the picture.")
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


@app.command()
def info(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that 'tlc-jax convert' wrote.")],
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="List the windows for pictures of this size.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Side of the window [1.5 x the training crops].")
    ] = None,
    settings: Settings = None,
) -> None:
    """Describe a checkpoint, and the window in force at every site of TLC."""
    height_width = re.fullmatch(r"(\d+)x(\d+)", size or "1x1")
    if height_width is None or "0" in height_width.groups():
        raise UserError(f"--size {size}: give height x width in pixels, as in --size 720x1280.")
    description = checkpoints.describe(checkpoint)
    config = description.pop("config")
    for name, value in (description | config).items():
        console.print(f"{name:22}{value}")
    if size is None:
        return
    model, _ = checkpoints.load_abstract(checkpoint)
    model = _with_settings(model, settings)
    model = model.clone(local_mode=True, window=None if window is None else (window, window))
    # No table of rich's: it would cut the names to the width of the terminal.
    line = "{:12}{:12}{:12}{}".format
    console.print(line("statistics", "map", "window", "site"))
    height, width = map(int, height_width.groups())
    for name, kind, (h, w), (k_h, k_w) in sites(model, (height, width)):
        console.print(line(kind, f"{h}x{w}", f"{k_h}x{k_w}", name))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A published .pth, .pt, .safetensors or .npz.")],
    destination: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    settings: Settings = None,
) -> None:
    """Convert published weights into a checkpoint folder."""
    from checkpoints_convert import convert_file  # the converter builds on this package

    convert_file(source, destination, **_parse(settings))
    description = checkpoints.describe(destination)
    console.print(
        f"{source} -> {destination}: {description['network']}, "
        f"{description['parameters']:,} parameters, licence of the weights: "
        f"{description['weights_licence']}; assumed, as shapes cannot tell: "
        f"{', '.join(description['assumed']) or 'nothing'}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of the user end it with one sentence and exit code 2."""
    from checkpoints_convert import ConversionError

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "tlc-jax"))
    try:
        app(arguments)
    except (UserError, ImageError, checkpoints.CheckpointError, ConversionError) as error:
        _complain(error)
        sys.exit(2)


def _complain(error: Exception | str) -> None:
    print(f"tlc-jax: {error}", file=sys.stderr)


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


def _check_writable(folder: Path) -> None:
    """Refuse before the work what would fail after it; the folder is made when it is needed."""
    present = next(path for path in (folder, *folder.parents) if path.exists())
    if not present.is_dir() or not os.access(present, os.W_OK):
        raise UserError(f"{present}: not a folder that can be written to; choose another output.")


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


def _parse(settings: Sequence[str] | None) -> dict[str, Any]:
    """FIELD=VALUE pairs; values are JSON, lists become tuples and anything else is text."""
    parsed: dict[str, Any] = {}
    for setting in settings or ():
        name, separator, text = setting.partition("=")
        if not separator:
            raise UserError(
                f"--set {setting}: write FIELD=VALUE, as in --set 'train_size=[256,256]'."
            )
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        parsed[name] = tuple(value) if isinstance(value, list) else value
    return parsed


def _with_settings(model: nn.Module, settings: Sequence[str] | None) -> nn.Module:
    """The network with fields changed that do not change its parameters."""
    wanted = _parse(settings)
    if not wanted:
        return model
    fields = {field.name for field in dataclasses.fields(model)} - NOT_TO_SET
    if unknown := wanted.keys() - fields:
        raise UserError(
            f"--set {', '.join(sorted(unknown))}: the fields of {type(model).__name__} are "
            f"{', '.join(sorted(fields))}; --mode, --window and --dtype are options of their own."
        )
    _check_types(model, wanted)
    try:
        changed = model.clone(**wanted)
        local = changed.clone(local_mode=True)  # which looks at train_size, too
        same = checkpoints.abstract_params(local) == checkpoints.abstract_params(model)
    except Exception as error:  # whatever a network raises for sizes that it cannot have
        raise UserError(f"--set {' --set '.join(settings or ())}: {error}") from None
    if not same:
        raise UserError(
            f"--set {' --set '.join(settings or ())}: this makes another network, which the "
            "weights do not fit; only fields without parameters can be set."
        )
    return changed


def _check_types(model: nn.Module, wanted: dict[str, Any]) -> None:
    """Refuse values of another type than the field's: a text "False" would count as true."""
    for name, value in wanted.items():
        present = getattr(model, name)
        if type(value) is not type(present):
            raise UserError(
                f"--set {name}={value}: write a value like the present one, "
                f"{name}={json.dumps(present)}."
            )
