"""Steps that tests of the queue share."""

import asyncio
from typing import Any

from server.job import Job, JobStatus
from server.jobs.job_queue import JobQueue
from tests.make_job import make_job


async def submit(queue: JobQueue, **fields: Any) -> Job:
    """Submit a job with some fields of its own."""
    return await queue.submit(make_job(**fields))


async def running(queue: JobQueue) -> Job:
    """Submit a job and claim it."""
    await submit(queue)
    return await queue.claim()


async def settle(queue: JobQueue) -> None:
    """Let other tasks run until they wait: their earlier requests to the database are answered."""
    await asyncio.sleep(0)
    await queue.delete("nobody")
    await queue.count(JobStatus.QUEUED)
