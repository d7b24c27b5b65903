"""Which files are restored to which."""

import contextlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tlc_jax.files.datasets import PICTURES, file_pairs, is_visible_file
from tlc_jax.files.pictures import ImageError, picture_size
from tlc_jax.files.video import VIDEOS, WRITABLE
from tlc_jax.inference.buckets import choose_buckets
from tlc_jax.inference.timed import Watch
from tlc_jax.jobs.job import Job, JobError
from tlc_jax.layers import Network
from tlc_jax.ops.windows import Size


def plan(
    model: Network,
    inputs: Sequence[Path],
    output: Path,
    *,
    left: Path | None = None,
    right: Path | None = None,
    compare: bool = False,
    watch: Watch = lambda words: None,
) -> list[Job]:
    """The jobs for what a network is to restore.

    Args:
      model: the network.
      inputs: pictures, videos and folders of them; the frames in a folder are one clip for a
        network for video.
      output: a folder, or a file for one input.
      left, right: in place of inputs, for a network for pairs: two pictures, or two folders.
      compare: whether each picture gets a sheet beside it.
      watch: told what is left out.

    Raises:
      JobError: files that are not there or not for this network, two outputs of one name, or one
        in the place of an input.
      DataError: names without partner.
    """
    if model.takes == "pairs":
        jobs = _of_pairs(model, inputs, left, right, output)
    elif model.takes == "arrays":
        raise JobError(
            f"{type(model).__name__} takes pictures of {model.inp_channels} channels here, which "
            "no file holds; call tlc_jax.restore."
        )
    elif left or right:
        raise JobError(
            f"{type(model).__name__} takes no pairs; name pictures without --left and --right."
        )
    else:
        sources = [files for path in inputs for files in _found(model, path, output, watch)]
        jobs = [
            job._replace(is_clip=model.takes == "clips" and not is_video(job.sources[0]))
            for job in _to_outputs(sources, output)
        ]
    if compare:
        jobs = [
            job._replace(sheet=job.targets[0].with_name(f"{job.targets[0].stem}-compare.png"))
            for job in jobs
        ]
    _check_outputs(jobs)
    return jobs


def buckets(jobs: Iterable[Job], waste: float) -> dict[Size, Size]:
    """The buckets of `choose_buckets` for the pictures of jobs, but those that cannot be read."""
    sizes = []
    for job in jobs:
        if not is_video(job.sources[0]):
            with contextlib.suppress(ImageError):
                sizes.append(picture_size(job.sources[0]))
    return choose_buckets(sizes, waste)


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its suffix."""
    return path.suffix.lower() in VIDEOS


def _found(model: Network, path: Path, output: Path, watch: Watch) -> list[tuple[Path, ...]]:
    """The sources of each job for a file, or for all in a folder."""
    clips = model.takes == "clips"
    if not path.exists():
        raise JobError(f"cannot read {path}: no such file or folder.")
    if not path.is_dir():
        if clips and not is_video(path):
            raise JobError(
                f"{path}: {type(model).__name__} restores video; name a video or a folder of "
                "frames."
            )
        return [(path,)]
    if any(p.is_dir() and p.resolve() != output.resolve() for p in path.glob("[!.]*")):
        watch(f"{path}: the folders in it are left out; name them, too")
    inside = sorted(filter(is_visible_file, path.iterdir()), key=_in_order)
    frames = [file for file in inside if file.suffix.lower() in PICTURES]
    videos = [(file,) for file in inside if is_video(file)]
    if not frames and not videos:
        kinds = ", ".join((*PICTURES, *VIDEOS))
        raise JobError(f"{path}: no pictures or videos in this folder ({kinds}).")
    together = [tuple(frames)] if clips and frames else [(frame,) for frame in frames]
    return [*together, *videos]


def _to_outputs(sources: list[tuple[Path, ...]], output: Path) -> list[Job]:
    """The job for each tuple of sources."""
    if not sources:
        raise JobError("nothing to restore; name pictures, videos or folders of them.")
    if not _is_file(output):
        return [Job(files, tuple(output / _name(file) for file in files)) for files in sources]
    if sum(map(len, sources)) > 1:
        raise JobError(f"{output}: there are several outputs; name a folder.")
    wanted = tuple(WRITABLE) if is_video(sources[0][0]) else (".png",)
    if output.suffix.lower() not in wanted:
        raise JobError(
            f"{output}: outputs are {', '.join(wanted)}; name such a file or a folder, which must "
            "exist if its name has a dot."
        )
    return [Job(sources[0], (output,))]


def _of_pairs(
    model: Network, inputs: Sequence[Path], left: Path | None, right: Path | None, output: Path
) -> list[Job]:
    """A job for each pair of views, with one output or one for each view."""
    if inputs or left is None or right is None:
        raise JobError(
            f"{type(model).__name__} takes pairs of views here; name them with --left and --right."
        )
    if left.is_dir() != right.is_dir():
        raise JobError(f"{left}, {right}: name two pictures, or two folders.")
    sources = file_pairs(left, right) if left.is_dir() else [(left, right)]
    views = model.out_channels // 3
    if _is_file(output):
        if output.suffix.lower() != ".png" or len(sources) > 1 or views > 1:
            raise JobError(f"{output}: name a folder, or for one picture a .png file.")
        return [Job(sources[0], (output,))]
    folders = [output / side for side in ("left", "right")] if views > 1 else [output]
    return [
        Job(pair, tuple(to / f"{view.stem}.png" for to, view in zip(folders, pair, strict=False)))
        for pair in sources
    ]


def _name(source: Path) -> str:
    suffix = source.suffix.lower()
    if suffix not in WRITABLE:
        suffix = ".mkv" if is_video(source) else ".png"  # the former takes any sound
    return source.stem + suffix


def _is_file(output: Path) -> bool:
    return bool(output.suffix) and not output.is_dir()


def _in_order(file: Path) -> list[int | str]:
    """Names as people number them: frame 10 comes after frame 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]


def _check_outputs(jobs: list[Job]) -> None:
    """Refuse an output of two sources, or in the place of an input."""
    inputs = {path.resolve() for job in jobs for path in job.sources}
    written: dict[Path, Path] = {}  # the source of each output
    for job in jobs:
        sources = (*job.sources, job.sources[0])  # of which the last is the sheet's
        for source, output in zip(sources, job.outputs, strict=False):
            if output in written:
                raise JobError(
                    f"{source} and {written[output]} would both be written to {output}; rename "
                    "one or restore them into two folders."
                )
            if output.resolve() in inputs:
                raise JobError(f"{output}: this would replace an input; choose another output.")
            written[output] = source
