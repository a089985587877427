"""The job modules over real files, with a fake executor and a fake time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from pipelines.api.params import EditParams, LoraRef
from server.errors import InvalidRequest
from server.job import Job, Submission
from server.jobs.dispatcher import Dispatcher
from server.jobs.job_inputs import JobInputs
from server.jobs.job_queue import JobQueue
from server.jobs.preparer import Preparer
from server.jobs.queue_limits import QueueLimits
from server.jobs.service import EditService
from server.jobs.submit_rate import SubmitRate
from server.loras.library import LoraLibrary
from server.media.decoder_pool import DecoderPool
from server.media.inputs import InputStore
from server.media.outputs import OutputStore
from server.net.fetch import Fetcher
from server.readiness import Readiness
from server.store.database import Database
from tests.conftest import encoded, gradient
from tests.fake_executor import FakeExecutor, FakeRun
from tests.fake_time import FakeTime
from tests.server.loras.conftest import LOOPBACK, make_library

T = TypeVar("T")

# Bounds a wait that a broken server would make endless.
PATIENCE_S = 60.0
IMAGE = encoded(gradient(32, 32))
JOB_TIMEOUT_S = 100.0


async def soon(awaitable: Awaitable[T]) -> T:
    """The result of what must not hang."""
    return await asyncio.wait_for(awaitable, PATIENCE_S)


class WatchedInputs(JobInputs):
    """The real inputs; they note each job whose inputs were released or deleted."""

    def __init__(self, images: InputStore, loras: LoraLibrary, *, keep_images: bool) -> None:
        super().__init__(images, loras, keep_images=keep_images)
        self.released: asyncio.Queue[str] = asyncio.Queue()
        self.deleted: asyncio.Queue[str] = asyncio.Queue()

    async def release(self, job_id: str) -> None:
        """Release, and note it."""
        await super().release(job_id)
        self.released.put_nowait(job_id)

    async def delete(self, job_id: str) -> None:
        """Delete, and note it."""
        await super().delete(job_id)
        self.deleted.put_nowait(job_id)


@dataclass
class Scene:
    """The job modules of one server."""

    folder: Path
    time: FakeTime
    queue: JobQueue
    executor: FakeExecutor
    library: LoraLibrary
    images: InputStore
    inputs: WatchedInputs
    outputs: OutputStore
    preparer: Preparer
    dispatcher: Dispatcher
    service: EditService
    readiness: Readiness

    async def submit(
        self, *loras: str, images: Sequence[str | bytes] = (IMAGE,), **request: object
    ) -> Job:
        """Submit a native edit."""
        params = EditParams("make it blue", 5, loras=tuple(LoraRef(name, 0.5) for name in loras))
        submission = Submission("native", "edits", params, **request)  # type: ignore[arg-type]
        return await self.service.submit(submission, images)

    async def started(self) -> FakeRun:
        """The next run that the dispatcher starts."""
        return await soon(self.executor.started.get())

    async def ended(self, job: Job) -> Job:
        """The job once it is final."""
        return await soon(self.queue.wait(job.id))

    def input_folders(self) -> set[str]:
        """The jobs with images on disk."""
        return set(self.images.job_ids())

    def output_files(self) -> list[Path]:
        """The files of outputs."""
        return list((self.folder / "outputs").iterdir())

    @contextlib.asynccontextmanager
    async def serving(self, *names: str) -> AsyncIterator[None]:
        """Run the named parts, or the dispatcher and the preparer."""
        parts = {"dispatcher": self.dispatcher.serve, "preparer": self.preparer.serve}
        tasks = [asyncio.create_task(parts[name]()) for name in names or parts]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def database(tmp_path: Path, clock: FakeTime) -> AsyncIterator[Database]:
    database = Database(tmp_path / "jobs.sqlite3", sleep=clock.sleep)
    yield database
    database.close()


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def queue(database: Database, clock: FakeTime) -> JobQueue:
    """A queue for three waiting jobs, without the other job modules."""
    queue = JobQueue(database, limits=QueueLimits(3), clock=clock)
    await queue.open()
    return queue


@pytest.fixture
def make_scene(
    tmp_path: Path, database: Database, decoders: DecoderPool
) -> Iterator[Callable[..., Awaitable[Scene]]]:
    """Starts a scene on the test's folder; each one is the next server on the same data."""
    scenes: list[Scene] = []

    async def make(
        *,
        keep_images: bool = False,
        embed_prompt: bool = False,
        blocks_unsafe: bool = False,
        step_timeout_s: float | None = None,
    ) -> Scene:
        scene = _build(
            tmp_path, database, decoders, keep_images, embed_prompt, blocks_unsafe, step_timeout_s
        )
        for job in await scene.queue.open():
            scene.preparer.add(job)
        scenes.append(scene)
        return scene

    yield make
    for scene in scenes:
        scene.images.close()
        scene.outputs.close()


@pytest.fixture
async def scene(make_scene: Callable[..., Awaitable[Scene]]) -> Scene:
    return await make_scene()


def _build(
    folder: Path,
    database: Database,
    decoders: DecoderPool,
    keep_images: bool,
    embed_prompt: bool,
    blocks_unsafe: bool,
    step_timeout_s: float | None,
) -> Scene:
    time, executor = FakeTime(), FakeExecutor()
    queue = JobQueue(database, limits=QueueLimits(3), clock=time)
    fetcher = Fetcher(LOOPBACK)
    images = InputStore(
        folder / "inputs", fetcher, decoders, own_file=lambda url: None, fetch_timeout_s=PATIENCE_S
    )
    library = make_library(folder)
    inputs = WatchedInputs(images, library, keep_images=keep_images)
    outputs = OutputStore(folder / "outputs")
    readiness = Readiness()
    preparer = Preparer(queue, inputs, sleep=time.sleep, readiness=readiness)
    dispatcher = Dispatcher(
        queue,
        executor,
        inputs,
        outputs,
        job_timeout_s=JOB_TIMEOUT_S,
        step_timeout_s=step_timeout_s,
        embed_prompt=embed_prompt,
        blocks_unsafe=blocks_unsafe,
        clock=time,
        sleep=time.sleep,
        readiness=readiness,
    )

    async def check_address(url: str, field: str) -> None:
        if not url.startswith("https://"):
            raise InvalidRequest(f"{field} must be https, got {url}", field=field)

    service = EditService(
        queue, dispatcher, preparer, executor, inputs, outputs,
        check_address=check_address, submit_rate=SubmitRate(0, time), clock=time,
        readiness=readiness,
    )  # fmt: skip
    return Scene(
        folder, time, queue, executor, library, images, inputs, outputs, preparer, dispatcher,
        service, readiness,
    )  # fmt: skip
