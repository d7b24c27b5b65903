"""`tlc-jax restore`: pictures, pairs of views and videos in, the same restored out."""

import itertools
import os
import re
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Literal

import typer

from tlc_jax import jobs
from tlc_jax.cli import common
from tlc_jax.cli.common import UserError, say
from tlc_jax.files.checkpoints import network_name
from tlc_jax.files.choosing import AUTO
from tlc_jax.files.limits import PIXELS, limit_pixels
from tlc_jax.inference.ways import Way, at_once, shifted, steps_of, tiled
from tlc_jax.jobs.planning import is_video
from tlc_jax.jobs.shards import parse_shard, share
from tlc_jax.layers import Network

SMALLEST = 64  # pixels of a part's side, of which networks still see something


def restore(
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="Pictures, videos, or folders of them.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder, or a file for one input.")
    ] = Path("restored"),
    task: Annotated[
        str | None,
        typer.Option(
            help="What to do, where there is no --checkpoint: denoise, deblur, low-light, derain, "
            "dehaze, or several with commas, one after the other; auto looks for noise and blur, "
            "and takes away what it finds [denoise]."
        ),
    ] = None,
    strength: Annotated[
        float, typer.Option(min=0, max=1, help="How much of it: 0 is the picture as it came.")
    ] = 1.0,
    quality: common.HowWell = None,
    checkpoint: common.Checkpoint = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Take the folders in a folder, too.")
    ] = False,
    quality_jpeg: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            help="Of JPEG, AVIF, HEIC and WebP [as the source, a JPEG at least 95].",
        ),
    ] = None,
    png_level: Annotated[
        int | None,
        typer.Option(
            min=0, max=9, help="Of PNG: 9 for the smallest files, 0 for the quickest [3]."
        ),
    ] = None,
    left: Annotated[
        Path | None, typer.Option(help="The left view of a pair, or a folder of them.")
    ] = None,
    right: Annotated[
        Path | None, typer.Option(help="The right view; in a folder by the same names.")
    ] = None,
    mode: Annotated[
        Literal["local", "global", "auto"],
        typer.Option(
            help="Statistics over windows (TLC), or all; auto is local, and global where local "
            "makes false colours."
        ),
    ] = "local",
    window: common.WindowSide = None,
    dtype: common.ComputeIn = "float32",
    precision: common.Products = None,
    reference: Annotated[
        Path | None, typer.Option(help="The ground truth, or a folder of it by the same names.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Put a sheet beside each picture: input, global, local, difference."
        ),
    ] = False,
    tiles: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**31 - 1,
            help="Restore in parts of this side, in pixels, to save memory; they overlap. 0 never "
            "does [what fits in memory].",
        ),
    ] = None,
    shifts: Annotated[
        int,
        typer.Option(
            min=1,
            max=64**2,  # of which no two need be the same
            help="Average so many results, of the picture at other places against the blocks that "
            "MAXIM works in; it takes as many times as long.",
        ),
    ] = 1,
    chunk: Annotated[
        int, typer.Option(min=1, help="Frames that a network for video restores at a time.")
    ] = 10,
    overlap: Annotated[
        int, typer.Option(min=0, help="Frames beyond them that it looks at, too; more is better.")
    ] = 5,
    waste: Annotated[
        float,
        typer.Option(
            min=0,
            help="Pixels that may be added, as a share, for pictures of several sizes to share a "
            "compiled program. 0 compiles for each size.",
        ),
    ] = 0.25,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Do one of N parts of the work, for N machines; I goes from 0 to N-1. With auto "
            "SLURM tells which, with auto/N Kubernetes.",
        ),
    ] = None,
    devices: common.Devices = "1",
    split: Annotated[
        str,
        typer.Option(
            metavar="N",
            help="Divide each picture over devices of this machine, or all: what is too large for "
            "one fits, and is done sooner.",
        ),
    ] = "1",
    max_pixels: common.MaxPixels = PIXELS,
    settings: common.Settings = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Redo what is done; what is unfinished always is.")
    ] = False,
) -> None:
    """Restore pictures, pairs of views, and videos.

    In a folder photo.jpg becomes photo.denoise.jpg: in the format of the source, with its depth
    and what it says of camera, place and colours. A video stays one, with its sound. For a network
    for video a folder is a clip, whose frames are in the order of their names.
    """
    limit_pixels(max_pixels)
    if reference is not None and not reference.exists():
        raise UserError(f"--reference {reference}: no such file or folder.")
    for path in inputs or ():  # before JAX is at work
        if not path.exists():
            raise UserError(f"cannot read {path}: no such file or folder.")
    part = None if shard is None else parse_shard(shard, os.environ)
    sharing, dividing = common.parse_devices(devices), common.parse_devices(split, "--split")
    if sharing > 1 and dividing > 1:
        raise UserError("--devices shares pictures out and --split divides each; choose one.")
    folders = common.choose_checkpoints(checkpoint, task, quality)
    opened = [common.open_network(folder, mode, window, dtype, settings) for folder in folders]
    models = [model for model, _ in opened]
    _check_order(models)
    _check_tiles(models, tiles)
    for model in models:
        if dividing > 1 and not model.divides:
            raise UserError(
                f"--split {split}: {type(model).__name__} cannot be divided; leave it out."
            )
    changed = {
        mode: mode != "local",
        f"window{window}": window is not None,
        dtype: dtype != "float32",
        f"{precision}-precision": precision is not None,
        f"tiles{tiles}": tiles is not None,
        f"shifts{shifts}": shifts > 1,
        f"strength{strength:g}": strength != 1,
        f"quality{quality_jpeg}": quality_jpeg is not None,
        **{
            re.sub(r"[^a-z0-9]+", "-", setting.lower()).strip("-"): True
            for setting in settings or ()
        },
    }
    names = [AUTO] if task == AUTO else map(network_name, folders)
    label = "-".join([*names, *(option for option, is_so in changed.items() if is_so)])
    planned = jobs.plan(
        models[0], inputs or [], output,
        label=label, recursive=recursive, left=left, right=right, compare=compare,
        watch=say,
    )  # fmt: skip
    of_pictures = {
        "--compare": compare,
        "--mode auto": mode == "auto",
        "--shifts": shifts > 1,
        "--tiles": tiles is not None,
        "--split": dividing > 1,
        "--strength": strength != 1,
        f"--task {task}": len(models) > 1,
    }
    if option := next((option for option, given in of_pictures.items() if given), None):
        _only_pictures(models[0], planned, option)
    if part is not None:
        mine = share(planned, part)
        say(f"shard {part}: {len(mine)} of the {len(planned)} to restore")
        planned = mine
    todo = _unfinished(planned, overwrite)
    for folder in {target.parent for job in todo for target in job.targets}:
        common.check_writable(folder)
    if not todo:
        return
    networks = [
        (model, common.load_params(folder, model, shapes, mode, dtype))
        for folder, (model, shapes) in zip(folders, opened, strict=True)
    ]
    with_buckets = (
        waste
        and (shifts, dividing) == (1, 1)
        and not tiles
        and all(model.has_buckets for model in models)
    )
    options = jobs.Options(
        reference=reference,
        auto=task == AUTO,
        strength=strength,
        guard=mode == "auto",
        way=_way(tiles, shifts),
        fit=tiles is None and shifts == 1,
        quality=quality_jpeg,
        png_level=png_level,
        chunk=chunk,
        overlap=overlap,
        overwrite=overwrite,
        devices=sharing,
        split=dividing,
        complain=common.complain,
    )
    summary = jobs.Summary()
    remedy = "a smaller --chunk" if models[0].takes == "clips" else "cut the picture"
    remedy = f"--dtype bfloat16{', --waste 0' if with_buckets else ''} or {remedy}"

    def work(watch: common.Watch) -> Iterable[tuple[jobs.Job, Future]]:
        return jobs.run_all(
            todo, networks, options,
            waste=waste if with_buckets else 0.0,
            watch=lambda job, words: watch(words, of=f"{job.name}: "),
        )  # fmt: skip

    all_done = common.each(len(todo), work, lambda job, came: _tell(job, came, summary, remedy))
    if todo[1:]:
        say(str(summary))
    if not all_done:
        raise typer.Exit(2)


def _way(tiles: int | None, shifts: int) -> Way:
    """How pictures are restored: at once, in tiles, shifted, or shifted in tiles."""
    if not tiles:
        return shifted(shifts) if shifts > 1 else at_once
    return tiled(tiles) if shifts == 1 else lambda run: shifted(shifts)(tiled(tiles)(run))


def _check_tiles(models: list[Network], tiles: int | None) -> None:
    """Refuse tiles that are too small for the networks to see anything."""
    least = max(SMALLEST, *(2 * step for model in models for step in steps_of(model)))
    if tiles and tiles < least:
        raise UserError(f"--tiles {tiles}: parts have {least} pixels a side or more; 0 never cuts.")


def _check_order(models: list[Network]) -> None:
    """Refuse networks that do not take what the one before them makes."""
    for model, after in itertools.pairwise(models):
        if after.takes != "pictures" or after.inp_channels != model.out_channels:
            raise UserError(
                f"{type(after).__name__} does not take what {type(model).__name__} makes; name one "
                "--task."
            )


def _tell(job: jobs.Job, future: Future, summary: jobs.Summary, remedy: str) -> None:
    """Tell what came of a job."""
    try:
        with common.enough_memory(job.sources[0], remedy):
            outcome = future.result()
    except common.ERRORS as error:
        summary.add(job, error)
        raise
    summary.add(job, outcome)
    say(f"{job.name} -> {', '.join(map(str, outcome.written))}: {outcome.facts}")
    for note in outcome.notes:
        say(f"  {note}")
    if outcome.problem:
        raise UserError(outcome.problem)


def _unfinished(planned: list[jobs.Job], overwrite: bool) -> list[jobs.Job]:
    """The jobs whose outputs are not all there, and whole; tells of the others."""
    todo = [job for job in planned if overwrite or not job.is_done]
    if len(todo) < len(planned):
        first = next(job for job in planned if job not in todo).targets[0]
        say(
            f"{len(planned) - len(todo)} of {len(planned)} are there already, {first} first; "
            "--overwrite redoes them"
        )
    return todo


def _only_pictures(model: Network, planned: list[jobs.Job], option: str) -> None:
    video = next((job.sources[0] for job in planned if is_video(job.sources[0])), None)
    if video is not None:
        raise UserError(f"{video}: {option} is for pictures; leave it out.")
    if model.takes != "pictures":
        raise UserError(
            f"{option}: {type(model).__name__} does not restore single pictures; leave it out."
        )
