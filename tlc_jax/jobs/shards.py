"""Which jobs are whose, where several machines share them and do not talk with each other.

Each one makes the same parts of the same jobs, from their names and what the heads of their files
say. So all have to see the same files, with the same version and extras of the package.
"""

import errno
import heapq
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from tlc_jax.files.pictures import ImageError, picture_size
from tlc_jax.jobs.job import Job, JobError
from tlc_jax.jobs.planning import is_video

# Of a video, whose frames nobody counts: H.264 takes about a tenth of a bit for a pixel.
PIXELS_OF_A_BYTE = 80
# What a disk or a machine that is busy refuses, and gives the next time or to another machine.
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
HOW_INSTEAD = "write I/N, as 0/4 for the first of four to 3/4 for the last"
ARRAY, TOLD = "SLURM_ARRAY_TASK_", ("ID", "MIN", "MAX", "STEP", "COUNT")
STEP = "SLURM_STEP_NUM_TASKS"


class Shard(NamedTuple):
    """One of the parts of all jobs: which, from 0, of how many."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def share(jobs: Sequence[Job], shard: Shard) -> list[Job]:
    """The jobs of one shard, in their order.

    The largest goes first, by its pixels, each to the shard that has least; so the jobs have to be
    all of them, also those that are done.

    Args:
      jobs: as of `plan`.
      shard: which part of them.

    Raises:
      JobError: a disk or the machine fails just now, so that others might see other sizes.
    """
    # By targets, which are unique and begin alike wherever a machine finds its disks.
    sized = sorted((-_weight(job), os.fsencode(job.targets[0]), i) for i, job in enumerate(jobs))
    loads = [(0, index) for index in range(min(shard.count, len(jobs)))]
    mine = set()
    for negative, _, i in sized:
        load, index = loads[0]
        heapq.heapreplace(loads, (load - negative, index))
        if index == shard.index:
            mine.add(i)
    return [job for i, job in enumerate(jobs) if i in mine]


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """The shard that is meant by the value of --shard.

    Args:
      text: "I/N", "auto" for what the environment says, or "auto/N" where it says only which.
      environment: the variables of SLURM or Kubernetes.

    Raises:
      JobError: it is no shard, or the environment does not tell.
    """
    match = re.fullmatch(r"(auto|\d{1,18})(?:/(\d{1,18}))?", text, re.ASCII)
    which, count = match.groups() if match else ("", None)
    if which == "auto":
        return _from_environment(text, int(count) if count else None, environment)
    if not count or int(count) < 1:
        raise JobError(f"--shard {text}: {HOW_INSTEAD}, or auto.")
    shard = Shard(int(which), int(count))
    if shard.index >= shard.count:
        raise JobError(
            f"--shard {text}: shards count from 0, so the first of {count} is 0/{count} and the "
            f"last {shard.count - 1}/{count}."
        )
    return shard


def _weight(job: Job) -> int:
    """Pixels, at least 1; the pictures of a job are of one size."""
    return len(job.sources) * next(filter(None, map(_pixels, job.sources)), 1)


def _pixels(path: Path) -> int:
    """Those of a picture, or of a video about; 0 where nothing can be restored."""
    try:
        if is_video(path):
            return PIXELS_OF_A_BYTE * path.stat().st_size
        height, width = picture_size(path, each=0)
    except (ImageError, OSError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, MemoryError) or getattr(cause, "errno", None) in PASSING:
            raise JobError(
                f"cannot read {path} just now, and shards go by the sizes of all; try again."
            ) from None
        return 0
    return height * width


def _from_environment(text: str, wanted: int | None, environment: Mapping[str, str]) -> Shard:
    """What SLURM, Kubernetes or JAX tell of this process, and `wanted` where they tell no count."""

    def number(name: str) -> int:
        value = environment.get(name, "")
        if not re.fullmatch(r"\d{1,18}", value, re.ASCII):
            raise JobError(f"--shard {text}: {name} is {value!r}, no number; {HOW_INSTEAD}.")
        return int(value)

    parts = []
    if ARRAY + "ID" in environment:
        parts.append(_of_array(text, *(number(ARRAY + name) for name in TOLD)))
    if STEP in environment:  # else a script runs once, and has a SLURM_PROCID all the same
        parts.append(Shard(number("SLURM_PROCID"), number(STEP)))
    if not parts and "JOB_COMPLETION_INDEX" in environment:
        if wanted is None:
            raise JobError(
                f"--shard {text}: Kubernetes does not tell how many there are; write auto/N, N as "
                "in completions."
            )
        parts.append(Shard(number("JOB_COMPLETION_INDEX"), wanted))
    if not parts:
        if jax.process_count() == 1:
            raise JobError(
                f"--shard {text}: neither SLURM nor Kubernetes nor JAX tells of other processes; "
                f"{HOW_INSTEAD}."
            )
        parts.append(Shard(jax.process_index(), jax.process_count()))
    index, count = 0, 1
    for part in parts:  # each in the one before
        if part.index >= part.count:
            raise JobError(f"--shard {text}: the environment tells {part}; {HOW_INSTEAD}.")
        index, count = index * part.count + part.index, count * part.count
    if wanted not in (None, count):
        raise JobError(f"--shard {text}: the environment tells of {count}; write auto.")
    return Shard(index, count)


def _of_array(text: str, at: int, first: int, last: int, step: int, count: int) -> Shard:
    """The place of a task among those of a SLURM array."""
    numbers = range(first, last + 1, max(step, 1))
    if at not in numbers or len(numbers) != count:
        raise JobError(
            f"--shard {text}: the numbers of this array are not evenly spaced; write --array=0-15, "
            "or --shard I/N."
        )
    return Shard(numbers.index(at), count)
