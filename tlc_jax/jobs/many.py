"""Many jobs: files are read ahead of what is computed, and written behind it."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from tlc_jax.files.pictures import ImageError
from tlc_jax.inference.batches import Batches, Program, batches_pay
from tlc_jax.inference.buckets import choose_buckets
from tlc_jax.inference.pipeline import pipeline
from tlc_jax.inference.programs import is_out_of_memory
from tlc_jax.inference.timed import NotFiniteError
from tlc_jax.inference.ways import at_once
from tlc_jax.jobs.job import DEFAULTS, Job, Networks, Options, Outcome
from tlc_jax.jobs.pictures import After, Before, bytes_of_a_pixel, compute, read, write
from tlc_jax.jobs.planning import is_video, size_of
from tlc_jax.jobs.videos import restore_frames, restore_video
from tlc_jax.ops.pixels import to_float
from tlc_jax.ops.windows import Size

Made = Outcome | After | Exception


def run_all(
    jobs: Sequence[Job],
    networks: Networks,
    options: Options = DEFAULTS,
    *,
    waste: float = 0.0,
    watch: Callable[[Job, str], None] = lambda job, words: None,
) -> "Iterator[tuple[Job, Future[Outcome]]]":
    """Do jobs as `run` does each, with reading, computing and writing at the same time.

    Args:
      jobs: as of `plan`.
      networks, options: as of `run`.
      waste: as of `tlc_jax.choose_buckets`; the buckets take the place of the options'.
      watch: told of which job what is done next.

    Returns:
      Each job, in their order, with its outcome or what `run` raises.
    """
    sizes = {job: size for job in jobs if (size := size_of(job))}
    if waste:
        options = dataclasses.replace(options, buckets=choose_buckets(sizes.values(), waste))
    counts = Counter(options.buckets.get(size, size) for size in sizes.values())
    work = _Work(networks, options, counts, watch)
    each = bytes_of_a_pixel(networks[0][0])
    return pipeline(
        jobs, work.read, work.begin, work.write,
        key=work.key,
        at_once=work.at_once,
        weigh=lambda job: each * math.prod(sizes.get(job, (0, 0))),
    )  # fmt: skip


class _Work:
    """What is done with each job. Those that go into no batch go one by one."""

    def __init__(
        self,
        networks: Networks,
        options: Options,
        counts: Mapping[Size, int],
        watch: Callable[[Job, str], None],
    ):
        self.networks, self.options, self.counts, self.watch = networks, options, counts, watch
        (model, params), *others = networks
        self.batches = None
        if (
            batches_pay(options.devices)
            and model.takes != "clips"
            and not (others or options.auto or options.guard)
            and (options.way, options.strength, options.split) == (at_once, 1, 1)
        ):
            self.batches = Batches(model, params, options.devices)
        self.compiled: set[Program] = set()  # of which it was told

    def read(self, job: Job) -> Job | Before:
        """A picture; videos and clips are read as they are restored."""
        if is_video(job.sources[0]) or job.is_clip:
            return job
        before = read(job, self.networks, self.options)
        if self.key(before) is None:
            return before._replace(pixels=to_float(before.pixels))
        return before

    def key(self, before: Job | Before) -> Hashable:
        """The size and type of what can go into a batch, without a sheet that compares it."""
        if self.batches is None or isinstance(before, Job) or before.job.sheet:
            return None
        return self._size(before), before.pixels.dtype, self._bucket(before) is None

    def at_once(self, before: Job | Before) -> int:
        """How many of a key."""
        program = self._program(before)
        return program.count if program else 1

    def begin(self, group: list) -> Callable[[], list[Made]]:
        """Begin with those of one key, or with one job; then wait for the results."""
        program = self._program(group[0])
        if self.batches is None or program is None:
            return lambda: [self._alone(before) for before in group]
        pixels = [before.pixels for before in group]
        wait = self.batches.begin(program, pixels, self._bucket(group[0]))

        def results() -> list[Made]:
            self.watch(group[0].job, f"restoring, {len(group)} at once")
            try:
                made = wait()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                return [self._alone(before) for before in group]
            compiling = 0.0 if program in self.compiled else program.compiling / len(group)
            self.compiled.add(program)
            return [
                one
                if isinstance(one, Exception)
                else After(one._replace(compiling=compiling), at_once=len(group))
                for one in made
            ]

        return results

    def write(self, before: Any, made: Made) -> Outcome:
        """The outcome of a job; videos and clips are written already."""
        match made:
            case Outcome():
                return made
            case After():
                return write(before, made, self.options)
            case NotFiniteError():
                raise ImageError(f"{before.job.sources[0]}: {made}")
        raise made

    def _alone(self, before: Job | Before) -> Made:
        job = before if isinstance(before, Job) else before.job

        def watch(words: str) -> None:
            self.watch(job, words)

        try:
            if isinstance(before, Before):
                return compute(before, self.networks, self.options, watch)
            restore = restore_video if is_video(job.sources[0]) else restore_frames
            return restore(job, *self.networks[0], self.options, watch)
        except Exception as error:  # of this job alone
            return error

    def _bucket(self, before: Before) -> Size | None:
        return self.options.buckets.get(before.pixels.shape[:2])

    def _size(self, before: Before) -> Size:
        return self._bucket(before) or before.pixels.shape[:2]

    def _program(self, before: Job | Before) -> Program | None:
        if self.batches is None or isinstance(before, Job) or self.key(before) is None:
            return None
        size, dtype = self._size(before), before.pixels.dtype
        to = np.dtype(np.float32) if self.options.reference else dtype
        within = self._bucket(before) is not None
        return self.batches.program(size, dtype, to, self.counts.get(size, 1), within)
