"""What ends a job or forgets it, together with its webhook: neither is there without the other."""

import sqlite3
from collections.abc import Sequence

from server.job import Job, JobStatus
from server.store import jobs, webhooks


def update(connection: sqlite3.Connection, job: Job, expected: Sequence[JobStatus]) -> bool:
    """`jobs.update`, and a delivery when that ended the job."""
    is_written = jobs.update(connection, job, expected)
    if is_written:
        webhooks.add_if_asked(connection, job)
    return is_written


def requeue(connection: sqlite3.Connection, job_id: str, now: float) -> Job:
    """`jobs.requeue`, and a delivery when that ended the job."""
    job = jobs.requeue(connection, job_id, now)
    webhooks.add_if_asked(connection, job)
    return job


def delete(connection: sqlite3.Connection, job_id: str) -> bool:
    """`jobs.delete`, and nobody is told any more."""
    is_deleted = jobs.delete(connection, job_id)
    if is_deleted:
        webhooks.delete(connection, job_id)
    return is_deleted
