"""The LoRA files of a run: resolved in preparation, checked before the run, preloaded."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from pipelines.api.messages import Stage
from server.job import JobStatus
from tests.server.jobs.conftest import Scene, soon
from tests.server.loras.conftest import lora_bytes

MakeScene = Callable[..., Awaitable[Scene]]


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


async def prepared_loras(scene: Scene, job_id: str) -> tuple[object, ...]:
    """The LoRA files of a job, once it is prepared."""
    states = scene.queue.watch(job_id)
    async for state in states:
        if state.job.prepared_at is not None:
            break
    await states.aclose()
    return await scene.inputs.loras(await scene.queue.get(job_id))
