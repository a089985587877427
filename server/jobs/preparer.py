"""Fetches what queued jobs name by URL, so that a job waits for its images and not the device."""

import asyncio
import logging

from pipelines.api.errors import EngineError
from server.errors import NotFound, ServerError
from server.job import Job, JobStatus, Outcome
from server.jobs.job_queue import JobQueue
from server.loras.library import LoraLibrary
from server.media.inputs import InputStore

logger = logging.getLogger(__name__)

CONCURRENT_JOBS = 4


class Preparer:
    """A bounded pool; a slow download holds no other job up."""

    def __init__(self, queue: JobQueue, inputs: InputStore, loras: LoraLibrary) -> None:
        self._queue = queue
        self._inputs = inputs
        self._loras = loras
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()

    def add(self, job: Job) -> None:
        """Prepare this job when its turn comes."""
        self._jobs.put_nowait(job)

    async def serve(self) -> None:
        """Prepare jobs until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENT_JOBS):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            try:
                await self._prepare(job)
            except NotFound:
                # canceled and deleted while it waited here, or while its images came
                await self._inputs.delete(job.id)
            except (EngineError, ServerError) as exc:
                await self._fail(job, exc)
            except Exception:
                logger.exception("job %s cannot be prepared", job.id)
                await self._fail(job, ServerError())

    async def _prepare(self, job: Job) -> None:
        if (await self._queue.get(job.id)).status is JobStatus.QUEUED:
            await self._fetch_all(job)
        if await self._queue.mark_prepared(job.id) is not JobStatus.QUEUED:
            # canceled meanwhile: what was just fetched would lie there for ever
            await self._inputs.delete(job.id)

    async def _fetch_all(self, job: Job) -> None:
        """Fetch side by side; the first failure ends the others and is raised."""
        try:
            async with asyncio.TaskGroup() as group:
                for index, url in enumerate(job.images):
                    if url is not None:
                        fetch = self._inputs.fetch(job.id, index, url, job.request.max_image_bytes)
                        group.create_task(fetch)
                for index, lora in enumerate(job.request.params.loras):
                    group.create_task(self._loras.fetch(lora.path, f"loras/{index}/path"))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    async def _fail(self, job: Job, exc: EngineError | ServerError) -> None:
        logger.warning("job %s failed: %s: %s", job.id, exc.code, exc)
        await self._queue.finish(job, Outcome.failed(exc.code, str(exc)))
        await self._inputs.delete(job.id)
