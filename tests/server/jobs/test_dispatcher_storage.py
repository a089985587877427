"""Jobs while the database cannot be written: each change waits until the disk takes it."""

import asyncio
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server import durable_files
from server.caller import EVERYBODY
from server.errors import StorageFull
from server.job import JobStatus, Output
from server.jobs.dispatcher import MAX_DELIVERIES_PER_WORKER
from server.media.outputs import OutputStore
from server.store.database import Database
from server.store.retry import MAX_RETRY_S
from tests.fake_executor import FakeRun
from tests.fake_time import FakeTime
from tests.server.jobs.conftest import IMAGE, Scene, soon
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
        state = await scene.queue.state(job.id, EVERYBODY)
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


@pytest.fixture
def full_disk(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A disk that takes no file until the patch is undone."""

    def refuse(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(durable_files, "sync", refuse)
        yield patch


async def test_outputs_wait_for_a_full_disk_and_no_more_jobs_run_meanwhile(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    submitted = [await scene.submit() for _ in range(3)]
    full_disk: pytest.MonkeyPatch = request.getfixturevalue("full_disk")
    async with scene.serving():
        for _ in range(MAX_DELIVERIES_PER_WORKER):
            succeed(await scene.started())
        await soon(scene.time.pass_by(0))
        await asyncio.sleep(0.05)
        assert scene.executor.started.empty()
        assert scene.readiness.reason == (
            "The output cannot be stored: No space left on device. Try again later."
        )
        full_disk.undo()
        await soon(scene.time.pass_by(MAX_RETRY_S))
        succeed(await scene.started())
        ended = [await scene.ended(job) for job in submitted]

    assert [job.status for job in ended] == [JobStatus.SUCCEEDED] * 3
    assert len(scene.output_files()) == 3
    assert scene.readiness.reason is None


async def test_stored_output_does_not_hide_that_another_still_waits(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await scene.submit(), await scene.submit()
    write, attempts = OutputStore.write, iter(range(100))

    async def refuse_once(*args: Any, **options: Any) -> Output:
        if next(attempts) == 0:
            raise StorageFull("full")
        return await write(*args, **options)

    monkeypatch.setattr(OutputStore, "write", refuse_once)
    async with scene.serving():
        succeed(await scene.started())
        await soon(scene.time.pass_by(0))
        succeed(await scene.started())
        assert (await scene.ended(second)).status is JobStatus.SUCCEEDED
        assert scene.readiness.reason == "full"
        await soon(scene.time.pass_by(MAX_RETRY_S))
        assert (await scene.ended(first)).status is JobStatus.SUCCEEDED

    assert scene.readiness.reason is None


async def test_submit_to_a_full_disk_is_refused_and_leaves_nothing(
    scene: Scene, full_disk: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageFull, match="The image cannot be stored: No space left"):
        await scene.submit()

    assert scene.input_folders() == set()
    assert (await scene.queue.count(JobStatus.QUEUED)) == 0


async def test_download_waits_for_a_full_disk(
    scene: Scene, full_disk: pytest.MonkeyPatch, file_host: tuple[str, Path]
) -> None:
    address, folder = file_host
    (folder / "a.png").write_bytes(IMAGE)
    job = await scene.submit(images=[f"{address}/a.png"])
    async with scene.serving():
        await soon(scene.time.pass_by(0))
        assert scene.readiness.reason is not None
        full_disk.undo()
        await soon(scene.time.pass_by(MAX_RETRY_S))
        succeed(await scene.started())
        assert (await scene.ended(job)).status is JobStatus.SUCCEEDED

    assert scene.readiness.reason is None
