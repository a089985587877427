"""The state of a job as its watchers see it: the job, and what is in memory alone."""

from dataclasses import dataclass

from pipelines.api.messages import Preview
from server.job import Job


@dataclass(frozen=True, slots=True)
class JobProgress:
    """The progress of a running job: `step` of `total` denoising steps are done."""

    stage: str
    step: int
    total: int


@dataclass(frozen=True, slots=True)
class JobState:
    """A job with its position in the queue (0 is next), or its progress."""

    job: Job
    position: int | None
    progress: JobProgress | None
    previews: tuple[Preview, ...] = ()
