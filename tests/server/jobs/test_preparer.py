"""The preparer: fetches side by side, fails by name, and leaves nothing of a cancelled job."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from server.errors import ServerError
from server.job import Job, JobStatus
from server.jobs import preparer
from server.jobs.job_inputs import IMAGE_DOWNLOADS
from server.jobs.queue_limits import QueueLimits
from server.media.decoder_pool import DecoderPool
from tests.far_side import Answer, FarSide, far_side
from tests.server.jobs.conftest import IMAGE, Scene, soon
from tests.server.loras.conftest import lora_bytes

MakeScene = Callable[..., Awaitable[Scene]]


@pytest.fixture
def host() -> Iterator[FarSide]:
    with far_side() as host:
        host.answers["/a.png"] = Answer(IMAGE)
        yield host


async def prepared(scene: Scene, job: Job) -> Job:
    """The job once it is prepared or has ended."""
    states = scene.queue.watch(job.id)
    async for state in states:
        if state.job.prepared_at is not None or state.job.status.is_final:
            break
    await states.aclose()
    return await scene.queue.get(job.id)


async def test_images_and_loras_are_fetched_before_the_job_runs(
    scene: Scene, host: FarSide
) -> None:
    host.answers["/style.safetensors"] = Answer(lora_bytes(scene.folder))
    await scene.submit(host.url("/style.safetensors"), images=[host.url("/a.png"), IMAGE])
    async with scene.serving():
        run = await scene.started()

    assert len(run.references) == 2
    [lora] = run.loras
    assert lora.name == "style.safetensors"
    assert lora.path.endswith(f"{lora.sha256}.safetensors")


async def test_job_is_marked_as_prepared_at_the_time_that_it_is(
    scene: Scene, host: FarSide
) -> None:
    job = await scene.submit(images=[host.url("/a.png")])
    scene.time.now += 9
    async with scene.serving("preparer"):
        found = await soon(prepared(scene, job))

    assert (found.status, found.prepared_at) == (JobStatus.QUEUED, scene.time.now)


@pytest.mark.parametrize(
    ("path", "code", "sentence"),
    [
        ("/gone.png", "fetch_failed", "images/1: http://127.0.0.1"),
        ("/page.png", "invalid_picture", "images/1 is not an image"),
    ],
)
async def test_job_fails_by_the_field_that_cannot_be_fetched(
    scene: Scene, host: FarSide, path: str, code: str, sentence: str
) -> None:
    host.answers["/page.png"] = Answer(b"<html>")
    job = await scene.submit(images=[host.url("/a.png"), host.url(path)])
    async with scene.serving("preparer"):
        ended = await scene.ended(job)
        await soon(scene.inputs.deleted.get())

    assert ended.error is not None
    assert ended.error.code == code
    assert sentence in ended.error.message
    assert scene.input_folders() == set()


async def test_lora_that_is_none_fails_the_job(scene: Scene, host: FarSide) -> None:
    host.answers["/style.safetensors"] = Answer(b"<!doctype html>")
    job = await scene.submit(host.url("/style.safetensors"))
    async with scene.serving("preparer"):
        ended = await scene.ended(job)

    assert ended.error is not None
    assert ended.error.code == "lora_invalid"
    assert "loras/0/path" in ended.error.message


async def test_first_failure_cancels_the_other_downloads(scene: Scene, host: FarSide) -> None:
    host.answers["/silent.png"] = Answer(silent=True)
    job = await scene.submit(images=[host.url("/silent.png"), host.url("/gone.png")])
    async with scene.serving("preparer"):
        ended = await scene.ended(job)

    assert ended.error is not None
    assert "answered 404" in ended.error.message


async def test_unexpected_exception_fails_the_job_and_the_next_one_is_prepared(
    scene: Scene, host: FarSide, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fetch = scene.images.fetch
    broken = await scene.submit(images=[host.url("/a.png")])
    sound = await scene.submit(images=[host.url("/a.png")])

    async def fetch_or_break(job_id: str, *args: object) -> None:
        if job_id == broken.id:
            raise RuntimeError("a secret path")
        await fetch(job_id, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(scene.images, "fetch", fetch_or_break)
    async with scene.serving("preparer"):
        ended = await scene.ended(broken)
        assert (await soon(prepared(scene, sound))).status is JobStatus.QUEUED

    assert ended.error is not None
    assert (ended.error.code, ended.error.message) == (ServerError.code, str(ServerError()))
    assert "a secret path" in caplog.text


async def test_job_that_is_canceled_before_its_turn_is_not_fetched(
    scene: Scene, host: FarSide
) -> None:
    job = await scene.submit(images=[host.url("/a.png")])
    await scene.service.cancel(job.id)
    assert await scene.inputs.deleted.get() == job.id
    async with scene.serving("preparer"):
        assert await soon(scene.inputs.deleted.get()) == job.id

    assert host.requests == []


@pytest.mark.parametrize("deletes", [False, True])
async def test_job_that_is_canceled_while_it_is_fetched_leaves_nothing(
    scene: Scene, host: FarSide, monkeypatch: pytest.MonkeyPatch, deletes: bool
) -> None:
    fetched, going = asyncio.Event(), asyncio.Event()
    fetch = scene.images.fetch

    async def fetch_and_wait(*args: object) -> None:
        await fetch(*args)  # type: ignore[arg-type]
        fetched.set()
        await going.wait()

    monkeypatch.setattr(scene.images, "fetch", fetch_and_wait)
    job = await scene.submit(images=[host.url("/a.png")])
    async with scene.serving("preparer"):
        await soon(fetched.wait())
        if deletes:
            await scene.service.delete_any(job.id)
        else:
            await scene.service.cancel(job.id)
        while not scene.inputs.deleted.empty():
            scene.inputs.deleted.get_nowait()
        going.set()
        assert await soon(scene.inputs.deleted.get()) == job.id

    assert scene.input_folders() == set()


async def test_slow_downloads_delay_no_other_job(
    scene: Scene, host: FarSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.answers["/silent.png"] = Answer(silent=True)
    monkeypatch.setattr(scene.queue, "_limits", QueueLimits(100))
    started = set()
    for _ in range(3 * IMAGE_DOWNLOADS):
        await scene.submit(images=[host.url("/silent.png", "localhost")], owner="slow")
    # of another host, and of another owner
    own = await scene.submit(images=[host.url("/a.png")], owner="slow")
    quick = await scene.submit(images=[host.url("/a.png")])
    async with scene.serving():
        for _ in range(2):
            run = await scene.started()
            started.add(run.job_id)
            run.fail("timeout", "Not run.")
    assert started == {own.id, quick.id}


async def test_restart_prepares_what_was_not_prepared(make_scene: MakeScene, host: FarSide) -> None:
    job = await (await make_scene()).submit(images=[host.url("/a.png")])
    following = await make_scene()

    async with following.serving():
        assert (await following.started()).job_id == job.id


async def test_job_stays_queued_when_the_server_stops_while_its_image_is_decoded(
    scene: Scene, decoders: DecoderPool, host: FarSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await scene.submit(images=[host.url("/a.png")])
    decoders.close()
    logged: asyncio.Queue[str] = asyncio.Queue()
    for level in ("info", "warning"):
        monkeypatch.setattr(
            preparer.logger, level, lambda text, *args, **_: logged.put_nowait(text % args)
        )

    async with scene.serving("preparer"):
        assert await soon(logged.get()) == f"job {job.id} is prepared at the next start"

    left = await scene.queue.get(job.id)
    assert (left.status, left.prepared_at) == (JobStatus.QUEUED, None)
