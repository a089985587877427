"""The first transactions of a server: its tables, and the jobs that the last one was running."""

import sqlite3

from server.errors import ServerLost
from server.job import Job, JobStatus, Outcome
from server.limits import MAX_STARTS
from server.store import endings, idempotency, jobs, webhooks


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables of jobs and of what belongs to them."""
    for table in (jobs, webhooks, idempotency):
        table.create_table(connection)


def recover(connection: sqlite3.Connection, now: float) -> list[Job]:
    """Requeue the running jobs, and return them as they are then.

    A cancelled one ends instead; one that has been started MAX_STARTS times fails.
    """
    interrupted = jobs.with_status(connection, JobStatus.RUNNING)
    recovered = [_recovered(job, now) for job in interrupted]
    for job in recovered:
        endings.update(connection, job, expected=[JobStatus.RUNNING])
    return recovered


def _recovered(job: Job, now: float) -> Job:
    if job.cancel_requested:
        return job.ended(Outcome(JobStatus.CANCELED), now)
    if job.starts >= MAX_STARTS:
        return job.ended(Outcome.failed(ServerLost.code, str(ServerLost())), now)
    return job.evolve(status=JobStatus.QUEUED)
