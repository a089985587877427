"""Submits to storage that does not answer: refused in seconds, and nothing is left behind."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from pipelines.api.params import EditParams
from server import durable_files
from server.caller import EVERYBODY
from server.errors import StorageFull
from server.job import Job, JobStatus, Submission
from server.store.database import Database
from server.store.idempotency import KeyedRequest
from server.store.jobs import JobFilter
from server.store.storage_watch import SLOW
from tests.server.jobs.conftest import IMAGE, PATIENCE_S, Scene, soon

REQUEST = Submission("native", "edits", EditParams("make it blue", 5))
KEYED = KeyedRequest("alice", "/v1/edits", "key", "fingerprint")
HANGS = "The storage has not answered for 5 s."


@dataclass
class Hang:
    """Work that has reached the disk and waits for it."""

    reached: threading.Event = field(default_factory=threading.Event)
    goes_on: threading.Event = field(default_factory=threading.Event)

    def __call__(self, *args: object) -> None:
        self.reached.set()
        assert self.goes_on.wait(PATIENCE_S)


@pytest.fixture
async def hang(database: Database) -> AsyncIterator[Hang]:
    """Released at the end at the latest: a closed database finishes its writes."""
    hang = Hang()
    yield hang
    hang.goes_on.set()


@pytest.fixture
def submit(scene: Scene) -> Callable[..., "asyncio.Task[Job]"]:
    def start(keyed: KeyedRequest | None = None) -> "asyncio.Task[Job]":
        return asyncio.create_task(scene.service.submit(REQUEST, [IMAGE], keyed))

    return start


async def jobs(scene: Scene) -> list[Job]:
    found, _ = await scene.queue.search(JobFilter(), EVERYBODY, limit=10, offset=0)
    return found


async def test_submit_is_refused_while_the_disk_takes_no_image(
    scene: Scene,
    hang: Hang,
    submit: Callable[..., "asyncio.Task[Job]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(durable_files, "sync", hang)
    submitting = submit()
    await asyncio.to_thread(hang.reached.wait, PATIENCE_S)
    scene.readiness.block(SLOW, HANGS)

    with pytest.raises(StorageFull, match=r"^The storage has not answered for 5 s\. Try again"):
        await soon(submitting)
    hang.goes_on.set()
    await left_tasks(scene)
    assert (await jobs(scene), scene.input_folders()) == ([], set())


async def test_submit_is_refused_at_once_while_the_storage_hangs(
    scene: Scene,
    hang: Hang,
    submit: Callable[..., "asyncio.Task[Job]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(durable_files, "sync", hang)
    scene.readiness.block(SLOW, HANGS)

    with pytest.raises(StorageFull):
        await soon(submit())
    assert not hang.reached.is_set()

    scene.readiness.clear(SLOW)
    hang.goes_on.set()
    assert (await soon(submit())).status is JobStatus.QUEUED


async def left_tasks(scene: Scene) -> None:
    """Wait for what goes on without the request that began it."""
    await soon(asyncio.gather(*scene.service._tasks, return_exceptions=True))


async def refused_while_the_database_hangs(
    scene: Scene,
    database: Database,
    hang: Hang,
    submit: Callable[[], "asyncio.Task[Job]"],
) -> None:
    """Have the commit of the submit wait, and let it go on once its client has its refusal."""
    queue_submit, reached = scene.queue.submit, asyncio.Event()

    async def note(job: Job, keyed: KeyedRequest | None = None) -> Job:
        reached.set()
        return await queue_submit(job, keyed)

    scene.queue.submit = note  # type: ignore[method-assign]
    # the writer has one thread: what stands before the submit is a commit that hangs
    blocked = asyncio.create_task(database.write(hang))
    await asyncio.to_thread(hang.reached.wait, PATIENCE_S)
    submitting = submit()
    await soon(reached.wait())
    scene.readiness.block(SLOW, HANGS)
    with pytest.raises(StorageFull):
        await soon(submitting)
    hang.goes_on.set()
    await soon(blocked)


async def test_job_whose_submit_was_refused_is_withdrawn(
    scene: Scene, database: Database, hang: Hang, submit: Callable[..., "asyncio.Task[Job]"]
) -> None:
    await refused_while_the_database_hangs(scene, database, hang, submit)

    await left_tasks(scene)
    assert (await jobs(scene), scene.input_folders()) == ([], set())


async def test_repeat_with_the_same_key_gets_the_job_of_a_refused_submit(
    scene: Scene, database: Database, hang: Hang, submit: Callable[..., "asyncio.Task[Job]"]
) -> None:
    await refused_while_the_database_hangs(scene, database, hang, partial(submit, KEYED))
    await left_tasks(scene)
    scene.readiness.clear(SLOW)

    repeated = await soon(submit(KEYED))

    assert [job.id for job in await jobs(scene)] == [repeated.id]
    assert scene.input_folders() == {repeated.id}
