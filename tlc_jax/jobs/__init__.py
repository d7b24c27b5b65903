"""From file to file: what is to be restored, how, and the outcome.

`plan` makes jobs of files and folders, `run` does one: of a picture, two views, a video or a clip.
"""

from tlc_jax.inference.timed import Watch
from tlc_jax.jobs.job import DEFAULTS, Job, JobError, Options, Outcome
from tlc_jax.jobs.pictures import restore_picture
from tlc_jax.jobs.planning import is_video, plan
from tlc_jax.jobs.videos import restore_frames, restore_video
from tlc_jax.layers.network import Network, Params

__all__ = ["Job", "JobError", "Options", "Outcome", "plan", "run"]


def run(
    job: Job,
    model: Network,
    params: Params,
    options: Options = DEFAULTS,
    watch: Watch = lambda words: None,
) -> Outcome:
    """Restore one job from file to file.

    Args:
      job: as of `plan`.
      model, params: the network.
      options: how.
      watch: told what is done next.

    Returns:
      What was written, and facts about it.

    Raises:
      ImageError, VideoError, JobError: a file cannot be read or written, or files do not fit.
    """
    if is_video(job.sources[0]):
        return restore_video(job, model, params, options, watch)
    if job.is_clip:
        return restore_frames(job, model, params, options, watch)
    return restore_picture(job, model, params, options, watch)
