"""What came of many jobs, in a line."""

import dataclasses
import time

import numpy as np

from tlc_jax.inference.pipeline import THREADS
from tlc_jax.jobs.job import Job, JobError, Outcome

NAMED = 10  # of those that failed, at most; each was told of before


@dataclasses.dataclass
class Summary:
    """What came of many jobs.

    Attributes:
      outcomes: of each job that was done, by its name; without pictures.
      failures: the exception of each other one, or of what could not be done of it, by its name.
      seconds: from the beginning to the last of them.
    """

    outcomes: dict[str, Outcome] = dataclasses.field(default_factory=dict)
    failures: dict[str, Exception] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    _start: float = dataclasses.field(default_factory=time.perf_counter, repr=False)

    def add(self, job: Job, came: Outcome | Exception) -> None:
        """Take in what came of a job."""
        self.seconds = time.perf_counter() - self._start
        if isinstance(came, Exception):
            self.failures[job.name] = came
            return
        self.outcomes[job.name] = dataclasses.replace(came, before=None, after=None)
        if came.problem:
            self.failures[job.name] = JobError(came.problem)

    @property
    def steps(self) -> dict[str, float]:
        """Seconds of each step; reading and writing are done in threads, beside the others."""
        done = self.outcomes.values()
        return {
            "reading": sum(outcome.reading for outcome in done),
            "compiling": sum(outcome.compiling for outcome in done),
            "computing": sum(outcome.running for outcome in done),
            "writing": sum(outcome.writing for outcome in done),
        }

    @property
    def bottleneck(self) -> str:
        """The step that the others waited for."""
        steps = self.steps
        in_threads = {name: steps.pop(name) for name in ("reading", "writing")}
        slower = in_threads if sum(in_threads.values()) / THREADS > sum(steps.values()) else steps
        return max(slower, key=slower.__getitem__)

    @property
    def psnr(self) -> tuple[float, ...]:
        """The mean of PSNR in dB, before and after, of those with ground truth."""
        scores = [outcome.psnr for outcome in self.outcomes.values() if len(outcome.psnr) == 2]
        return tuple(np.mean(scores, axis=0).tolist()) if scores else ()

    def __str__(self) -> str:
        done, total = len(self.outcomes), len({*self.outcomes, *self.failures})
        steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.steps.items())
        line = f"{done} of {total} restored in {self.seconds:.1f} s"
        if done:
            line += f" ({steps}; {self.bottleneck} took longest)"
        if self.psnr:
            line += f", mean PSNR {self.psnr[0]:.3f} -> {self.psnr[1]:.3f} dB"
        if not self.failures:
            return line
        more = len(self.failures) - NAMED
        names = ", ".join([*self.failures][:NAMED])
        return f"{line}; failed: {names}{f' and {more} more' if more > 0 else ''}"
