"""Files and folders of them, restored by a network."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from tlc_jax.files.pictures import ImageError
from tlc_jax.files.video import VideoError
from tlc_jax.inference.machine import Devices, count_devices
from tlc_jax.inference.programs import is_out_of_memory
from tlc_jax.inference.ways import Way, at_once
from tlc_jax.jobs.job import JobError, Options, Outcome
from tlc_jax.jobs.many import run_all
from tlc_jax.jobs.planning import plan
from tlc_jax.jobs.summary import Summary
from tlc_jax.layers.network import Network, Params

FAILURES = ImageError, VideoError, JobError, OSError  # of one file


def restore_files(
    model: Network,
    params: Params,
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    label: str = "",
    recursive: bool = False,
    devices: Devices = 1,
    split: Devices = 1,
    waste: float = 0.25,
    way: Way = at_once,
    guard: bool = False,
    strength: float = 1.0,
    reference: str | os.PathLike[str] | None = None,
    quality: int | None = None,
    png_level: int | None = None,
    overwrite: bool = False,
    tell: Callable[[str, Outcome | Exception], None] = lambda name, came: None,
) -> Summary:
    """Restore pictures and videos from file to file, as `tlc-jax restore` does.

    Files are read ahead of what is computed and written behind it, in threads. Pictures of one
    size, or of one bucket, are restored at once where that takes less time: on several devices, and
    on a GPU or TPU. A file that cannot be restored does not keep the others from it.

    Args:
      model, params: as for `restore`; a network for pictures or clips.
      sources: a file, a folder, or several of them.
      output: a folder, or a file for one source. What is there already is kept.
      label: for the names in a folder, where photo.jpg becomes photo.LABEL.jpg.
      recursive: whether the folders in a folder are searched, too.
      devices: how many of this machine's share the pictures, or the frames of a video.
      split: over how many each picture is divided, as `restore` has it by the name of devices.
      waste: as for `choose_buckets`; 0 for a program of its own for each size.
      way: as for `restore`.
      guard: whether each picture is restored as by `restore_guarded`.
      strength: of pictures, 0 for what came to 1 for all that the network does.
      reference: the ground truth of a picture, or a folder of it by the names of the sources.
      quality: of files that lose something, 1 to 100; `None` for that of the source.
      png_level: of PNG, 0 to 9 for the smallest files; `None` for 3.
      overwrite: whether what is there already is restored again.
      tell: called with the name of each source, in their order, and what came of it.

    Returns:
      The outcome of each source, the exception of each that failed, and what took the time; as a
      text it is one line.

    Raises:
      JobError: there is nothing to restore, an output would be written twice or in the place of an
        input.
      ValueError: there are fewer devices.

    Examples:
      >>> import tlc_jax as tlc
      >>> model, params = tlc.load("denoise")
      >>> print(tlc.restore_files(model, params, "photos", "restored"))  # doctest: +SKIP
      40 of 40 restored in 13.6 s (reading 1.6, compiling 0.3, computing 12.5, writing 5.1;
      computing took longest)
    """
    options = Options(
        reference=None if reference is None else Path(reference),
        strength=strength,
        guard=guard,
        way=way,
        fit=way is at_once,
        quality=quality,
        png_level=png_level,
        overwrite=overwrite,
        devices=count_devices(devices),
        split=count_devices(split),
    )
    one = isinstance(sources, str | os.PathLike)
    paths = [Path(path) for path in ([sources] if one else sources)]
    jobs = plan(model, paths, Path(output), label=label, recursive=recursive)
    todo = [job for job in jobs if overwrite or not job.is_done]
    summary = Summary()
    waste = waste if model.has_buckets and way is at_once and split == 1 else 0.0
    for job, future in run_all(todo, [(model, params)], options, waste=waste):
        try:
            came = future.result()
        except Exception as error:
            if not isinstance(error, FAILURES) and not is_out_of_memory(error):
                raise
            came = error
        summary.add(job, came)
        tell(job.name, came)
    return summary
