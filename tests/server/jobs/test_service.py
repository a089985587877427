"""The service: what a submit checks and leaves behind, cancelling, deleting, expiring."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from server.caller import EVERYBODY
from server.errors import (
    InvalidImage,
    InvalidLora,
    InvalidRequest,
    NotFound,
    QueueFull,
    ServerError,
    Unavailable,
)
from server.job import Job, JobStatus, Outcome
from server.store.idempotency import KeyedRequest
from server.store.jobs import JobFilter
from tests.conftest import as_base64
from tests.server.jobs.conftest import IMAGE, Scene, soon
from tests.server.loras.conftest import lora_bytes

MakeScene = Callable[..., Awaitable[Scene]]


def store_lora(scene: Scene, content: bytes | None = None) -> Path:
    path = scene.folder / "weights" / "loras" / "style.safetensors"
    path.write_bytes(lora_bytes(scene.folder) if content is None else content)
    return path


async def test_submitted_job_holds_the_request_and_is_on_disk(scene: Scene) -> None:
    job = await scene.submit(watermark="Qwen", quality=80, base_url="http://here")

    assert await scene.queue.get(job.id) == job
    request = job.request
    assert (request.watermark, request.quality, request.base_url) == ("Qwen", 80, "http://here")
    assert (job.images, job.prepared_at) == ((None,), scene.time.now)
    assert scene.input_folders() == {job.id}


async def test_job_with_a_url_waits_for_its_preparation(scene: Scene) -> None:
    job = await scene.submit(images=[IMAGE, "https://host/a.png"])

    assert (job.images, job.prepared_at) == ((None, "https://host/a.png"), None)


async def test_job_with_an_unhashed_lora_is_hashed_in_preparation_and_not_in_the_submit(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_lora(scene)
    hashed: list[Path] = []
    sha256 = scene.library._hashes.sha256

    def note(path: Path) -> str:
        hashed.append(path)
        return sha256(path)

    monkeypatch.setattr(scene.library._hashes, "sha256", note)
    first = await scene.submit("style")
    assert (first.prepared_at, hashed) == (None, [])
    async with scene.serving():
        await scene.started()
        second = await scene.submit("style")

    assert second.prepared_at is not None
    assert len(hashed) == 1


@pytest.mark.parametrize("count", [0, 4])
async def test_wrong_number_of_images_is_refused(scene: Scene, count: int) -> None:
    with pytest.raises(InvalidRequest, match=f"1 to 3 entries, got {count}"):
        await scene.submit(images=[IMAGE] * count)


async def test_submit_is_refused_while_no_model_can_be_loaded(scene: Scene) -> None:
    scene.executor.failure = "The model is broken."

    with pytest.raises(Unavailable, match=r"No model is loaded: The model is broken\."):
        await scene.submit()


async def test_refused_webhook_is_named_by_the_clients_field(scene: Scene) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await scene.submit(webhook="ftp://host", webhook_field="fal_webhook")

    assert caught.value.field == "fal_webhook"


async def test_unknown_lora_is_named_by_its_field(scene: Scene) -> None:
    store_lora(scene)

    with pytest.raises(InvalidLora, match="There is no LoRA 'nothing'") as caught:
        await scene.submit("style", "nothing")

    assert caught.value.field == "loras/1/path"


async def test_lora_that_is_none_is_refused_by_its_name(scene: Scene) -> None:
    store_lora(scene, b"<!doctype html><title>Sign in</title>")

    with pytest.raises(InvalidLora, match=r"style\.safetensors"):
        await scene.submit("style")


@pytest.mark.parametrize("broken", ["second image", "lora", "full queue"])
async def test_refused_submit_leaves_nothing_on_disk(scene: Scene, broken: str) -> None:
    expected: type[ServerError] = InvalidImage
    images, loras = [IMAGE, as_base64(IMAGE)], []
    match broken:
        case "second image":
            images[1] = b"no image"
        case "lora":
            expected, loras = InvalidLora, ["nothing"]
        case "full queue":
            expected = QueueFull
            for _ in range(3):
                await scene.submit(images=["https://host/a.png"])
    before = await scene.queue.count(JobStatus.QUEUED)

    with pytest.raises(expected):
        await scene.submit(*loras, images=images)

    assert scene.input_folders() == set()
    assert await scene.queue.count(JobStatus.QUEUED) == before


async def test_submit_that_loses_its_place_to_another_removes_its_images(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue has room when the request arrives, and none when its images are stored."""

    async def has_room(_: str | None) -> None:
        return None

    for _ in range(3):
        await scene.submit(images=["https://host/a.png"])
    monkeypatch.setattr(scene.queue, "check_room", has_room)

    with pytest.raises(QueueFull):
        await scene.submit()

    assert scene.input_folders() == set()


async def test_cancel_ends_a_waiting_job_and_removes_its_images(scene: Scene) -> None:
    job = await scene.submit()

    canceled = await scene.service.cancel(job.id)

    assert canceled.status is JobStatus.CANCELED
    assert scene.input_folders() == set()


async def test_cancel_tells_the_worker_of_a_running_job(scene: Scene) -> None:
    job = await scene.submit()
    async with scene.serving():
        await scene.started()
        answer = await scene.service.cancel(job.id)

        assert answer.status is JobStatus.RUNNING
        assert scene.executor.canceled == [job.id]


async def test_cancel_leaves_a_final_job_as_it_is(scene: Scene) -> None:
    job = await scene.submit()
    ended = await scene.queue.finish(await scene.queue.claim(), Outcome(JobStatus.SUCCEEDED))

    assert await scene.service.cancel(job.id) == ended
    assert scene.executor.canceled == []


async def test_cancel_of_an_unknown_job_is_refused(scene: Scene) -> None:
    with pytest.raises(NotFound):
        await scene.service.cancel("nobody")


async def succeeded(scene: Scene) -> str:
    """The id of a job with one output."""
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        run.image()
        run.done()
        await scene.ended(job)
    return job.id


async def test_delete_removes_the_job_and_its_files(scene: Scene) -> None:
    job_id = await succeeded(scene)
    assert len(scene.output_files()) == 1

    await scene.service.delete(await scene.queue.get(job_id))

    assert scene.output_files() == []
    with pytest.raises(NotFound):
        await scene.queue.get(job_id)


async def test_delete_leaves_an_unfinished_job_alone(scene: Scene) -> None:
    job = await scene.submit()

    await scene.service.delete(job)

    assert await scene.queue.get(job.id) == job
    assert scene.input_folders() == {job.id}


async def test_delete_any_removes_a_final_job(scene: Scene) -> None:
    job_id = await succeeded(scene)

    await scene.service.delete_any(job_id)

    assert scene.output_files() == []
    with pytest.raises(NotFound):
        await scene.queue.get(job_id)


async def test_delete_any_cancels_and_removes_a_waiting_job(scene: Scene) -> None:
    job = await scene.submit(webhook="https://host/hook")

    await scene.service.delete_any(job.id)

    with pytest.raises(NotFound):
        await scene.queue.get(job.id)
    assert scene.input_folders() == set()


async def test_delete_any_hides_a_running_job_at_once_and_removes_it_when_it_is_left(
    scene: Scene,
) -> None:
    job = await scene.submit()
    other = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        await scene.service.delete_any(job.id)

        with pytest.raises(NotFound):
            await scene.queue.state(job.id, EVERYBODY)
        found, _ = await scene.queue.search(JobFilter(), EVERYBODY, limit=10, offset=0)
        assert [each.id for each in found] == [other.id]
        assert scene.executor.canceled == [job.id]
        [deletion] = scene.service._tasks
        run.leave()
        await soon(deletion)

    with pytest.raises(NotFound):
        await scene.queue.get(job.id)


async def test_watcher_of_a_running_job_that_is_deleted_sees_its_end(scene: Scene) -> None:
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        states = scene.queue.watch(job.id)
        await soon(anext(states))
        await scene.service.delete_any(job.id)
        assert (await soon(anext(states))).job.cancel_requested
        await states.aclose()
        run.leave()


async def test_job_that_is_deleted_twice_at_once_is_deleted_once(scene: Scene) -> None:
    job_id = await succeeded(scene)

    answers = await asyncio.gather(
        scene.service.delete_any(job_id), scene.service.delete_any(job_id), return_exceptions=True
    )

    assert [answer for answer in answers if answer and not isinstance(answer, NotFound)] == []
    with pytest.raises(NotFound):
        await scene.queue.state(job_id, EVERYBODY)


async def test_delete_any_of_an_unknown_job_is_refused(scene: Scene) -> None:
    with pytest.raises(NotFound):
        await scene.service.delete_any("nobody")


async def test_expire_deletes_what_ended_before(scene: Scene) -> None:
    old = await succeeded(scene)
    scene.time.now += 100
    moment = scene.time.now
    young = await succeeded(scene)

    assert await scene.service.expire(moment) == 1

    assert len(scene.output_files()) == 1
    assert (await scene.queue.get(young)).status is JobStatus.SUCCEEDED
    with pytest.raises(NotFound):
        await scene.queue.get(old)


@pytest.mark.parametrize("keep_images", [True, False])
async def test_leftovers_of_unknown_and_ended_jobs_are_removed(
    make_scene: MakeScene, keep_images: bool
) -> None:
    scene = await make_scene(keep_images=keep_images)
    ended, waiting = await scene.submit(), await scene.submit()
    # as a server does that is killed before it removes the images
    await scene.queue.finish(await scene.queue.claim(), Outcome(JobStatus.CANCELED))
    (scene.folder / "inputs" / "unknown").mkdir()

    await scene.service.remove_leftovers()

    kept = {ended.id} if keep_images else set()
    assert scene.input_folders() == {waiting.id} | kept


@pytest.mark.parametrize("log_prompts", [True, False])
async def test_prompt_is_logged_only_if_the_operator_asks(
    scene: Scene, caplog: pytest.LogCaptureFixture, log_prompts: bool
) -> None:
    caplog.set_level("INFO")
    scene.service._log_prompts = log_prompts

    await scene.submit()

    assert ("make it blue" in caplog.text) is log_prompts


async def test_client_that_hangs_up_during_the_write_leaves_a_whole_job(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, entered, released = scene.queue.submit, asyncio.Event(), asyncio.Event()

    async def slow_write(job: Job, keyed: KeyedRequest | None) -> Job:
        entered.set()
        await released.wait()
        return await write(job, keyed)

    monkeypatch.setattr(scene.queue, "submit", slow_write)
    submitting = asyncio.create_task(scene.submit())
    await soon(entered.wait())

    submitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitting
    released.set()

    async with scene.serving():
        run = await scene.started()
    assert len(run.references) == 1
