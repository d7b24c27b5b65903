"""What the page offers to do, in the words of its visitors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tlc_jax.files import checkpoints
from tlc_jax.files.catalogue import TASKS
from tlc_jax.files.choosing import AUTO, best, choose

LABELS = {
    AUTO: "What it needs",
    "denoise": "Remove noise",
    "deblur": "Remove blur",
    "low-light": "Brighten",
    "derain": "Remove rain",
    "dehaze": "Remove haze",
}


class Offer(NamedTuple):
    """Something to do.

    Attributes:
      task: of `catalogue.TASKS`, `AUTO`, or "" for a network of somebody's own.
      by_quality: the checkpoints that do it, one after the other, by "fast" and "best".
    """

    task: str
    by_quality: Mapping[str, Sequence[Path]]


def of_tasks() -> dict[str, Offer]:
    """All tasks, by label; who asks for one that is not installed is told how to get it."""
    ours = {task: checkpoints.find(task) for task in checkpoints.SHIPPED}
    found = {task: best(task) for task in TASKS}
    offers = {LABELS[AUTO]: Offer(AUTO, {"fast": tuple(ours.values())})}
    for task in TASKS:
        ways = {"fast": ours.get(task), "best": found[task]}
        if not any(ways.values()):
            ways = {"best": choose(task)}
        by_quality = {name: (folder,) for name, folder in ways.items() if folder is not None}
        offers[LABELS[task]] = Offer(task, by_quality)
    return offers


def of_folder(folder: Path) -> Offer:
    """One for a checkpoint that was named."""
    return Offer("", {"fast": (folder,)})
