"""The queue over a real file: submit, claim, requeue, cancel, finish, delete."""

import asyncio
from pathlib import Path

import pytest

from pipelines.api.params import EditParams, LoraRef
from server.caller import EVERYBODY
from server.errors import NotFound, QueueFull
from server.job import JobError, JobStatus, Outcome
from server.jobs.job_queue import JobQueue
from server.jobs.job_state import JobProgress
from server.store import jobs
from server.store.database import Database
from tests.fake_time import FakeTime
from tests.server.jobs.conftest import soon
from tests.server.jobs.queue_steps import running, settle, submit


async def test_submitted_job_is_on_disk_at_once(queue: JobQueue, tmp_path: Path) -> None:
    job = await submit(queue)

    other = Database(tmp_path / "jobs.sqlite3")
    found = await other.read(lambda connection: jobs.get(connection, job.id))
    other.close()
    assert found == job


async def test_claim_returns_jobs_in_order_of_submission(queue: JobQueue, clock: FakeTime) -> None:
    first, second = await submit(queue), await submit(queue)
    clock.now = 1234.0

    claimed = [await queue.claim(), await queue.claim()]

    assert [job.id for job in claimed] == [first.id, second.id]
    assert {(job.status, job.started_at) for job in claimed} == {(JobStatus.RUNNING, 1234.0)}


async def test_claim_waits_for_a_job_to_be_submitted(queue: JobQueue) -> None:
    claiming = asyncio.create_task(queue.claim())
    await settle(queue)

    job = await submit(queue)

    assert (await soon(claiming)).id == job.id


async def test_claim_waits_for_a_job_to_be_prepared(queue: JobQueue, clock: FakeTime) -> None:
    job = await submit(queue, prepared_at=None)
    claiming = asyncio.create_task(queue.claim())
    await settle(queue)
    assert not claiming.done()

    assert await queue.mark_prepared(job.id) is JobStatus.QUEUED

    claimed = await soon(claiming)
    assert (claimed.id, claimed.prepared_at) == (job.id, clock.now)


async def test_claim_skips_a_job_that_is_not_prepared(queue: JobQueue) -> None:
    await submit(queue, prepared_at=None)
    ready = await submit(queue)

    assert (await soon(queue.claim())).id == ready.id


async def test_concurrent_claims_get_different_jobs(queue: JobQueue) -> None:
    claiming = [asyncio.create_task(queue.claim()) for _ in range(2)]
    made = [await submit(queue) for _ in range(2)]

    claimed = await soon(asyncio.gather(*claiming))

    assert sorted(job.id for job in claimed) == sorted(job.id for job in made)


async def test_next_prepared_is_the_job_that_is_claimed_next(queue: JobQueue) -> None:
    await submit(queue, prepared_at=None)
    ready = await submit(queue)

    assert await queue.next_prepared() == ready
    assert (await queue.claim()).id == ready.id
    assert await queue.next_prepared() is None


async def test_finish_stores_the_outcome(queue: JobQueue, clock: FakeTime) -> None:
    job = await running(queue)
    clock.now = 1500.0

    await queue.finish(job, Outcome.failed("timeout", "Too long."))

    found = await queue.get(job.id)
    assert (found.status, found.finished_at) == (JobStatus.FAILED, 1500.0)
    assert found.error == JobError("timeout", "Too long.")


async def test_finish_leaves_an_ended_job_as_it_is(queue: JobQueue) -> None:
    job = await running(queue)
    await queue.finish(job, Outcome(JobStatus.CANCELED))

    answer = await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert answer.status is JobStatus.CANCELED
    assert await queue.get(job.id) == answer


async def test_unknown_job_is_not_found(queue: JobQueue) -> None:
    with pytest.raises(NotFound, match=r"^There is no job nobody\.$"):
        await queue.get("nobody")


async def test_mark_prepared_returns_canceled_when_the_job_was_canceled_meanwhile(
    queue: JobQueue,
) -> None:
    job = await submit(queue, prepared_at=None)
    await queue.cancel(job.id)

    assert await queue.mark_prepared(job.id) is JobStatus.CANCELED
    assert (await queue.get(job.id)).prepared_at is None


async def test_submit_raises_queue_full_when_the_limit_is_reached(queue: JobQueue) -> None:
    for _ in range(3):
        await submit(queue)

    with pytest.raises(QueueFull) as caught:
        await submit(queue)

    assert caught.value.retry_after_s == 30
    assert str(caught.value) == (
        "3 jobs wait, and the server takes at most 3. Try again in 30 seconds."
    )
    assert await queue.count(JobStatus.QUEUED) == 3


async def test_check_room_raises_queue_full_when_the_limit_is_reached(queue: JobQueue) -> None:
    await queue.check_room(None)
    for _ in range(3):
        await submit(queue)

    with pytest.raises(QueueFull):
        await queue.check_room(None)


async def test_running_job_does_not_count_as_waiting(queue: JobQueue) -> None:
    await running(queue)
    for _ in range(3):
        await submit(queue)

    assert await queue.count(JobStatus.QUEUED) == 3


async def test_concurrent_submits_never_exceed_the_limit(queue: JobQueue) -> None:
    answers = await asyncio.gather(*(submit(queue) for _ in range(10)), return_exceptions=True)

    assert sum(isinstance(answer, QueueFull) for answer in answers) == 7
    assert await queue.count(JobStatus.QUEUED) == 3


@pytest.mark.parametrize(("seconds", "expected"), [(0.1, 1), (12.3, 13)])
async def test_retry_after_is_the_mean_time_of_recent_jobs(
    queue: JobQueue, clock: FakeTime, seconds: float, expected: int
) -> None:
    job = await running(queue)
    clock.now += seconds
    await queue.finish(job, Outcome(JobStatus.SUCCEEDED))
    for _ in range(3):
        await submit(queue)

    with pytest.raises(QueueFull) as caught:
        await submit(queue)

    assert caught.value.retry_after_s == expected


async def test_cancel_ends_a_waiting_job_at_once(queue: JobQueue, clock: FakeTime) -> None:
    job = await submit(queue)

    canceled = await queue.cancel(job.id)

    assert (canceled.status, canceled.finished_at) == (JobStatus.CANCELED, clock.now)
    assert await queue.get(job.id) == canceled


async def test_cancel_of_a_running_job_is_stored_on_disk(queue: JobQueue) -> None:
    job = await running(queue)

    await queue.cancel(job.id)

    found = await queue.get(job.id)
    assert (found.status, found.cancel_requested) == (JobStatus.RUNNING, True)


async def test_cancel_leaves_a_final_job_as_it_is(queue: JobQueue) -> None:
    job = await running(queue)
    ended = await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert await queue.cancel(job.id) == ended
    assert await queue.get(job.id) == ended


async def test_cancel_raises_not_found_for_an_unknown_job(queue: JobQueue) -> None:
    with pytest.raises(NotFound):
        await queue.cancel("nobody")


async def test_concurrent_cancel_and_claim_agree(queue: JobQueue) -> None:
    job = await submit(queue)
    claiming = asyncio.create_task(queue.claim())

    answer = await queue.cancel(job.id)

    found = await queue.get(job.id)
    assert answer == found
    assert found.status is JobStatus.CANCELED or found.cancel_requested
    claiming.cancel()


async def test_requeue_keeps_the_place_of_the_job(queue: JobQueue) -> None:
    job = await running(queue)
    await submit(queue)
    queue.report(job.id, JobProgress("denoise", 3, 40))

    await queue.requeue(job)

    state = await queue.state(job.id, EVERYBODY)
    assert (state.job.status, state.position, state.progress) == (JobStatus.QUEUED, 0, None)
    assert state.job.attempts == 1
    assert (await queue.claim()).id == job.id


async def test_requeue_wakes_a_waiting_claim(queue: JobQueue) -> None:
    job = await running(queue)
    claiming = asyncio.create_task(queue.claim())
    await settle(queue)

    await queue.requeue(job)

    assert (await soon(claiming)).id == job.id


async def test_requeue_ends_a_job_with_a_pending_cancel(queue: JobQueue) -> None:
    job = await running(queue)
    await queue.cancel(job.id)

    await queue.requeue(job)

    assert (await queue.get(job.id)).status is JobStatus.CANCELED


async def test_cancel_survives_a_concurrent_death_of_the_worker(queue: JobQueue) -> None:
    job = await running(queue)

    await asyncio.gather(queue.requeue(job), queue.cancel(job.id))

    found = await queue.get(job.id)
    assert found.status is JobStatus.CANCELED or found.cancel_requested


async def test_delete_removes_final_jobs_only(queue: JobQueue) -> None:
    job = await running(queue)
    assert not await queue.delete(job.id)
    await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert await queue.delete(job.id)
    with pytest.raises(NotFound):
        await queue.get(job.id)


async def test_lora_references_are_those_of_unfinished_jobs(queue: JobQueue) -> None:
    def params(*names: str) -> EditParams:
        return EditParams(prompt="x", seed=1, loras=tuple(LoraRef(name) for name in names))

    await submit(queue, params=params("ended"))
    await queue.finish(await queue.claim(), Outcome(JobStatus.SUCCEEDED))
    await submit(queue, params=params("running", "both"))
    await queue.claim()
    await submit(queue, params=params("both", "waiting"))

    assert await queue.lora_references() == {"running", "both", "waiting"}


async def test_search_returns_the_newest_first(queue: JobQueue) -> None:
    made = [await submit(queue) for _ in range(3)]

    found, total = await queue.search(jobs.JobFilter(), EVERYBODY, limit=2, offset=0)

    assert ([job.id for job in found], total) == ([made[2].id, made[1].id], 3)


async def test_finished_before_returns_old_final_jobs(queue: JobQueue, clock: FakeTime) -> None:
    old = await queue.finish(await running(queue), Outcome(JobStatus.SUCCEEDED))
    await submit(queue)

    assert await queue.finished_before(clock.now + 1) == [old]
    assert await queue.finished_before(clock.now) == []
