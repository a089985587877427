"""What every contract does with jobs: submit, look, wait, watch, cancel, delete, read outputs."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from pipelines.api.errors import EngineError
from pipelines.api.params import MAX_REFERENCES
from server.errors import InvalidLora, InvalidRequest, NotFound, Unavailable
from server.job import Job, Output, Submission
from server.jobs.dispatcher import Dispatcher
from server.jobs.job_queue import JobQueue, JobState
from server.jobs.preparer import Preparer
from server.loras.library import LoraLibrary
from server.media.inputs import InputStore
from server.media.outputs import ROUTE, OutputStore
from server.store.jobs import JobFilter
from server.workers.executor import Executor

logger = logging.getLogger(__name__)


class EditService:
    """The one object the contracts talk to."""

    def __init__(
        self,
        queue: JobQueue,
        dispatcher: Dispatcher,
        preparer: Preparer,
        executor: Executor,
        inputs: InputStore,
        loras: LoraLibrary,
        outputs: OutputStore,
        *,
        check_address: Callable[[str, str], Awaitable[None]],
        clock: Callable[[], float],
        log_prompts: bool = False,
    ) -> None:
        self._queue = queue
        self._dispatcher = dispatcher
        self._preparer = preparer
        self._executor = executor
        self._inputs = inputs
        self._loras = loras
        self._outputs = outputs
        self._check_address = check_address
        self._clock = clock
        self._log_prompts = log_prompts
        # jobs that were deleted and that a worker may still have
        self._doomed: dict[str, asyncio.Task[None]] = {}

    async def submit(self, submission: Submission, images: Sequence[str | bytes]) -> Job:
        """Validate the request and queue the job, which is on disk when this returns.

        `images` are references, or the bytes of uploaded files.
        Raises InvalidRequest, InvalidImage, InvalidLora, PayloadTooLarge, FetchFailed (offline),
        QueueFull, Unavailable; then nothing is queued and nothing is left on disk.
        """
        if self._executor.failure is not None:
            raise Unavailable(f"No model is loaded: {self._executor.failure}")
        _check_count(len(images))
        if submission.webhook is not None:
            await self._check_address(submission.webhook, submission.webhook_field)
        await self._queue.check_room()
        loras_here = [
            await self._check_lora(lora.path, f"loras/{index}/path")
            for index, lora in enumerate(submission.params.loras)
        ]
        job_id = uuid.uuid4().hex
        urls = await self._inputs.store_inline(job_id, images, submission.max_image_bytes)
        is_prepared = all(loras_here) and all(url is None for url in urls)
        now = self._clock()
        job = Job(submission, urls, now, id=job_id, prepared_at=now if is_prepared else None)
        try:
            await self._queue.submit(job)
        except BaseException:
            await self._inputs.delete(job_id)
            raise
        if self._log_prompts:
            logger.info("job %s prompt: %r", job.id, submission.params.prompt)
        if not is_prepared:
            self._preparer.add(job)
        return job

    async def state(self, job_id: str) -> JobState:
        """The job with its position or progress. Raises NotFound."""
        if job_id in self._doomed:
            raise NotFound(f"There is no job {job_id}.")
        return await self._queue.state(job_id)

    async def state_of(self, job: Job) -> JobState:
        """A job that is at hand, with its position or progress."""
        return await self._queue.state_of(job)

    async def wait(self, job_id: str, timeout_s: float | None = None) -> Job:
        """The job when it is final, or as it is after `timeout_s`. Raises NotFound."""
        return await self._queue.wait(job_id, timeout_s)

    def watch(self, job_id: str) -> AsyncIterator[JobState]:
        """The job's state now and after each change, until it is final."""
        return self._queue.watch(job_id)

    async def search(self, wanted: JobFilter, *, limit: int, offset: int) -> tuple[list[Job], int]:
        """A page of jobs, newest first, and how many there are."""
        jobs, total = await self._queue.search(wanted, limit=limit, offset=offset)
        return [job for job in jobs if job.id not in self._doomed], total

    async def cancel(self, job_id: str) -> Job:
        """Cancel an unfinished job: at once while it waits, at its next step while it runs."""
        return await self._dispatcher.cancel(job_id)

    async def delete(self, job: Job) -> None:
        """Forget a final job and remove its files."""
        if await self._queue.delete(job.id):
            await self._outputs.delete(job.outputs)
            await self._inputs.delete(job.id)

    async def delete_any(self, job_id: str) -> None:
        """Forget a job and its files, also an unfinished one, and tell its webhook nothing.

        A running one is cancelled and out of sight at once; its files go when its worker has left
        it, at the next step. Raises NotFound.
        """
        job = (await self.state(job_id)).job
        # out of sight first, so that no webhook tells of the end that this brings about
        deletion = asyncio.create_task(self._delete_when_ended(job_id))
        self._doomed[job_id] = deletion
        if not job.status.is_final:
            job = await self.cancel(job_id)
        if job.status.is_final:
            await asyncio.shield(deletion)

    async def _delete_when_ended(self, job_id: str) -> None:
        try:
            job = await self.wait(job_id)
            if job.status.is_final:
                await self.delete(job)
        except NotFound:
            return  # deleted twice at once
        finally:
            self._doomed.pop(job_id, None)

    async def read_output(self, output: Output) -> bytes:
        """The bytes of a finished image."""
        return await self._outputs.read(output)

    async def expire(self, older_than: float) -> int:
        """Delete the jobs that ended before `older_than` (Unix seconds), with their files."""
        expired = await self._queue.finished_before(older_than)
        for job in expired:
            await self.delete(job)
        return len(expired)

    async def remove_leftovers(self) -> None:
        """Remove the inputs of submissions that a killed server never finished."""
        for job_id in self._inputs.job_ids():
            try:
                await self._queue.get(job_id)
            except NotFound:
                await self._inputs.delete(job_id)

    async def _check_lora(self, reference: str, field: str) -> bool:
        try:
            return await self._loras.check(reference, field)
        except EngineError as exc:
            raise InvalidLora(str(exc), field=field) from exc


def output_url(base_url: str, output: Output) -> str:
    """Where a finished image is served."""
    return f"{base_url}{ROUTE}/{output.name}"


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_REFERENCES:
        raise InvalidRequest(
            f"images must have 1 to {MAX_REFERENCES} entries, got {count}", field="images"
        )
