"""From file to file: what is to be restored, how, and the outcome.

`plan` makes jobs of files and folders, `run` does one: of a picture, two views, a video or a clip;
`run_all` does many.
"""

from tlc_jax.inference.timed import Watch
from tlc_jax.jobs.job import DEFAULTS, Job, JobError, Networks, Options, Outcome
from tlc_jax.jobs.many import run_all
from tlc_jax.jobs.pictures import restore_picture
from tlc_jax.jobs.planning import is_video, plan
from tlc_jax.jobs.summary import Summary
from tlc_jax.jobs.videos import restore_frames, restore_video

__all__ = ["Job", "JobError", "Options", "Outcome", "Summary", "plan", "run", "run_all"]


def run(
    job: Job,
    networks: Networks,
    options: Options = DEFAULTS,
    watch: Watch = lambda words: None,
) -> Outcome:
    """Restore one job from file to file.

    Args:
      job: as of `plan`.
      networks: one network with its parameters, or for pictures several, one after the other.
      options: how.
      watch: told what is done next.

    Returns:
      What was written, and facts about it.

    Raises:
      ImageError, VideoError, JobError: a file cannot be read or written, or files do not fit.
    """
    if is_video(job.sources[0]):
        return restore_video(job, *networks[0], options, watch)
    if job.is_clip:
        return restore_frames(job, *networks[0], options, watch)
    return restore_picture(job, networks, options, watch)
