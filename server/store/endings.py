"""Ending and deleting a job together with its webhook delivery, in one transaction."""

import sqlite3
from collections.abc import Sequence

from server.job import Job, JobStatus
from server.store import jobs, turns, webhooks


def update(connection: sqlite3.Connection, job: Job, expected: Sequence[JobStatus]) -> bool:
    """Call `jobs.update`, and if that ended the job, add a delivery and let the next move up."""
    is_written = jobs.update(connection, job, expected)
    if is_written:
        webhooks.add_if_asked(connection, job)
        if job.status.is_final:
            turns.move_up(connection, job.id)
    return is_written


def requeue(
    connection: sqlite3.Connection, job_id: str, now: float, *, is_attempt: bool = True
) -> Job:
    """Call `jobs.requeue`, and add a delivery if that ended the job."""
    job = jobs.requeue(connection, job_id, now, is_attempt=is_attempt)
    webhooks.add_if_asked(connection, job)
    return job


def delete(connection: sqlite3.Connection, job_id: str) -> bool:
    """Call `jobs.delete`, and drop the delivery."""
    is_deleted = jobs.delete(connection, job_id)
    if is_deleted:
        webhooks.delete(connection, job_id)
    return is_deleted
