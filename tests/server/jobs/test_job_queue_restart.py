"""The queue of the next server: what it makes of the jobs of the last one."""

from server.job import Job, JobStatus, Outcome
from server.jobs.job_queue import JobQueue
from server.jobs.queue_limits import QueueLimits
from server.limits import MAX_STARTS
from server.store.database import Database
from tests.fake_time import FakeTime
from tests.server.jobs.conftest import soon
from tests.server.jobs.queue_steps import running, submit


async def reopened(database: Database, clock: FakeTime) -> tuple[JobQueue, list[Job]]:
    """The queue of the next server on the same file, and what it has to prepare."""
    queue = JobQueue(database, limits=QueueLimits(3), clock=clock)
    return queue, await queue.open()


async def test_restart_keeps_the_order_of_waiting_jobs(
    queue: JobQueue, database: Database, clock: FakeTime
) -> None:
    made = [await submit(queue) for _ in range(3)]

    after, _ = await reopened(database, clock)

    assert [(await soon(after.claim())).id for _ in made] == [job.id for job in made]


async def test_restart_requeues_an_interrupted_job_first(
    queue: JobQueue, database: Database, clock: FakeTime
) -> None:
    job = await running(queue)
    await submit(queue)

    after, _ = await reopened(database, clock)

    again = await soon(after.claim())
    assert (again.id, again.starts, again.attempts) == (job.id, 2, 0)


async def test_restart_returns_the_unprepared_jobs(
    queue: JobQueue, database: Database, clock: FakeTime
) -> None:
    await submit(queue)
    unprepared = await submit(queue, prepared_at=None)

    _, found = await reopened(database, clock)

    assert found == [unprepared]


async def test_restart_ends_a_job_with_a_pending_cancel(
    queue: JobQueue, database: Database, clock: FakeTime
) -> None:
    job = await running(queue)
    await queue.cancel(job.id)
    clock.now = 2000.0

    after, _ = await reopened(database, clock)

    found = await after.get(job.id)
    assert (found.status, found.finished_at) == (JobStatus.CANCELED, 2000.0)


async def test_restart_leaves_final_jobs_as_they_are(
    queue: JobQueue, database: Database, clock: FakeTime
) -> None:
    ended = await queue.finish(await running(queue), Outcome(JobStatus.SUCCEEDED))

    after, _ = await reopened(database, clock)

    assert await after.get(ended.id) == ended


async def test_restart_fails_a_job_that_was_started_too_often(
    queue: JobQueue, database: Database, clock: FakeTime
) -> None:
    job = await submit(queue)
    for starts in range(1, MAX_STARTS + 1):
        claimed = await soon(queue.claim())
        assert (claimed.id, claimed.starts) == (job.id, starts)
        queue, _ = await reopened(database, clock)

    found = await queue.get(job.id)
    assert (found.status, found.finished_at) == (JobStatus.FAILED, clock.now)
    assert found.error is not None
    assert found.error.code == "server_lost"
    assert f"{MAX_STARTS} times" in found.error.message
