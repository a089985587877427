"""The dispatcher: from a claimed job to its outcome, along every path that can fail."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import PIL.Image
import pytest

from pipelines.api.messages import Preview, Stage
from server.errors import ContentBlocked, ServerError
from server.job import JobStatus
from server.jobs import dispatcher as dispatching
from server.jobs.dispatcher import CANCEL_GRACE_S
from server.jobs.job_queue import JobProgress
from tests.server.jobs.conftest import JOB_TIMEOUT_S, Scene, soon
from tests.server.loras.conftest import lora_bytes

MakeScene = Callable[..., Awaitable[Scene]]


async def test_run_gets_the_images_and_ends_as_a_file(scene: Scene) -> None:
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        run.image()
        run.done()
        ended = await scene.ended(job)

    assert (run.job_id, run.params, run.loras) == (job.id, job.request.params, ())
    assert [reference[:4] for reference in run.references] == [b"\x89PNG"]
    [output], [path] = ended.outputs, scene.output_files()
    assert (ended.status, path.name, output.seed) == (JobStatus.SUCCEEDED, output.name, 5)
    with PIL.Image.open(path) as image:
        assert image.size == (output.width, output.height) == (2, 1)


async def test_outcome_has_what_the_worker_filled_in_and_the_seconds_of_each_stage(
    scene: Scene,
) -> None:
    job = await scene.submit()
    scene.time.now += 7
    async with scene.serving():
        run = await scene.started()
        run.image()
        run.done()
        outcome = (await scene.ended(job)).outcome

    assert outcome is not None
    assert (outcome.num_inference_steps, outcome.true_cfg_scale) == (40, 4.0)
    assert (outcome.used_prompt, outcome.is_prompt_extended) == ("make it blue", False)
    seconds = dict(outcome.seconds)
    assert seconds.pop("deliver") >= 0
    assert seconds == {"prepare": 0, "queued": 7, "encode": 0.25, "denoise": 2.0, "decode": 0.5}


@pytest.mark.parametrize("embed_prompt", [True, False])
async def test_prompt_is_in_the_metadata_only_if_the_operator_asks(
    make_scene: MakeScene, embed_prompt: bool
) -> None:
    scene = await make_scene(embed_prompt=embed_prompt)
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        run.image()
        run.done()
        await scene.ended(job)

    [path] = scene.output_files()
    assert (b"make it blue" in path.read_bytes()) is embed_prompt


async def test_next_job_runs_while_the_outputs_of_the_last_are_written(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = asyncio.Event()
    write = scene.outputs.write

    async def wait_and_write(*args: object, **options: object) -> object:
        await written.wait()
        return await write(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(scene.outputs, "write", wait_and_write)
    first, second = await scene.submit(), await scene.submit()
    async with scene.serving():
        run = await scene.started()
        run.image()
        run.done()
        following = await scene.started()
        assert (await scene.queue.get(first.id)).status is JobStatus.RUNNING
        written.set()
        assert (await scene.ended(first)).status is JobStatus.SUCCEEDED

    assert following.job_id == second.id


async def test_steps_and_previews_are_shown_while_the_job_runs(scene: Scene) -> None:
    job = await scene.submit()
    preview = Preview(job.id, 0, 1, 1, b"abc")
    async with scene.serving():
        run = await scene.started()
        states = scene.queue.watch(job.id)
        run.step(step=2, total=4)
        run.send(preview)
        while not (state := await soon(anext(states))).previews:
            pass
        await states.aclose()

    assert state.progress == JobProgress(Stage.DENOISE, 2, 4)
    assert state.previews == (preview,)


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


@pytest.mark.parametrize("unsafe", [(True, False), (False, True), (False, False)])
async def test_unsafe_output_blocks_them_all_and_none_is_written(
    make_scene: MakeScene, unsafe: tuple[bool, bool]
) -> None:
    scene = await make_scene(blocks_unsafe=True)
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        for index, is_unsafe in enumerate(unsafe):
            run.image(index=index, is_unsafe=is_unsafe)
        run.done()
        ended = await scene.ended(job)

    if any(unsafe):
        assert ended.error is not None
        assert (ended.error.code, ended.error.message) == (
            ContentBlocked.code,
            str(ContentBlocked()),
        )
        assert scene.output_files() == []
    else:
        assert (ended.status, len(scene.output_files())) == (JobStatus.SUCCEEDED, 2)


async def test_unsafe_output_is_flagged_where_it_is_not_blocked(scene: Scene) -> None:
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        run.image(is_unsafe=True)
        run.done()
        ended = await scene.ended(job)

    assert [output.is_unsafe for output in ended.outputs] == [True]


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


@pytest.mark.parametrize("keep_images", [True, False])
async def test_images_of_an_ended_job_go_unless_the_operator_keeps_them(
    make_scene: MakeScene, keep_images: bool
) -> None:
    scene = await make_scene(keep_images=keep_images)
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        assert scene.input_folders() == {job.id}
        run.image()
        run.done()
        await scene.ended(job)
        assert await soon(scene.inputs.released.get()) == job.id

    assert scene.input_folders() == ({job.id} if keep_images else set())


async def test_stop_waits_for_the_outputs_being_written(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, written = asyncio.Event(), asyncio.Event()
    write = scene.outputs.write

    async def wait_and_write(*args: object, **options: object) -> object:
        begun.set()
        await written.wait()
        return await write(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(scene.outputs, "write", wait_and_write)
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        run.image()
        run.done()
        await soon(begun.wait())
        asyncio.get_running_loop().call_soon(written.set)

    assert (await scene.queue.get(job.id)).status is JobStatus.SUCCEEDED


async def test_job_whose_outputs_take_too_long_at_a_stop_runs_again(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await make_scene()
    begun, never = asyncio.Event(), asyncio.Event()

    async def hang(*args: object, **options: object) -> None:
        begun.set()
        await never.wait()

    monkeypatch.setattr(scene.outputs, "write", hang)
    monkeypatch.setattr(dispatching, "DELIVERY_GRACE_S", 0.0)
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        run.image()
        run.done()
        await soon(begun.wait())
    following = await make_scene()

    async with following.serving():
        assert (await following.started()).job_id == job.id


async def test_stop_in_the_middle_of_a_job_runs_it_again_without_an_attempt(
    make_scene: MakeScene,
) -> None:
    scene = await make_scene()
    job = await scene.submit()
    async with scene.serving():
        await scene.started()
    assert scene.executor.running == {}
    following = await make_scene()

    async with following.serving():
        again = await following.started()
        found = await following.queue.get(job.id)

    assert (again.job_id, found.attempts, found.starts) == (job.id, 0, 2)


def store_lora(scene: Scene, seed: int = 0) -> Path:
    path = scene.folder / "weights" / "loras" / "style.safetensors"
    path.write_bytes(lora_bytes(scene.folder, seed=seed))
    return path


async def test_worker_gets_the_file_of_a_lora(scene: Scene) -> None:
    path = store_lora(scene)
    await scene.submit("style")
    async with scene.serving():
        [lora] = (await scene.started()).loras

    assert (lora.name, lora.path, lora.scale) == ("style.safetensors", str(path), 0.5)


async def test_lora_that_changes_after_preparation_runs_as_it_is_now(scene: Scene) -> None:
    store_lora(scene, seed=1)
    job = await scene.submit("style")
    async with scene.serving("preparer"):
        [prepared] = await soon(prepared_loras(scene, job.id))
    store_lora(scene, seed=2)
    async with scene.serving("dispatcher"):
        [lora] = (await scene.started()).loras

    assert lora.sha256 != prepared.sha256
    assert lora.path == prepared.path


async def test_lora_that_is_deleted_after_preparation_fails_the_job_by_its_name(
    scene: Scene,
) -> None:
    path = store_lora(scene)
    job = await scene.submit("style")
    async with scene.serving("preparer"):
        await soon(prepared_loras(scene, job.id))
    path.unlink()
    async with scene.serving("dispatcher"):
        ended = await scene.ended(job)

    assert ended.error is not None
    assert ended.error.code == "lora_not_found"
    assert "'style'" in ended.error.message


async def test_job_that_an_earlier_server_prepared_has_its_loras_resolved_again(
    make_scene: MakeScene,
) -> None:
    scene = await make_scene()
    path = store_lora(scene)
    job = await scene.submit("style")
    async with scene.serving("preparer"):
        [prepared] = await soon(prepared_loras(scene, job.id))
    following = await make_scene()

    async with following.serving("dispatcher"):
        [lora] = (await following.started()).loras

    assert lora == prepared
    assert lora.path == str(path)


async def test_loras_of_the_next_job_are_read_while_this_one_encodes(scene: Scene) -> None:
    store_lora(scene)
    running = await scene.submit()
    upcoming = await scene.submit("style")
    async with scene.serving():
        run = await scene.started()
        files = await soon(prepared_loras(scene, upcoming.id))
        run.step(Stage.ENCODE, 0)
        run.fail("inference_failed", "No.")
        await scene.ended(running)

    assert scene.executor.preloaded == [(running.id, files)]


async def test_missing_lora_of_the_next_job_does_not_disturb_this_one(scene: Scene) -> None:
    path = store_lora(scene)
    running = await scene.submit()
    upcoming = await scene.submit("style")
    async with scene.serving():
        run = await scene.started()
        await soon(prepared_loras(scene, upcoming.id))
        path.unlink()
        run.step(Stage.ENCODE, 0)
        run.image()
        run.done()
        assert (await scene.ended(running)).status is JobStatus.SUCCEEDED

    assert scene.executor.preloaded == []


async def test_as_many_jobs_run_as_the_executor_takes(scene: Scene) -> None:
    scene.executor.concurrency = 2
    jobs = [await scene.submit() for _ in range(3)]
    async with scene.serving():
        runs = [await scene.started() for _ in range(2)]
        assert (await scene.queue.get(jobs[2].id)).status is JobStatus.QUEUED
        runs[0].fail("inference_failed", "No.")
        third = await scene.started()

    assert {run.job_id for run in runs} == {jobs[0].id, jobs[1].id}
    assert third.job_id == jobs[2].id


async def prepared_loras(scene: Scene, job_id: str) -> tuple[object, ...]:
    """The LoRA files of a job, once it is prepared."""
    states = scene.queue.watch(job_id)
    async for state in states:
        if state.job.prepared_at is not None:
            break
    await states.aclose()
    return await scene.inputs.loras(await scene.queue.get(job_id))
