"""The queue over a real file: who gets a job, who is woken, and what a restart makes of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.api.params import EditParams, LoraRef
from server.errors import NotFound, QueueFull
from server.job import Job, JobError, JobStatus, Outcome
from server.jobs.job_queue import JobProgress, JobQueue, JobState
from server.limits import MAX_STARTS
from server.store import jobs
from server.store.database import Database
from tests.make_job import make_job

# Bounds a wait that should end at once, so that a broken queue fails instead of hanging.
PATIENCE_S = 60.0


class FakeClock:
    """A time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "jobs.sqlite3")
    yield database
    database.close()


@pytest.fixture
async def queue(database: Database, clock: FakeClock) -> JobQueue:
    queue = JobQueue(database, max_waiting=3, clock=clock)
    await queue.open()
    return queue


async def submit(queue: JobQueue, **changes: Any) -> Job:
    return await queue.submit(make_job(**changes))


async def running(queue: JobQueue) -> Job:
    await submit(queue)
    return await queue.claim()


async def soon(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, PATIENCE_S)


async def settle(queue: JobQueue) -> None:
    """Let other tasks go on until they wait: the file answers what they asked it before this."""
    await asyncio.sleep(0)
    await queue.delete("nobody")
    await queue.count(JobStatus.QUEUED)


async def test_submitted_job_is_on_disk_at_once(queue: JobQueue, tmp_path: Path) -> None:
    job = await submit(queue)

    other = Database(tmp_path / "jobs.sqlite3")
    found = await other.read(lambda connection: jobs.get(connection, job.id))
    other.close()
    assert found == job


async def test_claim_gives_jobs_in_their_order(queue: JobQueue, clock: FakeClock) -> None:
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


async def test_claim_waits_for_a_job_to_be_prepared(queue: JobQueue, clock: FakeClock) -> None:
    job = await submit(queue, prepared_at=None)
    claiming = asyncio.create_task(queue.claim())
    await settle(queue)
    assert not claiming.done()

    assert await queue.mark_prepared(job.id) is JobStatus.QUEUED

    claimed = await soon(claiming)
    assert (claimed.id, claimed.prepared_at) == (job.id, clock.now)


async def test_slow_download_holds_no_other_job_up(queue: JobQueue) -> None:
    await submit(queue, prepared_at=None)
    ready = await submit(queue)

    assert (await soon(queue.claim())).id == ready.id


async def test_two_that_claim_get_two_jobs(queue: JobQueue) -> None:
    claiming = [asyncio.create_task(queue.claim()) for _ in range(2)]
    made = [await submit(queue) for _ in range(2)]

    claimed = await soon(asyncio.gather(*claiming))

    assert sorted(job.id for job in claimed) == sorted(job.id for job in made)


async def test_next_prepared_is_the_one_that_is_claimed_next(queue: JobQueue) -> None:
    await submit(queue, prepared_at=None)
    ready = await submit(queue)

    assert await queue.next_prepared() == ready
    assert (await queue.claim()).id == ready.id
    assert await queue.next_prepared() is None


async def test_finish_writes_how_the_job_ended(queue: JobQueue, clock: FakeClock) -> None:
    job = await running(queue)
    clock.now = 1500.0

    await queue.finish(job, Outcome.failed("timeout", "Too long."))

    found = await queue.get(job.id)
    assert (found.status, found.finished_at) == (JobStatus.FAILED, 1500.0)
    assert found.error == JobError("timeout", "Too long.")


async def test_finish_of_a_job_that_has_ended_leaves_it_as_it_is(queue: JobQueue) -> None:
    job = await running(queue)
    await queue.finish(job, Outcome(JobStatus.CANCELED))

    answer = await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert answer.status is JobStatus.CANCELED
    assert await queue.get(job.id) == answer


async def test_unknown_job_is_not_found(queue: JobQueue) -> None:
    with pytest.raises(NotFound, match=r"^There is no job nobody\.$"):
        await queue.get("nobody")


async def test_mark_prepared_says_when_the_job_was_canceled_meanwhile(queue: JobQueue) -> None:
    job = await submit(queue, prepared_at=None)
    await queue.cancel(job.id)

    assert await queue.mark_prepared(job.id) is JobStatus.CANCELED
    assert (await queue.get(job.id)).prepared_at is None


async def test_queue_takes_as_many_as_may_wait_and_refuses_the_next(queue: JobQueue) -> None:
    for _ in range(3):
        await submit(queue)

    with pytest.raises(QueueFull) as caught:
        await submit(queue)

    assert caught.value.retry_after_s == 30
    assert str(caught.value) == (
        "3 jobs wait, and the server takes at most 3. Try again in 30 seconds."
    )
    assert await queue.count(JobStatus.QUEUED) == 3


async def test_check_room_refuses_before_an_image_is_looked_at(queue: JobQueue) -> None:
    await queue.check_room()
    for _ in range(3):
        await submit(queue)

    with pytest.raises(QueueFull):
        await queue.check_room()


async def test_running_job_takes_no_waiting_place(queue: JobQueue) -> None:
    await running(queue)
    for _ in range(3):
        await submit(queue)

    assert await queue.count(JobStatus.QUEUED) == 3


async def test_burst_of_submits_never_exceeds_the_bound(queue: JobQueue) -> None:
    answers = await asyncio.gather(*(submit(queue) for _ in range(10)), return_exceptions=True)

    assert sum(isinstance(answer, QueueFull) for answer in answers) == 7
    assert await queue.count(JobStatus.QUEUED) == 3


@pytest.mark.parametrize(("seconds", "expected"), [(0.1, 1), (12.3, 13)])
async def test_retry_after_is_what_jobs_took_lately(
    queue: JobQueue, clock: FakeClock, seconds: float, expected: int
) -> None:
    job = await running(queue)
    clock.now += seconds
    await queue.finish(job, Outcome(JobStatus.SUCCEEDED))
    for _ in range(3):
        await submit(queue)

    with pytest.raises(QueueFull) as caught:
        await submit(queue)

    assert caught.value.retry_after_s == expected


async def test_state_has_the_position_of_a_waiting_job(queue: JobQueue) -> None:
    await running(queue)
    waiting = [await submit(queue) for _ in range(2)]

    states = [await queue.state(job.id) for job in waiting]

    assert [(state.position, state.progress) for state in states] == [(0, None), (1, None)]


async def test_state_has_the_progress_of_a_running_job(queue: JobQueue) -> None:
    job = await running(queue)
    queue.report(job.id, JobProgress("denoise", 3, 40))

    assert await queue.state(job.id) == JobState(job, None, JobProgress("denoise", 3, 40))


async def test_state_of_a_final_job_has_neither(queue: JobQueue) -> None:
    job = await running(queue)
    queue.report(job.id, JobProgress("denoise", 3, 40))
    ended = await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert await queue.state(job.id) == JobState(ended, None, None)


async def test_wait_gives_a_final_job_at_once(queue: JobQueue) -> None:
    job = await running(queue)
    ended = await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert await soon(queue.wait(job.id)) == ended


async def test_wait_wakes_up_when_the_job_ends(queue: JobQueue) -> None:
    job = await running(queue)
    waiting = [asyncio.create_task(queue.wait(job.id)) for _ in range(2)]
    await settle(queue)
    queue.report(job.id, JobProgress("denoise", 1, 2))

    ended = await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert await soon(asyncio.gather(*waiting)) == [ended, ended]


async def test_wait_gives_the_job_as_it_is_after_its_time(queue: JobQueue) -> None:
    job = await running(queue)

    assert await soon(queue.wait(job.id, timeout_s=0.01)) == job


async def test_wait_ends_when_the_server_closes(queue: JobQueue) -> None:
    job = await running(queue)
    waiting = asyncio.create_task(queue.wait(job.id))
    await settle(queue)

    queue.close()

    assert await soon(waiting) == job


async def test_wait_for_an_unknown_job_is_refused(queue: JobQueue) -> None:
    with pytest.raises(NotFound):
        await queue.wait("nobody")


async def test_watch_gives_the_states_from_the_queue_to_the_end(queue: JobQueue) -> None:
    ahead = await submit(queue)
    job = await submit(queue)
    states = queue.watch(job.id)
    seen = [await soon(anext(states))]
    await queue.claim()
    seen.append(await soon(anext(states)))
    await queue.finish(await queue.get(ahead.id), Outcome(JobStatus.SUCCEEDED))
    claimed = await queue.claim()
    seen.append(await soon(anext(states)))
    queue.report(job.id, JobProgress("denoise", 1, 2))
    seen.append(await soon(anext(states)))
    await queue.finish(claimed, Outcome(JobStatus.SUCCEEDED))
    seen.append(await soon(anext(states)))

    assert [(state.job.status.value, state.position, state.progress) for state in seen] == [
        ("queued", 1, None),
        ("queued", 0, None),
        ("running", None, None),
        ("running", None, JobProgress("denoise", 1, 2)),
        ("succeeded", None, None),
    ]
    with pytest.raises(StopAsyncIteration):
        await soon(anext(states))


async def test_watch_moves_up_when_a_job_ahead_is_canceled(queue: JobQueue) -> None:
    ahead, job = await submit(queue), await submit(queue)
    states = queue.watch(job.id)
    first = await soon(anext(states))

    await queue.cancel(ahead.id)

    assert (first.position, (await soon(anext(states))).position) == (1, 0)
    await states.aclose()


async def test_watch_moves_up_when_a_job_ahead_fails_before_it_runs(queue: JobQueue) -> None:
    ahead, job = await submit(queue, prepared_at=None), await submit(queue)
    states = queue.watch(job.id)
    first = await soon(anext(states))

    await queue.finish(ahead, Outcome.failed("fetch_failed", "Gone."))

    assert (first.position, (await soon(anext(states))).position) == (1, 0)
    await states.aclose()


async def test_watch_moves_back_when_a_job_ahead_is_requeued(queue: JobQueue) -> None:
    ahead, job = await running(queue), await submit(queue)
    states = queue.watch(job.id)
    first = await soon(anext(states))

    await queue.requeue(ahead)

    assert (first.position, (await soon(anext(states))).position) == (0, 1)
    await states.aclose()


async def test_watch_of_a_final_job_gives_it_once(queue: JobQueue) -> None:
    job = await running(queue)
    ended = await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert [state.job async for state in queue.watch(job.id)] == [ended]


async def test_watch_ends_when_the_server_closes(queue: JobQueue) -> None:
    job = await running(queue)
    states = queue.watch(job.id)
    await soon(anext(states))
    ending = asyncio.create_task(anext(states, None))

    queue.close()

    assert await soon(ending) is None


async def test_watcher_that_left_is_forgotten(queue: JobQueue) -> None:
    job = await running(queue)
    states = queue.watch(job.id)
    await soon(anext(states))

    await states.aclose()

    assert queue._watchers == {}


async def test_cancel_ends_a_waiting_job_at_once(queue: JobQueue, clock: FakeClock) -> None:
    job = await submit(queue)

    canceled = await queue.cancel(job.id)

    assert (canceled.status, canceled.finished_at) == (JobStatus.CANCELED, clock.now)
    assert await queue.get(job.id) == canceled


async def test_cancel_of_a_running_job_is_noted_on_disk(queue: JobQueue) -> None:
    job = await running(queue)

    await queue.cancel(job.id)

    found = await queue.get(job.id)
    assert (found.status, found.cancel_requested) == (JobStatus.RUNNING, True)


async def test_cancel_leaves_a_final_job_as_it_is(queue: JobQueue) -> None:
    job = await running(queue)
    ended = await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert await queue.cancel(job.id) == ended
    assert await queue.get(job.id) == ended


async def test_cancel_of_an_unknown_job_is_refused(queue: JobQueue) -> None:
    with pytest.raises(NotFound):
        await queue.cancel("nobody")


async def test_cancel_and_claim_at_the_same_time_agree(queue: JobQueue) -> None:
    job = await submit(queue)
    claiming = asyncio.create_task(queue.claim())

    answer = await queue.cancel(job.id)

    found = await queue.get(job.id)
    assert answer == found
    assert found.status is JobStatus.CANCELED or found.cancel_requested
    claiming.cancel()


async def test_requeue_puts_the_job_back_at_its_place(queue: JobQueue) -> None:
    job = await running(queue)
    await submit(queue)
    queue.report(job.id, JobProgress("denoise", 3, 40))

    await queue.requeue(job)

    state = await queue.state(job.id)
    assert (state.job.status, state.position, state.progress) == (JobStatus.QUEUED, 0, None)
    assert state.job.attempts == 1
    assert (await queue.claim()).id == job.id


async def test_requeue_wakes_who_claims(queue: JobQueue) -> None:
    job = await running(queue)
    claiming = asyncio.create_task(queue.claim())
    await settle(queue)

    await queue.requeue(job)

    assert (await soon(claiming)).id == job.id


async def test_requeue_ends_a_job_that_was_to_be_canceled(queue: JobQueue) -> None:
    job = await running(queue)
    await queue.cancel(job.id)

    await queue.requeue(job)

    assert (await queue.get(job.id)).status is JobStatus.CANCELED


async def test_cancel_is_not_lost_when_the_worker_dies_at_the_same_time(queue: JobQueue) -> None:
    job = await running(queue)

    await asyncio.gather(queue.requeue(job), queue.cancel(job.id))

    found = await queue.get(job.id)
    assert found.status is JobStatus.CANCELED or found.cancel_requested


async def test_delete_forgets_a_final_job_alone(queue: JobQueue) -> None:
    job = await running(queue)
    assert not await queue.delete(job.id)
    await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert await queue.delete(job.id)
    with pytest.raises(NotFound):
        await queue.get(job.id)


async def reopened(database: Database, clock: FakeClock) -> tuple[JobQueue, list[Job]]:
    """The queue of the next server on the same file, and what it has to prepare."""
    queue = JobQueue(database, max_waiting=3, clock=clock)
    return queue, await queue.open()


async def test_restart_keeps_waiting_jobs_in_their_order(
    queue: JobQueue, database: Database, clock: FakeClock
) -> None:
    made = [await submit(queue) for _ in range(3)]

    after, _ = await reopened(database, clock)

    assert [(await soon(after.claim())).id for _ in made] == [job.id for job in made]


async def test_restart_runs_an_interrupted_job_again_before_the_others(
    queue: JobQueue, database: Database, clock: FakeClock
) -> None:
    job = await running(queue)
    await submit(queue)

    after, _ = await reopened(database, clock)

    again = await soon(after.claim())
    assert (again.id, again.starts, again.attempts) == (job.id, 2, 0)


async def test_restart_gives_the_jobs_that_are_still_to_be_prepared(
    queue: JobQueue, database: Database, clock: FakeClock
) -> None:
    await submit(queue)
    unprepared = await submit(queue, prepared_at=None)

    _, found = await reopened(database, clock)

    assert found == [unprepared]


async def test_restart_ends_a_job_that_was_to_be_canceled(
    queue: JobQueue, database: Database, clock: FakeClock
) -> None:
    job = await running(queue)
    await queue.cancel(job.id)
    clock.now = 2000.0

    after, _ = await reopened(database, clock)

    found = await after.get(job.id)
    assert (found.status, found.finished_at) == (JobStatus.CANCELED, 2000.0)


async def test_restart_leaves_final_jobs_as_they_are(
    queue: JobQueue, database: Database, clock: FakeClock
) -> None:
    ended = await queue.finish(await running(queue), Outcome(JobStatus.SUCCEEDED))

    after, _ = await reopened(database, clock)

    assert await after.get(ended.id) == ended


async def test_job_that_was_started_ten_times_is_not_tried_again(
    queue: JobQueue, database: Database, clock: FakeClock
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


async def test_lora_references_are_those_of_unfinished_jobs(queue: JobQueue) -> None:
    def params(*names: str) -> EditParams:
        return EditParams(prompt="x", seed=1, loras=tuple(LoraRef(name) for name in names))

    await submit(queue, params=params("ended"))
    await queue.finish(await queue.claim(), Outcome(JobStatus.SUCCEEDED))
    await submit(queue, params=params("running", "both"))
    await queue.claim()
    await submit(queue, params=params("both", "waiting"))

    assert await queue.lora_references() == {"running", "both", "waiting"}


async def test_search_gives_the_newest_first(queue: JobQueue) -> None:
    made = [await submit(queue) for _ in range(3)]

    found, total = await queue.search(jobs.JobFilter(), limit=2, offset=0)

    assert ([job.id for job in found], total) == ([made[2].id, made[1].id], 3)


async def test_finished_before_gives_old_final_jobs(queue: JobQueue, clock: FakeClock) -> None:
    old = await queue.finish(await running(queue), Outcome(JobStatus.SUCCEEDED))
    await submit(queue)

    assert await queue.finished_before(clock.now + 1) == [old]
    assert await queue.finished_before(clock.now) == []


async def test_log_names_each_transition_and_no_prompt(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="server.jobs.job_queue")

    job = await running(queue)
    await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert [record.message for record in caplog.records] == [
        f"job {job.id} queued by native edits",
        f"job {job.id} started",
        f"job {job.id} succeeded",
    ]
