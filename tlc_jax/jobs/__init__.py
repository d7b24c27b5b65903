"""From file to file: what is to be restored, how each is, and what came of it.

`plan` tells the files apart, `run` restores one job, of a picture, two views, a video or a clip,
for the command, for the page and for whoever has folders.
"""

from tlc_jax.jobs.job import Job, JobError, Options, Outcome
from tlc_jax.jobs.planning import plan
from tlc_jax.jobs.running import run

__all__ = ["Job", "JobError", "Options", "Outcome", "plan", "run"]
