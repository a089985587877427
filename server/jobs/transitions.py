"""Each transition of a job as a line in the log and as metrics, for operators."""

import logging
from collections.abc import Callable

from server.job import Job, JobStatus
from server.metrics import Metrics

logger = logging.getLogger(__name__)


class Transitions:
    """Logs and counts transitions once they are on disk.

    The fields of a log record: `job`, its `owner`, `status`, `stage` (of the worker, while it runs
    or when it ended) and `seconds`: in preparation, waiting, since the start for a stage, in all at
    the end.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._running: dict[str, Job] = {}
        self._stages: dict[str, str] = {}

    def queued(self, job: Job) -> None:
        """A job has been accepted, perhaps prepared."""
        _log(job, f"queued by {job.request.contract} {job.request.endpoint}")
        if job.prepared_at is not None:
            self.prepared(job)

    def prepared(self, job: Job) -> None:
        """The images and LoRAs of a job are here."""
        seconds = _between(job.created_at, job.prepared_at)
        _log(job, f"prepared in {seconds:.2f} s", seconds=seconds)

    def started(self, job: Job) -> None:
        """A worker has taken a job."""
        self._running[job.id] = job
        seconds = _between(job.prepared_at, job.started_at)
        _log(job, f"started after waiting {seconds:.2f} s", seconds=seconds)

    def stage(self, job_id: str, stage: str) -> None:
        """A running job has reported its stage, perhaps the same as before."""
        job = self._running.get(job_id)
        if job is None or self._stages.get(job_id) == stage:
            return
        self._stages[job_id] = stage
        seconds = _between(job.started_at, self._clock())
        _log(job, f"reached {stage} after {seconds:.2f} s", stage=stage, seconds=seconds)

    def left(self, job: Job) -> None:
        """A job has ended, or is queued again."""
        self._running.pop(job.id, None)
        stage = self._stages.pop(job.id, None)
        if not job.status.is_final:
            _log(job, f"{job.status} again", stage=stage)
            return
        metrics, seconds = self._metrics, _between(job.created_at, job.finished_at)
        metrics.jobs.labels(job.request.contract, job.status).inc()
        code = f" ({job.error.code})" if job.error else ""
        if job.error is not None:
            metrics.job_failures.labels(job.error.code).inc()
        if job.outcome is not None and job.status is JobStatus.SUCCEEDED:
            for name, duration in job.outcome.seconds.items():
                metrics.stage_seconds.labels(name).observe(duration)
        sampling = f", {job.outcome.sampling}" if job.outcome and job.outcome.sampling else ""
        what = f"{job.status}{code} after {seconds:.2f} s{sampling}"
        _log(job, what, stage=stage, seconds=seconds)
        for warning in job.outcome.warnings if job.outcome else ():
            logger.warning("job %s: %s", job.id, warning, extra={"job": job.id})


def _log(job: Job, what: str, *, stage: str | None = None, seconds: float | None = None) -> None:
    fields = {
        "job": job.id,
        "owner": job.request.owner,
        "status": job.status,
        "stage": stage,
        "seconds": seconds,
    }
    logger.info("job %s %s", job.id, what, extra=fields)


def _between(start: float | None, end: float | None) -> float:
    """Return the seconds between two times; 0 where one is unknown or the clock was set back."""
    return 0.0 if start is None or end is None else max(0.0, end - start)
