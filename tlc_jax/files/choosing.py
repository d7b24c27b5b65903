"""Which checkpoint does a task: one of ours, or the best of those that are installed."""

import difflib
from pathlib import Path
from typing import Literal

from tlc_jax.files import catalogue
from tlc_jax.files.checkpoints import SHIPPED, CheckpointError, describe, find, home, installed

Task = Literal["denoise", "deblur", "low-light", "derain", "dehaze"]  # of `catalogue.TASKS`
Quality = Literal["fast", "best"]
AUTO = "auto"  # in place of tasks: what each picture needs


def tasks_of(names: str) -> list[str]:
    """The tasks in a text with commas between them; both that `AUTO` chooses from.

    Raises:
      CheckpointError: one is none of `catalogue.TASKS`, or there twice.
    """
    tasks = names.split(",")
    if names == AUTO:
        return ["denoise", "deblur"]
    if AUTO in tasks:
        raise CheckpointError(f"task {names}: {AUTO} chooses by itself; leave the others out.")
    for task in tasks:
        if task not in catalogue.TASKS:
            near = difflib.get_close_matches(task, catalogue.TASKS, 1, 0.5)
            hint = f"; is {near[0]} meant?" if near else "."
            raise CheckpointError(
                f"task {task!r}: tasks are {', '.join(catalogue.TASKS)} and {AUTO}{hint}"
            )
    if len(set(tasks)) < len(tasks):
        raise CheckpointError(f"task {names}: names a task twice.")
    return tasks


def choose(task: str, quality: Quality | None = None) -> Path:
    """The folder of a checkpoint for a task.

    Args:
      task: what is to be done, of `catalogue.TASKS`.
      quality: "fast" for ours, which the package has for `SHIPPED`, or "best" for the best that is
        installed. By default deblurring takes that where there is one, and denoising ours.

    Returns:
      The folder. It does not exist where none is installed; `describe` then tells how to get it.

    Raises:
      CheckpointError: "fast" for a task of which the package has no network.
    """
    ours = find(task) if task in SHIPPED else None
    if quality == "fast" and ours is None:
        raise CheckpointError(f"--quality fast: none of our networks is for {task}; leave it out.")
    if ours and (quality == "fast" or (quality is None and task == "denoise")):
        return ours
    if found := best(task):
        return found
    if ours and quality is None:
        return ours
    wanted = catalogue.TASKS[task]
    return home() / next(one.checkpoint for one in catalogue.PACKAGES if one.holds.task == wanted)


def best(task: str) -> Path | None:
    """The best installed checkpoint for a task, by what `catalogue.PUBLISHED` says of it.

    One for the data set that the catalogue has first for the task, and of those the one of the
    highest published PSNR, with TLC where that is known.
    """
    found = {}
    for name in installed():
        try:
            published = catalogue.entry_of(describe(home() / name))
        except CheckpointError:
            continue  # whoever asks for it by its name is told why
        if published is not None and published.task == catalogue.TASKS[task]:
            found[name] = published
    if not found:
        return None
    datasets = [one.dataset for one in catalogue.PUBLISHED if one.task == catalogue.TASKS[task]]

    def rank(name: str) -> tuple[int, float]:
        one = found[name]
        return -datasets.index(one.dataset), one.psnr_local or one.psnr_global or 0.0

    return home() / max(found, key=rank)
