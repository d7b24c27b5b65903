"""Which files are restored to which."""

import contextlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tlc_jax.files.catalogue import TASKS
from tlc_jax.files.choosing import AUTO
from tlc_jax.files.datasets import PICTURES, file_pairs, is_visible_file
from tlc_jax.files.paths import real_path
from tlc_jax.files.pictures import FORMATS, RAW, ImageError, picture_size
from tlc_jax.files.video import VIDEOS, WRITABLE
from tlc_jax.inference.timed import Watch
from tlc_jax.jobs.job import Job, JobError
from tlc_jax.layers import Network
from tlc_jax.ops.windows import Size


def plan(
    model: Network,
    inputs: Sequence[Path],
    output: Path,
    *,
    label: str = "",
    recursive: bool = False,
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
      label: what is done, for the names in a folder: photo.jpg becomes photo.LABEL.jpg there, and
        the frames of a clip lie in a folder of that name.
      recursive: whether the folders in a folder are searched, too; they are made again in the
        output.
      left, right: in place of inputs, for a network for pairs: two pictures, or two folders.
      compare: whether each picture gets a sheet beside it.
      watch: told what is left out.

    Raises:
      JobError: files that are not there or not for this network, two outputs of one name, or one
        in the place of an input.
      DataError: names without partner.
    """
    if model.takes == "pairs":
        jobs = _of_pairs(model, inputs, left, right, output, label)
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
        found = [
            files for path in inputs for files in _found(model, path, output, recursive, watch)
        ]
        jobs = _to_outputs(found, output, label)
    if compare:
        jobs = [
            job._replace(sheet=job.targets[0].with_name(f"{job.targets[0].stem}-compare.png"))
            for job in jobs
        ]
    _check_outputs(jobs)
    return jobs


def size_of(job: Job) -> Size | None:
    """(height, width) of a job's picture; `None` of a video, a clip and what cannot be read."""
    if not is_video(job.sources[0]) and not job.is_clip:
        with contextlib.suppress(ImageError):
            return picture_size(job.sources[0])
    return None


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its suffix."""
    return path.suffix.lower() in VIDEOS


class _Found(NamedTuple):
    """Sources of one job, and the folder below the output where the result goes."""

    sources: tuple[Path, ...]
    folder: Path
    is_clip: bool = False


def _found(model: Network, path: Path, output: Path, recursive: bool, watch: Watch) -> list[_Found]:
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
        return [_Found((path,), Path())]
    inside = [file for file in path.glob("[!.]*") if file.is_dir() and not _same(file, output)]
    if inside and not recursive:
        watch(f"{path}: the folders in it are left out; --recursive takes them, too")
    found, left_out, astray = [], [], []
    for folder in (path, *(_folders(path, output) if recursive else ())):
        files = sorted(filter(is_visible_file, folder.iterdir()), key=_in_order)
        astray += [x for x in folder.glob("[!.]*") if x.is_symlink() and not x.exists()]
        frames = [file for file in files if file.suffix.lower() in PICTURES]
        videos = [file for file in files if is_video(file)]
        known, names = {*frames, *videos}, {name for x in files for name in (x.stem, x.name)}
        left_out += [file for file in files if file not in known]
        made = dict.fromkeys(file for file in (*frames, *videos) if _is_result(file, names))
        frames, videos = ([file for file in kind if file not in made] for kind in (frames, videos))
        if made:
            watch(f"{_listed([*made])}: left out, restored already; name one to restore it again")
        here = folder.relative_to(path)
        if clips and frames:
            found.append(_Found(tuple(frames), here, is_clip=True))
            frames = []
        found += [_Found((file,), here) for file in (*frames, *videos)]
    if not found:
        kinds = ", ".join((*PICTURES, *VIDEOS))
        raise JobError(f"{path}: no pictures or videos in this folder ({kinds}).")
    if astray:
        watch(f"{_listed(astray)}: left out, links that lead nowhere")
    raw = [file for file in left_out if file.suffix.lower() in RAW]
    if raw:
        watch(f"{_listed(raw)}: left out, raw files of cameras; develop them first")
    if others := [file for file in left_out if file not in raw]:
        watch(f"{_listed(others)}: left out, not called like a picture or video")
    return found


def _listed(files: Sequence[Path]) -> str:
    more = f" and {len(files) - 3} more" if files[3:] else ""
    return f"{', '.join(map(str, files[:3]))}{more}"


def _is_result(file: Path, names: Collection[str]) -> bool:
    """Whether it is what a task made of another file beside it, by its name and theirs."""
    made = re.fullmatch(rf"(.+?)\.(?:{'|'.join((*TASKS, AUTO))})(?:-.*)?", file.stem)
    return made is not None and made[1] in names


def _folders(path: Path, output: Path) -> Iterator[Path]:
    """All folders below one, but hidden ones and the output; links are not followed."""
    for inside in sorted(path.glob("[!.]*"), key=_in_order):
        if inside.is_dir() and not inside.is_symlink() and not _same(inside, output):
            yield inside
            yield from _folders(inside, output)


def _same(path: Path, other: Path) -> bool:
    return real_path(path) == real_path(other)


def _to_outputs(found: list[_Found], output: Path, label: str) -> list[Job]:
    """The job for each tuple of sources."""
    if not found:
        raise JobError("nothing to restore; name pictures, videos or folders of them.")
    if _is_file(output):
        if sum(len(one.sources) for one in found) > 1:
            raise JobError(f"{output}: there are several outputs; name a folder.")
        wanted = WRITABLE if is_video(found[0].sources[0]) else FORMATS
        if output.suffix.lower() not in wanted:
            raise JobError(
                f"{output}: outputs are {', '.join(wanted)}; name such a file or a folder, which "
                "must exist if its name has a dot."
            )
        return [Job(found[0].sources, (output,), is_clip=found[0].is_clip)]
    made = {}
    for one in found:
        for source in one.sources:
            folder = output / one.folder
            if one.is_clip:
                clip = real_path(source).parent.name
                folder /= f"{clip}.{label}" if label else clip
                made[source] = folder / f"{source.stem}{_suffix(source)}"
            else:
                made[source] = folder / _name(source.stem, label, _suffix(source))
    # photo.bmp and photo.png, which both become PNG, keep their whole names.
    twice = {target for target, count in Counter(made.values()).items() if count > 1}
    made |= {
        source: target.with_name(_name(source.name, label, target.suffix))
        for source, target in made.items()
        if target in twice
    }
    # What an earlier run put beside its sources is no source of this one.
    results = {target.absolute() for target in made.values()} if label else set()
    return [
        Job(one.sources, tuple(made[source] for source in one.sources), is_clip=one.is_clip)
        for one in found
        if one.is_clip or one.sources[0].absolute() not in results
    ]


def _of_pairs(
    model: Network,
    inputs: Sequence[Path],
    left: Path | None,
    right: Path | None,
    output: Path,
    label: str,
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
        if output.suffix.lower() not in FORMATS or len(sources) > 1 or views > 1:
            raise JobError(
                f"{output}: name a folder, or for one picture a file ({', '.join(FORMATS)})."
            )
        return [Job(sources[0], (output,))]
    folders = [output / side for side in ("left", "right")] if views > 1 else [output]
    return [
        Job(
            pair,
            tuple(
                to / _name(view.stem, label, _suffix(view))
                for to, view in zip(folders, pair, strict=False)
            ),
        )
        for pair in sources
    ]


def _name(stem: str, label: str, suffix: str) -> str:
    return f"{stem}.{label}{suffix}" if label else f"{stem}{suffix}"


def _suffix(source: Path) -> str:
    """That of the source, if such files are written."""
    if source.suffix.lower() in (*WRITABLE, *FORMATS):
        return source.suffix
    return ".mkv" if is_video(source) else ".png"  # the former takes any sound


def _is_file(output: Path) -> bool:
    return bool(output.suffix) and not output.is_dir()


def _in_order(file: Path) -> list[int | str]:
    """Names as people number them: frame 10 comes after frame 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]


def _check_outputs(jobs: list[Job]) -> None:
    """Refuse an output of two sources, or in the place of an input."""
    inputs = {real_path(path) for job in jobs for path in job.sources}
    written: dict[Path, Path] = {}  # the source of each output
    for job in jobs:
        sources = (*job.sources, job.sources[0])  # of which the last is the sheet's
        for source, output in zip(sources, job.outputs, strict=False):
            if output in written:
                raise JobError(
                    f"{source} and {written[output]} would both be written to {output}; rename "
                    "one or restore them into two folders."
                )
            if real_path(output) in inputs:
                raise JobError(f"{output}: this would replace an input; choose another output.")
            written[output] = source
