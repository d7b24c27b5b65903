"""One file, restored by its task."""

import os
from pathlib import Path
from typing import Literal

from tlc_jax.files import checkpoints
from tlc_jax.files.choosing import AUTO, Quality, choose, tasks_of
from tlc_jax.jobs import run
from tlc_jax.jobs.job import JobError, Options
from tlc_jax.jobs.planning import plan


def restore_file(
    path: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] = "restored",
    task: str = "denoise",
    quality: Quality | None = None,
    mode: Literal["local", "global", "auto"] = "local",
    strength: float = 1.0,
) -> Path:
    """Restore a picture or a video from file to file, as `tlc-jax restore` does.

    Args:
      path: the file.
      output: a folder, where photo.jpg becomes photo.denoise.jpg, or a file, which is replaced.
      task: "denoise", "deblur", "low-light", "derain" or "dehaze"; several with commas go one
        after the other; "auto" looks for noise and blur, and takes away what it finds.
      quality: "fast" for our own network, "best" for the best that is installed; by default the
        best for deblurring, if there is one, and ours for noise.
      mode: statistics over windows (TLC) or over the picture; "auto" is local, and global where
        local ones make false colours.
      strength: 0 for the picture as it came to 1 for all that the network does.

    Returns:
      The file that was written.

    Raises:
      JobError, ImageError, VideoError: the file cannot be restored; the message says why.
      CheckpointError: no network for the task is installed; the message says how to get one.
      ValueError, TypeError: a mode, quality, task or strength that there is not.

    Examples:
      >>> import tlc_jax as tlc
      >>> tlc.restore_file("photo.jpg", task="deblur")  # doctest: +SKIP
      PosixPath('restored/photo.deblur.jpg')
    """
    if mode not in ("local", "global", "auto"):
        raise ValueError(f"mode is local, global or auto, got {mode!r}.")
    if quality not in (None, "fast", "best"):
        raise ValueError(f"quality is fast or best, got {quality!r}.")
    if not isinstance(task, str):
        raise TypeError(f"task is a text, several tasks one with commas, got {task!r}.")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is 0 to 1, got {strength!r}.")
    folders = [choose(name, quality) for name in tasks_of(task)]
    networks = [checkpoints.load(folder) for folder in folders]
    label = task if task == AUTO else "-".join(map(checkpoints.network_name, folders))
    networks = [(model.clone(local_mode=mode != "global"), params) for model, params in networks]
    (job,) = plan(networks[0][0], [Path(path)], Path(output), label=label)
    options = Options(auto=task == AUTO, guard=mode == "auto", strength=strength, overwrite=True)
    outcome = run(job, networks, options)
    if outcome.problem:
        raise JobError(outcome.problem)
    return outcome.written[0]
