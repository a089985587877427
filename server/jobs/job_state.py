"""A job with what is known of it in memory: its position, progress and previews."""

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


class ProgressBoard:
    """The progress and the previews of running jobs; none of it is stored."""

    def __init__(self) -> None:
        self._progress: dict[str, JobProgress] = {}
        self._previews: dict[str, tuple[Preview, ...]] = {}

    def set_progress(self, job_id: str, progress: JobProgress) -> None:
        """Replace the progress of a job."""
        self._progress[job_id] = progress

    def add_preview(self, job_id: str, preview: Preview) -> None:
        """Add a preview of a job."""
        self._previews[job_id] = (*self._previews.get(job_id, ()), preview)

    def forget(self, job_id: str) -> None:
        """Forget a job that no longer runs."""
        self._progress.pop(job_id, None)
        self._previews.pop(job_id, None)

    def state(self, job: Job, position: int | None) -> JobState:
        """Return the job's state."""
        previews = self._previews.get(job.id, ())
        return JobState(job, position, self._progress.get(job.id), previews)
