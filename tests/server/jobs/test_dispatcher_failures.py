"""The dispatcher when something fails: workers, time limits, cancels, files."""

import pytest

from server.errors import ServerError
from server.job import JobStatus
from server.jobs.job_state import JobProgress
from server.jobs.run_limits import CANCEL_GRACE_S
from tests.server.jobs.conftest import JOB_TIMEOUT_S, Scene, soon


async def test_job_that_the_worker_refuses_fails_with_its_words(scene: Scene) -> None:
    job, following = await scene.submit(), await scene.submit()
    async with scene.serving():
        (await scene.started()).fail("out_of_memory", "cuda:0 has too little memory.")
        ended = await scene.ended(job)
        assert (await scene.started()).job_id == following.id

    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert (ended.error.code, ended.error.message) == (
        "out_of_memory",
        "cuda:0 has too little memory.",
    )


async def test_job_runs_again_when_its_worker_dies_once(scene: Scene) -> None:
    job = await scene.submit()
    async with scene.serving():
        (await scene.started()).die()
        again = await scene.started()
        again.image()
        again.done()
        ended = await scene.ended(job)

    assert again.job_id == job.id
    assert (ended.status, ended.attempts, ended.starts) == (JobStatus.SUCCEEDED, 1, 2)


async def test_job_fails_when_its_worker_dies_twice(scene: Scene) -> None:
    job = await scene.submit()
    async with scene.serving():
        (await scene.started()).die()
        (await scene.started()).die()
        ended = await scene.ended(job)

    assert ended.error is not None
    assert ended.error.code == "worker_lost"
    assert "died 2 times" in ended.error.message
    assert "Last: worker 7 was killed by SIGKILL." in ended.error.message


async def test_canceled_job_whose_worker_dies_is_canceled_and_its_images_go(scene: Scene) -> None:
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        await scene.service.cancel(job.id)
        run.die()
        ended = await scene.ended(job)
        await soon(scene.inputs.released.get())

    assert scene.input_folders() == set()
    assert (ended.status, ended.starts) == (JobStatus.CANCELED, 1)


async def test_overdue_job_is_left_at_its_next_step_and_fails(scene: Scene) -> None:
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        await soon(scene.time.pass_by(JOB_TIMEOUT_S))
        run.step()
        run.leave()
        ended = await scene.ended(job)

    assert job.id in scene.executor.canceled
    assert scene.executor.killed == []
    assert ended.error is not None
    assert (ended.error.code, ended.error.message) == (
        "timeout",
        "The job ran longer than the allowed 100 seconds.",
    )


async def test_overdue_job_that_is_not_left_loses_its_worker_and_does_not_run_again(
    scene: Scene,
) -> None:
    job = await scene.submit()
    async with scene.serving():
        await scene.started()
        await soon(scene.time.pass_by(JOB_TIMEOUT_S))
        await soon(scene.time.pass_by(CANCEL_GRACE_S))
        ended = await scene.ended(job)

    assert scene.executor.killed == [job.id]
    assert ended.error is not None
    assert ended.error.code == "timeout"
    assert ended.attempts == 0


async def test_time_limit_ends_with_the_run(scene: Scene) -> None:
    first, second = await scene.submit(), await scene.submit()
    async with scene.serving():
        (await scene.started()).fail("inference_failed", "No.")
        await scene.ended(first)
        run = await scene.started()
        await soon(scene.time.pass_by(JOB_TIMEOUT_S - 1))
        run.image()
        run.done()
        ended = await scene.ended(second)

    assert ended.status is JobStatus.SUCCEEDED
    assert scene.executor.canceled == []


async def test_running_job_is_canceled_when_its_worker_has_left_it(scene: Scene) -> None:
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        answer = await scene.service.cancel(job.id)
        run.leave()
        ended = await scene.ended(job)

    assert (answer.status, answer.cancel_requested) == (JobStatus.RUNNING, True)
    assert scene.executor.canceled == [job.id]
    assert (ended.status, ended.outputs) == (JobStatus.CANCELED, ())


async def test_cancel_that_came_before_the_worker_had_the_job_is_repeated(scene: Scene) -> None:
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        await scene.service.cancel(job.id)
        scene.executor.canceled.clear()
        run.step()
        run.leave()
        await scene.ended(job)

    assert scene.executor.canceled == [job.id]


async def test_job_that_is_done_before_a_cancel_arrives_succeeds(scene: Scene) -> None:
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        await scene.service.cancel(job.id)
        run.image()
        run.done()
        ended = await scene.ended(job)

    assert ended.status is JobStatus.SUCCEEDED


async def test_outputs_that_cannot_be_written_fail_the_job(scene: Scene) -> None:
    job, following = await scene.submit(), await scene.submit()
    folder = scene.folder / "outputs"
    folder.rmdir()
    folder.write_text("in the way")
    async with scene.serving():
        run = await scene.started()
        run.image()
        run.done()
        ended = await scene.ended(job)
        assert (await scene.started()).job_id == following.id

    assert ended.error is not None
    assert ended.error.code == "internal_error"
    assert ended.error.message.startswith("The outputs cannot be written: ")


async def test_unexpected_exception_fails_the_job_without_its_text_and_the_next_one_runs(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    job, following = await scene.submit(), await scene.submit()
    async with scene.serving():
        (await scene.started()).events.put_nowait(RuntimeError("a secret path"))
        ended = await scene.ended(job)
        assert (await scene.started()).job_id == following.id

    assert ended.error is not None
    assert (ended.error.code, ended.error.message) == (ServerError.code, str(ServerError()))
    assert "a secret path" in caplog.text


async def test_fault_between_two_events_gives_the_worker_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await scene.submit()

    def broken(job_id: str, progress: JobProgress) -> None:
        raise RuntimeError

    monkeypatch.setattr(scene.queue, "report", broken)
    async with scene.serving():
        (await scene.started()).step()
        ended = await scene.ended(job)

        assert ended.status is JobStatus.FAILED
        assert scene.executor.running == {}


async def test_job_whose_images_are_gone_fails(scene: Scene) -> None:
    job = await scene.submit()
    await scene.images.delete(job.id)
    async with scene.serving():
        ended = await scene.ended(job)

    assert ended.error is not None
    assert ended.error.code == "not_found"
