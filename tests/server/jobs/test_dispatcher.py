"""The dispatcher: from a claimed job to its outputs, and through a shutdown."""

import asyncio
from collections.abc import Awaitable, Callable

import PIL.Image
import pytest

from pipelines.api.messages import Preview, Stage
from server.errors import ContentBlocked
from server.job import JobStatus
from server.jobs import dispatcher as dispatching
from server.jobs.job_state import JobProgress
from tests.server.jobs.conftest import Scene, soon

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
