"""Reading jobs: their states, waiting for their end, watching their changes."""

import asyncio
from functools import partial
from typing import Any

import pytest

from server.caller import EVERYBODY
from server.errors import NotFound
from server.job import Job, JobStatus, Outcome
from server.jobs.job_queue import JobQueue
from server.jobs.job_state import JobProgress, JobState
from server.jobs.queue_limits import QueueLimits
from server.store import turns
from server.store.database import Database
from tests.server.jobs.conftest import soon
from tests.server.jobs.queue_steps import running, settle, submit


async def test_state_has_the_position_of_a_waiting_job(queue: JobQueue) -> None:
    await running(queue)
    waiting = [await submit(queue) for _ in range(2)]

    states = [await queue.state(job.id, EVERYBODY) for job in waiting]

    assert [(state.position, state.progress) for state in states] == [(0, None), (1, None)]


async def test_state_has_the_progress_of_a_running_job(queue: JobQueue) -> None:
    job = await running(queue)
    queue.report(job.id, JobProgress("denoise", 3, 40))

    assert await queue.state(job.id, EVERYBODY) == JobState(
        job, None, JobProgress("denoise", 3, 40)
    )


async def test_state_of_a_final_job_has_neither(queue: JobQueue) -> None:
    job = await running(queue)
    queue.report(job.id, JobProgress("denoise", 3, 40))
    ended = await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert await queue.state(job.id, EVERYBODY) == JobState(ended, None, None)


async def test_wait_returns_a_final_job_at_once(queue: JobQueue) -> None:
    job = await running(queue)
    ended = await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert await soon(queue.wait(job.id)) == ended


async def test_wait_returns_when_the_job_ends(queue: JobQueue) -> None:
    job = await running(queue)
    waiting = [asyncio.create_task(queue.wait(job.id)) for _ in range(2)]
    await settle(queue)
    queue.report(job.id, JobProgress("denoise", 1, 2))

    ended = await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert await soon(asyncio.gather(*waiting)) == [ended, ended]


async def test_wait_returns_the_unfinished_job_after_its_timeout(queue: JobQueue) -> None:
    job = await running(queue)

    assert await soon(queue.wait(job.id, timeout_s=0.01)) == job


async def test_wait_returns_when_the_server_closes(queue: JobQueue) -> None:
    job = await running(queue)
    waiting = asyncio.create_task(queue.wait(job.id))
    await settle(queue)

    queue.close()

    assert await soon(waiting) == job


async def test_wait_raises_not_found_for_an_unknown_job(queue: JobQueue) -> None:
    with pytest.raises(NotFound):
        await queue.wait("nobody")


async def test_watch_yields_every_state_until_the_job_has_ended(queue: JobQueue) -> None:
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


async def test_watch_moves_back_when_another_owner_submits(queue: JobQueue) -> None:
    _, job = await submit(queue, owner="alice"), await submit(queue, owner="alice")
    states = queue.watch(job.id)
    first = await soon(anext(states))

    await submit(queue, owner="bob")

    assert (first.position, (await soon(anext(states))).position) == (1, 2)
    await states.aclose()


async def test_watch_yields_a_final_job_once(queue: JobQueue) -> None:
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


async def test_closed_watcher_is_dropped(queue: JobQueue) -> None:
    job = await running(queue)
    states = queue.watch(job.id)
    await soon(anext(states))

    await states.aclose()

    assert queue._watchers._watches == {}


async def test_one_read_moves_all_followers(
    queue: JobQueue, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of followers that read for themselves would keep every other read waiting."""
    monkeypatch.setattr(queue, "_limits", QueueLimits(100))
    jobs = [await submit(queue) for _ in range(40)]
    followers = [queue.watch(job.id) for job in jobs]
    for states in followers:
        await soon(anext(states))
    reads = 0
    read = database.read

    async def counting(work: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(work)

    monkeypatch.setattr(database, "read", counting)
    monkeypatch.setattr(queue._waits, "_positions", partial(counting, turns.positions))
    await queue.claim()
    states = [await soon(anext(states)) for states in followers[1:]]

    assert [state.position for state in states] == list(range(39))
    assert reads == 1
    for states in followers:
        await states.aclose()


async def test_moves_that_come_together_are_announced_together(queue: JobQueue) -> None:
    jobs = [await submit(queue) for _ in range(3)]
    states = queue.watch(jobs[2].id)
    seen = [await soon(anext(states))]

    for job in jobs[:2]:
        await queue.cancel(job.id)
    while seen[-1].position != 0:
        seen.append(await soon(anext(states)))

    assert [state.position for state in seen] in ([2, 0], [2, 1, 0])
    await states.aclose()


async def test_who_waits_for_a_job_is_not_woken_by_the_others(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, job = await running(queue), await submit(queue)
    reads = 0
    get = queue._waits._get

    async def counting(job_id: str) -> Job:
        nonlocal reads
        reads += 1
        return await get(job_id)

    monkeypatch.setattr(queue._waits, "_get", counting)
    waiting = asyncio.create_task(queue.wait(job.id))
    await settle(queue)

    await queue.finish(ahead, Outcome(JobStatus.SUCCEEDED))
    await settle(queue)
    await queue.cancel(job.id)

    assert (await soon(waiting)).status is JobStatus.CANCELED
    assert reads == 2
