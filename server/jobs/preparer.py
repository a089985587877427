"""Fetches the images and LoRAs of queued jobs, so that downloads never block a device."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pipelines.api.errors import EngineError
from server.errors import NotFound, ServerError, StorageFull, Unavailable
from server.job import Job, JobStatus, Outcome
from server.jobs.job_inputs import JobInputs
from server.jobs.job_queue import JobQueue
from server.readiness import Readiness
from server.store.retry import until_stored

logger = logging.getLogger(__name__)


class Preparer:
    """One task for each job; `FairSlots` bounds their downloads, so that none delays the others."""

    def __init__(
        self,
        queue: JobQueue,
        inputs: JobInputs,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        readiness: Readiness | None = None,
    ) -> None:
        self._queue = queue
        self._sleep = sleep
        self._readiness = readiness or Readiness()
        self._inputs = inputs
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()

    def add(self, job: Job) -> None:
        """Schedule this job."""
        self._jobs.put_nowait(job)

    async def serve(self) -> None:
        """Prepare jobs until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._work(await self._jobs.get()))

    async def _work(self, job: Job) -> None:
        try:
            await self._prepare_patiently(job)
        except NotFound:
            # canceled and deleted while it waited here, or while its images were fetched
            await self._inputs.delete(job.id)
        except Unavailable:
            # the server is stopping: the next one prepares the job
            logger.info("job %s is prepared at the next start", job.id, extra={"job": job.id})
        except (EngineError, ServerError) as exc:
            await self._fail(job, exc)
        except Exception:
            logger.exception("job %s cannot be prepared", job.id, extra={"job": job.id})
            await self._fail(job, ServerError())

    async def _prepare_patiently(self, job: Job) -> None:
        """Prepare the job as soon as the disk takes its files."""
        source = f"inputs of {job.id}"

        def note(exc: StorageFull, delay_s: float) -> None:
            self._readiness.block(source, str(exc))
            logger.error("job %s: %s Next attempt in %g s.", job.id, exc, delay_s)

        try:
            await until_stored(lambda: self._prepare(job), self._sleep, note)
        finally:
            self._readiness.clear(source)

    async def _prepare(self, job: Job) -> None:
        if (await self._queue.get(job.id)).status is JobStatus.QUEUED:
            await self._inputs.fetch(job)
        if await self._queue.mark_prepared(job.id) is not JobStatus.QUEUED:
            # canceled meanwhile: nothing else would remove the fetched images
            await self._inputs.delete(job.id)

    async def _fail(self, job: Job, exc: EngineError | ServerError) -> None:
        logger.warning("job %s failed: %s: %s", job.id, exc.code, exc, extra={"job": job.id})
        await self._queue.finish(job, Outcome.failed(exc.code, str(exc)))
        await self._inputs.delete(job.id)
