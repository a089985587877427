"""Submitting, cancelling and deleting jobs: what takes more than the queue."""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from pipelines.api.params import MAX_REFERENCES
from server.errors import InvalidRequest, NotFound, ServerError, StorageFull, Unavailable
from server.job import Job, JobStatus, Output, Submission
from server.jobs.dispatcher import Dispatcher
from server.jobs.job_inputs import JobInputs
from server.jobs.job_queue import JobQueue
from server.jobs.preparer import Preparer
from server.jobs.submit_rate import SubmitRate
from server.loras.presets import Presets
from server.media.outputs import ROUTE, OutputStore
from server.readiness import Readiness
from server.store.idempotency import KeyedRequest
from server.store.retry import until_stored
from server.store.storage_watch import SLOW
from server.workers.executor import Executor

T = TypeVar("T")

logger = logging.getLogger(__name__)

STOPPING = "The server is stopping. Try again in a minute."
RESTART_S = 60


class EditService:
    """The contracts' entry to jobs.

    Its own methods change jobs. Reading, waiting and watching are `queue`'s, the bytes of finished
    images `outputs`'.
    """

    def __init__(
        self,
        queue: JobQueue,
        dispatcher: Dispatcher,
        preparer: Preparer,
        executor: Executor,
        inputs: JobInputs,
        outputs: OutputStore,
        *,
        check_address: Callable[[str, str], Awaitable[None]],
        submit_rate: SubmitRate,
        clock: Callable[[], float],
        presets: Presets | None = None,
        readiness: Readiness | None = None,
        log_prompts: bool = False,
    ) -> None:
        """`check_address` refuses a webhook's URL with InvalidRequest, given its field's name."""
        self.queue = queue
        self.outputs = outputs
        self._dispatcher = dispatcher
        self._preparer = preparer
        self._executor = executor
        self._inputs = inputs
        self._check_address = check_address
        self._submit_rate = submit_rate
        self._clock = clock
        self._presets = presets
        self._readiness = readiness or Readiness()
        self._log_prompts = log_prompts
        # what goes on without the request that began it
        self._tasks: set[asyncio.Task[Any]] = set()

    async def submit(
        self,
        request: Submission,
        images: Sequence[str | bytes],
        keyed: KeyedRequest | None = None,
    ) -> Job:
        """Validate the request and queue the job, which is on disk when this returns.

        `images` are references, or the bytes of uploaded files. A request with an Idempotency-Key
        that was sent before gets the job of the first one.
        Raises InvalidRequest, InvalidImage, InvalidLora, PayloadTooLarge, FetchFailed (offline),
        KeyReused, JobDeleted, QueueFull, TooManySubmits, StorageFull, Unavailable; then nothing is
        queued and nothing is left on disk.
        """
        # first of all: a repeat gets its job even if a new one would be refused
        if keyed is not None and (first := await self.queue.first_job(keyed)):
            return first
        if self.queue.is_draining:
            raise Unavailable(STOPPING, retry_after_s=RESTART_S)
        if self._executor.failure is not None:
            raise Unavailable(f"No model is loaded: {self._executor.failure}")
        if self._presets is not None:
            request = await self._presets.applied(request)
        _check_count(len(images))
        if request.webhook is not None:
            await self._check_address(request.webhook, request.webhook_field)
        self._submit_rate.count(request.owner)
        await self.queue.check_room(request.owner)
        job_id = uuid.uuid4().hex
        storing = self._keep(self._inputs.store(job_id, request, images))
        urls, is_prepared = await self._unless_storage_hangs(storing)
        now = self._clock()
        job = Job(request, urls, now, id=job_id, prepared_at=now if is_prepared else None)
        queuing = self._keep(self._queue(job, keyed))
        try:
            # shielded: a client that hangs up now leaves a whole job, not a row without its images
            return await self._unless_storage_hangs(asyncio.shield(queuing))
        except StorageFull:
            # with a key a repeat gets the job; without one nobody could know of it
            if not queuing.done() and keyed is None:
                self._keep(self._withdraw(job.id, queuing))
            raise

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job: at once while it waits, at its next step while it runs.

        A final job stays as it is. Raises NotFound.
        """
        job = await self.queue.cancel(job_id)
        if job.status is JobStatus.RUNNING:
            await self._dispatcher.leave(job_id)
        elif job.status is JobStatus.CANCELED:
            await self._inputs.delete(job_id)
        return job

    async def delete(self, job: Job) -> None:
        """Delete a final job and its files."""
        if await self.queue.delete(job.id):
            await self.outputs.delete(job.outputs)
            await self._inputs.delete(job.id)

    async def delete_any(self, job_id: str) -> None:
        """Delete a job and its files, even if it is unfinished, without calling its webhook.

        A running job is cancelled and hidden at once; its files are deleted when its worker has
        left it, at the next step. Raises NotFound, StorageFull; then nothing has changed.
        """
        job = await self.queue.find(job_id)
        # first, so that no webhook reports the cancellation
        self.queue.hide(job_id)
        deletion = self._keep(self._delete_when_ended(job_id))
        if not job.status.is_final:
            try:
                job = await self.cancel(job_id)
            except StorageFull:
                deletion.cancel()
                self.queue.show_again(job_id)
                raise
        if job.status.is_final:
            await asyncio.shield(deletion)

    async def expire(self, older_than: float) -> int:
        """Delete the jobs that ended before `older_than` (Unix seconds) with their files."""
        expired = await self.queue.finished_before(older_than)
        for job in expired:
            await self.delete(job)
        return len(expired)

    async def remove_leftovers(self) -> None:
        """Remove the inputs that a killed server left: of unfinished submissions, of ended jobs."""
        for job_id in self._inputs.job_ids():
            try:
                job = await self.queue.get(job_id)
            except NotFound:
                await self._inputs.delete(job_id)
            else:
                if job.status.is_final:
                    await self._inputs.release(job_id)

    async def _queue(self, job: Job, keyed: KeyedRequest | None) -> Job:
        try:
            queued = await self.queue.submit(job, keyed)
        except BaseException:
            await self._inputs.delete(job.id)
            raise
        if queued is not job:
            await self._inputs.delete(job.id)
            return queued
        if self._log_prompts:
            logger.info("job %s prompt: %r", job.id, job.request.params.prompt)
        if job.prepared_at is None:
            self._preparer.add(job)
        return job

    async def _unless_storage_hangs(self, working: asyncio.Future[T]) -> T:
        """Return its result, or cancel it and raise StorageFull while the storage hangs."""
        hanging = asyncio.create_task(self._readiness.until_blocked(SLOW))
        both: list[asyncio.Future[Any]] = [working, hanging]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise StorageFull(f"{hanging.result()} Try again later.")
            return working.result()
        finally:
            hanging.cancel()
            working.cancel()

    async def _withdraw(self, job_id: str, queuing: asyncio.Task[Job]) -> None:
        """Delete a job whose client was told that it is not queued, if it is after all."""

        def note(exc: StorageFull, delay_s: float) -> None:
            logger.error("job %s stays: %s Next attempt in %g s.", job_id, exc, delay_s)

        try:
            await queuing
        except ServerError:
            return  # it is not
        await until_stored(lambda: self.delete_any(job_id), asyncio.sleep, note)

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` as a task, whose result need not be asked for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # raised where the task is awaited, if it is

    async def _delete_when_ended(self, job_id: str) -> None:
        try:
            job = await self.queue.wait(job_id)
        except NotFound:
            return  # deleted twice at once
        if job.status.is_final:
            await self.delete(job)


def output_url(base_url: str, output: Output) -> str:
    """The URL of a finished image."""
    return f"{base_url}{ROUTE}/{output.name}"


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_REFERENCES:
        raise InvalidRequest(
            f"images must have 1 to {MAX_REFERENCES} entries, got {count}", field="images"
        )
