"""`tlc-jax restore`: pictures, pairs of views and videos in, the same restored out."""

import contextlib
import re
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from tlc_jax.cli.common import (
    Checkpoint,
    ComputeIn,
    Dtype,
    Mode,
    OurTask,
    Settings,
    UserError,
    WindowSide,
    check_writable,
    choose_checkpoint,
    complain,
    console,
    enough_memory,
    load_params,
    open_network,
    progress,
)
from tlc_jax.cli.pictures import restore_picture
from tlc_jax.cli.videos import restore_frames, restore_video
from tlc_jax.files.datasets import PICTURES, file_pairs, is_visible_file
from tlc_jax.files.pictures import ImageError, picture_size
from tlc_jax.files.video import VIDEOS, WRITABLE, VideoError
from tlc_jax.inference.buckets import choose_buckets
from tlc_jax.layers import Network


class Job(NamedTuple):
    """What is restored at once."""

    sources: tuple[Path, ...]  # a picture or video, the two views of a pair, the frames of a clip
    targets: tuple[Path, ...]  # as many files, or one for two views
    sheet: Path | None = None  # that compares

    @property
    def outputs(self) -> tuple[Path, ...]:
        return (*self.targets, self.sheet) if self.sheet else self.targets


def restore(
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="Pictures, videos, or folders of them.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder, or a file for one input.")
    ] = Path("restored"),
    task: OurTask = None,
    checkpoint: Checkpoint = None,
    left: Annotated[
        Path | None, typer.Option(help="The left view of a pair, or a folder of them.")
    ] = None,
    right: Annotated[
        Path | None, typer.Option(help="The right view; in a folder by the same names.")
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(
            help="Statistics over windows (TLC), or all; auto is local, and global where local "
            "makes false colours."
        ),
    ] = Mode.LOCAL,
    window: WindowSide = None,
    dtype: ComputeIn = Dtype.FLOAT32,
    reference: Annotated[
        Path | None, typer.Option(help="The true picture, or a folder of them by the same names.")
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
    settings: Settings = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Redo what is done; what is unfinished always is.")
    ] = False,
) -> None:
    """Restore pictures, pairs of views, and videos.

    Pictures become PNG files with 8 or 16 bits as they came. A video stays one, with its sound.
    For a network for video a folder is a clip, whose frames are in the order of their names.
    """
    checkpoint = choose_checkpoint(checkpoint, task)
    model, shapes = open_network(checkpoint, mode, window, dtype, settings)
    if model.takes == "pairs":
        jobs = _pair_jobs(model, inputs, left, right, output)
    elif model.takes == "arrays":
        raise UserError(
            f"{checkpoint}: takes pictures of {model.inp_channels} channels, which no file holds; "
            "call tlc_jax.restore."
        )
    elif left or right:
        raise UserError(f"{checkpoint}: takes no pairs; name pictures without --left and --right.")
    else:
        jobs = _jobs(model, inputs or [], output)
    if compare or mode is Mode.AUTO:
        _only_pictures(model, jobs, "--compare" if compare else "--mode auto")
    if shifts > 1:
        _only_pictures(model, jobs, "--shifts")
        if mode is Mode.AUTO:
            raise UserError("--shifts and --mode auto do not go together; choose a mode.")
    if compare:
        jobs = [
            job._replace(sheet=job.targets[0].with_name(f"{job.targets[0].stem}-compare.png"))
            for job in jobs
        ]
    _check_outputs(jobs)
    todo = jobs if overwrite else [job for job in jobs if not all(map(Path.exists, job.outputs))]
    if len(todo) < len(jobs):
        first = next(job for job in jobs if job not in todo).targets[0]
        console.print(
            f"{len(jobs) - len(todo)} of {len(jobs)} are there already, by whatever options, "
            f"{first} first; --overwrite redoes them"
        )
    if not todo:
        return
    for folder in {target.parent for job in todo for target in job.targets}:
        check_writable(folder)
    params = load_params(checkpoint, model, shapes, mode, dtype)
    buckets = _buckets(todo, waste) if waste and model.has_buckets and shifts == 1 else {}
    remedy = "a smaller --chunk" if model.takes == "clips" else "cut the picture"
    remedy = f"--dtype bfloat16{', --waste 0' if buckets else ''} or {remedy}"
    failed = False
    for sources, targets, sheet in progress(todo):
        try:
            with enough_memory(sources[0], remedy):
                if sources[0].suffix.lower() in VIDEOS:
                    restore_video(model, params, sources[0], targets[0], reference, chunk, overlap)
                elif model.takes == "clips":
                    restore_frames(model, params, sources, targets, reference, chunk, overlap)
                else:
                    restore_picture(
                        model,
                        params,
                        sources,
                        targets,
                        reference,
                        buckets,
                        guarded=mode is Mode.AUTO,
                        shifts=shifts,
                        sheet=sheet,
                        overwrite=overwrite,
                    )
        except (ImageError, VideoError, UserError, OSError) as error:
            failed = True
            complain(error)
    if failed:
        raise typer.Exit(2)


def _only_pictures(model: Network, jobs: list[Job], option: str) -> None:
    video = next((job for job in jobs if job.sources[0].suffix.lower() in VIDEOS), None)
    if video is not None:
        raise UserError(f"{video.sources[0]}: {option} is for pictures; leave it out.")
    if model.takes != "pictures":
        raise UserError(
            f"{option}: {type(model).__name__} does not restore single pictures; leave it out."
        )


def _jobs(model: Network, inputs: list[Path], output: Path) -> list[Job]:
    """Pictures and videos one by one; for a network for video the frames in a folder together."""
    sources: list[tuple[Path, ...]] = []
    for path in inputs:
        if not path.exists():
            raise UserError(f"cannot read {path}: no such file or folder.")
        if not path.is_dir():
            if model.takes == "clips" and path.suffix.lower() not in VIDEOS:
                raise UserError(
                    f"{path}: {type(model).__name__} restores video; name a video or a folder of "
                    "frames."
                )
            sources.append((path,))
            continue
        inside = sorted(filter(is_visible_file, path.iterdir()), key=_in_order)
        if any(p.is_dir() and p.resolve() != output.resolve() for p in path.glob("[!.]*")):
            console.print(f"{path}: the folders in it are left out; name them, too")
        frames = tuple(file for file in inside if file.suffix.lower() in PICTURES)
        videos = [(file,) for file in inside if file.suffix.lower() in VIDEOS]
        if not frames and not videos:
            kinds = ", ".join((*PICTURES, *VIDEOS))
            raise UserError(f"{path}: no pictures or videos in this folder ({kinds}).")
        together = model.takes == "clips" and frames
        sources += [frames] if together else [(frame,) for frame in frames]
        sources += videos
    if not sources:
        raise UserError("nothing to restore; name pictures, videos or folders of them.")

    def name(source: Path) -> str:
        suffix = source.suffix.lower()
        if suffix in VIDEOS:  # Matroska takes any sound
            return f"{source.stem}{suffix if suffix in WRITABLE else '.mkv'}"
        return f"{source.stem}.png"

    if not _is_file(output):
        return [Job(files, tuple(output / name(file) for file in files)) for files in sources]
    if sum(map(len, sources)) > 1:
        raise UserError(f"{output}: there are several outputs; name a folder.")
    wanted = tuple(WRITABLE) if sources[0][0].suffix.lower() in VIDEOS else (".png",)
    if output.suffix.lower() not in wanted:
        raise UserError(
            f"{output}: outputs are {', '.join(wanted)}; name such a file or a folder, which must "
            "exist if its name has a dot."
        )
    return [Job(sources[0], (output,))]


def _pair_jobs(
    model: Network, inputs: list[Path] | None, left: Path | None, right: Path | None, output: Path
) -> list[Job]:
    """Two views a job, with one output or one for each view."""
    if inputs or left is None or right is None:
        raise UserError(
            f"{type(model).__name__} takes pairs of views here; name them with --left and --right."
        )
    if left.is_dir() != right.is_dir():
        raise UserError(f"{left}, {right}: name two pictures, or two folders.")
    sources = file_pairs(left, right) if left.is_dir() else [(left, right)]
    views = model.out_channels // 3
    if _is_file(output):
        if output.suffix.lower() != ".png" or len(sources) > 1 or views > 1:
            raise UserError(f"{output}: name a folder, or for one picture a .png file.")
        return [Job(sources[0], (output,))]
    folders = [output / side for side in ("left", "right")] if views > 1 else [output]
    return [
        Job(pair, tuple(to / f"{view.stem}.png" for to, view in zip(folders, pair, strict=False)))
        for pair in sources
    ]


def _buckets(jobs: list[Job], waste: float) -> dict[tuple[int, int], tuple[int, int]]:
    """Those of the pictures that can be read; the others are told of when it is their turn."""
    sizes = []
    for (source, *_), *_ in jobs:
        if source.suffix.lower() in PICTURES:
            with contextlib.suppress(ImageError):
                sizes.append(picture_size(source))
    return choose_buckets(sizes, waste)


def _is_file(output: Path) -> bool:
    return bool(output.suffix) and not output.is_dir()


def _in_order(file: Path) -> list[int | str]:
    """Names as people number them: frame 10 comes after frame 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]


def _check_outputs(jobs: list[Job]) -> None:
    """Each output is one file of its own, and none is an input."""
    inputs = {path.resolve() for job in jobs for path in job.sources}
    written: dict[Path, Path] = {}  # the input of each
    for job in jobs:
        sources = (*job.sources, job.sources[0])  # of which the last is the sheet's
        for source, output in zip(sources, job.outputs, strict=False):
            if output in written:
                raise UserError(
                    f"{source} and {written[output]} would both be written to {output}; rename "
                    "one or restore them into two folders."
                )
            if output.resolve() in inputs:
                raise UserError(f"{output}: this would replace an input; choose another output.")
            written[output] = source
