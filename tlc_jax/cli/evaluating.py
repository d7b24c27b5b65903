"""`tlc-jax evaluate`: pictures and their ground truth in, PSNR and SSIM of several modes out."""

import importlib.metadata
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from tlc_jax.cli import common
from tlc_jax.cli.common import UserError, say
from tlc_jax.evaluation import evaluating as evaluation
from tlc_jax.evaluation import reports
from tlc_jax.evaluation.metrics import Protocol
from tlc_jax.files import checkpoints
from tlc_jax.files import datasets as data
from tlc_jax.files.limits import PIXELS, limit_pixels
from tlc_jax.files.paths import real_path


def evaluate(
    inputs: Annotated[
        Path | None, typer.Option("--input", help="A folder, LMDB folder or .mat of pictures.")
    ] = None,
    targets: Annotated[
        Path | None, typer.Option("--target", help="The ground truth by the same names, likewise.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option("--data", help="Instead of both: GoPro, HIDE, REDS or SIDD as distributed."),
    ] = None,
    task: common.ToDo = None,
    quality: common.HowWell = None,
    checkpoint: common.Checkpoint = None,
    mode: Annotated[
        str, typer.Option(help="Of local, global and tiles:SIZE/OVERLAP, with commas.")
    ] = "local,global",
    protocol: Annotated[
        Protocol, typer.Option(help="RGB after rounding to 8 bits, their luma, or RGB not rounded.")
    ] = Protocol.RGB,
    report: Annotated[
        Path | None, typer.Option(help="A .json that is continued; .md and .png come beside it.")
    ] = None,
    window: common.WindowSide = None,
    dtype: common.ComputeIn = "float32",
    precision: common.Products = None,
    devices: common.Devices = "1",
    max_pixels: common.MaxPixels = PIXELS,
    settings: common.Settings = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin the report anew.")] = False,
) -> None:
    """Measure PSNR and SSIM on pictures whose ground truth is known."""
    limit_pixels(max_pixels)
    sharing = common.parse_devices(devices)
    checkpoint = common.choose_checkpoint(checkpoint, task, quality)
    modes = evaluation.parse_modes(mode)
    pairs, sources = _pairs(inputs, targets, root)
    if report is not None:
        _check_report(report, overwrite)
    description = checkpoints.describe(checkpoint)
    done = reports.open_report(
        {
            "checkpoint": real_path(checkpoint).name,
            **{key: description.get(key) for key in ("params_sha256", "network", "config")},
            "modes": modes,
            "protocol": protocol,
            "window": window,
            "dtype": dtype,
            "set": common.parse_settings(settings),
            **sources,
            "tlc_jax": importlib.metadata.version("tlc-jax"),
            "jax": jax.__version__,
            "device": f"{jax.default_backend()} ({jax.devices()[0].device_kind})",
            "matmul_precision": jax.config.values["jax_default_matmul_precision"],
        },
        None if overwrite else report,
    )
    model, shapes = common.open_network(checkpoint, mode, window, dtype, settings)
    if model.takes != "pictures":
        raise UserError(f"{checkpoint}: the network does not take single pictures; choose another.")
    if model.inp_channels == 1 and protocol is Protocol.Y:
        raise UserError(f"{checkpoint}: a gray network has no luma to take; use --protocol rgb.")

    pairs = pairs[:limit]
    done["pictures"] = len(pairs)
    todo = [pair for pair in pairs if pair.name not in done["images"]]
    if len(todo) < len(pairs):
        say(f"{report}: {len(pairs) - len(todo)} of {len(pairs)} pictures are done")
    params = common.load_params(checkpoint, model, shapes, mode, dtype) if todo else None

    def work(_: common.Watch) -> Iterator[tuple[data.Pair, Future]]:
        return evaluation.evaluate_all(model, params, todo, modes, protocol, devices=sharing)

    def tell(pair: data.Pair, came: Future) -> None:
        with common.enough_memory(Path(pair.name)):
            done["images"][pair.name] = came.result()
        if report is not None:
            reports.write_report(done, report)

    all_measured = common.each(len(todo), work, tell)
    if done["images"]:
        for line in f"{reports.table(done)}\n{reports.notes(done)}".splitlines():
            say(line)
        if report is not None:
            _illustrate(done, report)
    if not all_measured:
        raise typer.Exit(2)


def _pairs(
    inputs: Path | None, targets: Path | None, root: Path | None
) -> tuple[list[data.Pair], dict[str, str]]:
    """The pairs, and where they come from as the report's settings have it."""
    match inputs, targets, root:
        case Path(), Path(), None:
            if real_path(inputs) == real_path(targets):
                raise UserError(f"{inputs}: the input is the target; name two folders.")
            sources = {"input": str(real_path(inputs)), "target": str(real_path(targets))}
            return data.pairs(inputs, targets), sources
        case None, None, Path():
            return data.dataset(root), {"data": str(real_path(root))}
    raise UserError("name the pictures with --input and --target, or a data set with --data.")


def _check_report(report: Path, overwrite: bool) -> None:
    """Refuse before the work what could not be written after it, or would replace other files."""
    if report.suffix.lower() != ".json":
        raise UserError(f"{report}: a report is a .json file; name one.")
    common.check_writable(report.parent)
    beside = [report.with_suffix(suffix) for suffix in (".md", ".png")]
    if not overwrite and not report.exists() and (other := [x for x in beside if x.exists()]):
        raise UserError(f"{other[0]}: would be replaced; name another --report, or --overwrite.")


def _illustrate(done: dict[str, Any], report: Path) -> None:
    """The report for people, beside the one for programs."""
    try:
        report.with_suffix(".md").write_text(reports.markdown(done))
        reports.plot(done, report.with_suffix(".png"))
    except ImportError:
        say("no plot is made: matplotlib is missing, install the extra [plot]")
    except OSError as error:
        raise UserError(
            f"{report}: the .md and .png beside it cannot be written ({error.strerror}); mend that "
            "and run it again."
        ) from None
