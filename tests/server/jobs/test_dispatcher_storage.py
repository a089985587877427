"""Jobs while the database cannot be written: each change waits until the disk takes it."""

from collections.abc import Callable

import pytest

from server.errors import StorageFull
from server.job import JobStatus
from server.store.database import MAX_RETRY_S, Database
from tests.fake_executor import FakeRun
from tests.fake_time import FakeTime
from tests.server.jobs.conftest import Scene, soon
from tests.server.jobs.unwritable import LONG_TEXT, WAYS, unwritable


def succeed(run: FakeRun) -> None:
    run.image()
    run.done()


def fail(run: FakeRun) -> None:
    run.fail("inference_failed", LONG_TEXT)


@pytest.mark.parametrize("way", WAYS)
async def test_end_of_a_job_is_retried_until_it_is_written(
    scene: Scene, database: Database, clock: FakeTime, way: str
) -> None:
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        async with unwritable(database, scene.folder / "jobs.sqlite3", way):
            fail(run)
            # returns once the retry is waiting
            await soon(clock.pass_by(0))
            assert scene.queue.storage_failure is not None
            assert (await scene.queue.get(job.id)).status is JobStatus.RUNNING
        await soon(clock.pass_by(MAX_RETRY_S))
        ended = await scene.ended(job)

    assert ended.error is not None
    assert (ended.error.code, ended.error.message) == ("inference_failed", LONG_TEXT)
    assert scene.queue.storage_failure is None


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (succeed, JobStatus.SUCCEEDED),
        (FakeRun.leave, JobStatus.CANCELED),
        (FakeRun.die, JobStatus.QUEUED),
    ],
)
async def test_every_end_of_a_run_waits_for_the_disk(
    scene: Scene,
    database: Database,
    clock: FakeTime,
    end: Callable[[FakeRun], None],
    status: JobStatus,
) -> None:
    job = await scene.submit()
    async with scene.serving("dispatcher"):
        run = await scene.started()
        async with unwritable(database, scene.folder / "jobs.sqlite3"):
            end(run)
            await soon(clock.pass_by(0))
        await soon(clock.pass_by(MAX_RETRY_S))
        if status is JobStatus.QUEUED:
            succeed(await scene.started())
            status = JobStatus.SUCCEEDED
        ended = await scene.ended(job)

    assert ended.status is status


async def test_waiting_job_is_claimed_once_the_disk_takes_it(
    scene: Scene, database: Database, clock: FakeTime
) -> None:
    job = await scene.submit()
    async with scene.serving():
        # the context ends while the dispatcher still runs
        first = await scene.started()
        waiting = await scene.submit()
        async with unwritable(database, scene.folder / "jobs.sqlite3"):
            succeed(first)
            await soon(clock.pass_by(0))
        await soon(clock.pass_by(MAX_RETRY_S))
        second = await scene.started()

    assert (first.job_id, second.job_id) == (job.id, waiting.id)


async def test_cancel_and_delete_of_a_running_job_are_refused_and_change_nothing(
    scene: Scene, database: Database, clock: FakeTime
) -> None:
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        async with unwritable(database, scene.folder / "jobs.sqlite3"):
            with pytest.raises(StorageFull, match="cannot be written: database is locked"):
                await scene.service.cancel(job.id)
            with pytest.raises(StorageFull):
                await scene.service.delete_any(job.id)
        state = await scene.queue.state(job.id)
        succeed(run)
        ended = await scene.ended(job)

    assert (state.job.status, state.job.cancel_requested) == (JobStatus.RUNNING, False)
    assert scene.executor.canceled == []
    assert ended.status is JobStatus.SUCCEEDED


async def test_inputs_that_cannot_be_removed_do_not_stop_the_dispatcher(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(job_id: str) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(scene.inputs, "release", refuse)
    job, following = await scene.submit(), await scene.submit()
    async with scene.serving():
        fail(await scene.started())
        assert (await scene.ended(job)).status is JobStatus.FAILED
        assert (await scene.started()).job_id == following.id
