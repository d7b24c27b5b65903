"""`tlc-jax restore`: pictures, pairs of views and videos in, the same restored out."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from tlc_jax import jobs
from tlc_jax.cli import common
from tlc_jax.cli.common import UserError, console
from tlc_jax.inference.ways import at_once, shifted
from tlc_jax.jobs.planning import buckets, is_video
from tlc_jax.layers import Network
from tlc_jax.layers.network import Params


def restore(
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="Pictures, videos, or folders of them.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder, or a file for one input.")
    ] = Path("restored"),
    task: common.ToDo = None,
    quality: common.HowWell = None,
    checkpoint: common.Checkpoint = None,
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
    reference: Annotated[
        Path | None, typer.Option(help="The ground truth, or a folder of it by the same names.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Put a sheet beside each picture: input, global, local, difference."
        ),
    ] = False,
    shifts: Annotated[
        int,
        typer.Option(
            min=1,
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
    settings: common.Settings = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Redo what is done; what is unfinished always is.")
    ] = False,
) -> None:
    """Restore pictures, pairs of views, and videos.

    Pictures become PNG files with 8 or 16 bits as they came. A video stays one, with its sound.
    For a network for video a folder is a clip, whose frames are in the order of their names.
    """
    checkpoint = common.choose_checkpoint(checkpoint, task, quality)
    model, shapes = common.open_network(checkpoint, mode, window, dtype, settings)
    planned = jobs.plan(
        model, inputs or [], output,
        left=left, right=right, compare=compare, watch=console.print,
    )  # fmt: skip
    of_pictures = {"--compare": compare, "--mode auto": mode == "auto", "--shifts": shifts > 1}
    if option := next((option for option, given in of_pictures.items() if given), None):
        _only_pictures(model, planned, option)
    todo = _unfinished(planned, overwrite)
    for folder in {target.parent for job in todo for target in job.targets}:
        common.check_writable(folder)
    if not todo:
        return
    params = common.load_params(checkpoint, model, shapes, mode, dtype)
    options = jobs.Options(
        reference=reference,
        guard=mode == "auto",
        way=shifted(shifts) if shifts > 1 else at_once,
        buckets=buckets(todo, waste) if waste and model.has_buckets and shifts == 1 else {},
        chunk=chunk,
        overlap=overlap,
        overwrite=overwrite,
        complain=common.complain,
    )
    if not common.each(todo, lambda job: _restore(job, model, params, options)):
        raise typer.Exit(2)


def _restore(job: jobs.Job, model: Network, params: Params, options: jobs.Options) -> None:
    """Do a job and tell of it."""
    remedy = "a smaller --chunk" if model.takes == "clips" else "cut the picture"
    remedy = f"--dtype bfloat16{', --waste 0' if options.buckets else ''} or {remedy}"
    with common.enough_memory(job.sources[0], remedy), console.status("") as status:
        outcome = jobs.run(
            job, model, params, options, lambda words: status.update(Text(f"{job.name}: {words}"))
        )
    console.print(f"{job.name} -> {', '.join(map(str, outcome.written))}: {outcome.facts}")
    for note in outcome.notes:
        console.print(f"  {note}")
    if outcome.problem:
        raise UserError(outcome.problem)


def _unfinished(planned: list[jobs.Job], overwrite: bool) -> list[jobs.Job]:
    """The jobs whose outputs are not all there; tells of the others."""
    todo = [job for job in planned if overwrite or not all(map(Path.exists, job.outputs))]
    if len(todo) < len(planned):
        first = next(job for job in planned if job not in todo).targets[0]
        console.print(
            f"{len(planned) - len(todo)} of {len(planned)} are there already, by whatever options, "
            f"{first} first; --overwrite redoes them"
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
