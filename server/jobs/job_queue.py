"""The queue: jobs on disk, and their progress in memory."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial

from pipelines.api.messages import Preview
from server.caller import Caller
from server.errors import JobDeleted, NotFound
from server.job import Job, JobStatus, Outcome
from server.jobs.job_state import JobProgress, JobState, ProgressBoard
from server.jobs.job_waits import JobWaits
from server.jobs.queue_limits import QueueLimits
from server.jobs.transitions import Transitions
from server.jobs.watchers import Watchers
from server.metrics import Metrics
from server.store import endings, idempotency, jobs, recovery, turns
from server.store.database import Database
from server.store.idempotency import KeyedRequest
from server.store.jobs import JobFilter

logger = logging.getLogger(__name__)


class JobQueue:
    """All changes of jobs: each is written to disk first and then wakes its watchers."""

    def __init__(
        self,
        database: Database,
        *,
        limits: QueueLimits,
        clock: Callable[[], float],
        metrics: Metrics | None = None,
    ) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock
        self._transitions = Transitions(metrics or Metrics(), clock)
        self._board = ProgressBoard()
        self._watchers = Watchers()
        positions = partial(database.read, turns.positions)
        self._waits = JobWaits(self._watchers, self.get, self.state_of, positions)
        self._work = asyncio.Event()
        self._hidden: set[str] = set()
        # set whenever a webhook has become due
        self.webhook_added = asyncio.Event()

    async def open(self) -> list[Job]:
        """Requeue the jobs that the last server was running; return all unprepared jobs.

        A job that has been started MAX_STARTS times fails instead.
        """
        await self._database.persist(recovery.create_tables)
        for job in await self._database.persist(partial(recovery.recover, now=self._clock())):
            logger.info("job %s was interrupted and is now %s", job.id, job.status)
            self._transitions.left(job)
        self._work.set()
        queued = await self._database.read(partial(jobs.with_status, status=JobStatus.QUEUED))
        return [job for job in queued if job.prepared_at is None]

    @property
    def storage_failure(self) -> str | None:
        """The reason why the change of a job is still waiting for the disk, or None."""
        return self._database.failure

    @property
    def is_draining(self) -> bool:
        """True once no more jobs are claimed."""
        return self._waits.is_draining

    def drain(self) -> None:
        """Let nobody claim another job; end the waits for queued ones."""
        self._waits.drain()
        self._work.set()

    def close(self) -> None:
        """End all waits and event streams; the jobs on disk do not change."""
        self._waits.close()

    async def check_room(self, owner: str | None) -> None:
        """Raise QueueFull if no more jobs may wait, of anybody or of this owner."""
        await self._database.read(partial(self._limits.check, owner=owner))

    async def first_job(self, keyed: KeyedRequest) -> Job | None:
        """Return the job of an earlier request with the same Idempotency-Key, or None.

        Raises KeyReused, JobDeleted.
        """
        find = partial(idempotency.find, request=keyed, now=self._clock())
        job = await self._database.read(find)
        if job is not None and job.id in self._hidden:
            raise JobDeleted
        return job

    async def submit(self, job: Job, keyed: KeyedRequest | None = None) -> Job:
        """Add a new job, which is on disk when this returns.

        If meanwhile a request with the same Idempotency-Key has added one, return that instead.
        Raises QueueFull, KeyReused, JobDeleted.
        """

        def insert(connection: sqlite3.Connection) -> tuple[Job | None, bool]:
            first = idempotency.find(connection, keyed, job.created_at) if keyed else None
            if first is not None:
                return first, False
            self._limits.check(connection, job.request.owner)
            jobs.insert(connection, job)
            if keyed is not None:
                idempotency.insert(connection, keyed, job.id, job.created_at)
            return None, turns.overtakes(connection, job.id)

        first, overtakes = await self._database.write(insert)
        if first is not None:
            return first
        self._transitions.queued(job)
        if overtakes:
            self._waits.moved()
        self._work.set()
        return job

    async def get(self, job_id: str) -> Job:
        """Return the job with this ID. Raises NotFound."""
        job = await self._database.read(partial(jobs.get, job_id=job_id))
        if job is None:
            raise NotFound(f"There is no job {job_id}.")
        return job

    async def find(self, job_id: str) -> Job:
        """Like `get`, but a hidden job does not exist."""
        if job_id in self._hidden:
            raise NotFound(f"There is no job {job_id}.")
        return await self.get(job_id)

    async def state(self, job_id: str, caller: Caller) -> JobState:
        """The job with its position or progress, if the caller may see it. Raises NotFound."""
        job = await self.find(job_id)
        if not caller.may_see(job.request.owner):
            raise NotFound(f"There is no job {job_id}.")
        return await self.state_of(job)

    async def state_of(self, job: Job) -> JobState:
        """`job` with its position while queued, or its progress while running."""
        place = None
        if job.status is JobStatus.QUEUED:
            place = await self._database.read(partial(turns.position, job_id=job.id))
        return self._board.state(job, place)

    async def search(
        self, wanted: JobFilter, caller: Caller, *, limit: int, offset: int
    ) -> tuple[list[Job], int]:
        """A page of the caller's jobs, or all for an admin, newest first; and their number."""
        if not caller.is_admin:
            wanted = replace(wanted, owner=caller.owner)
        find = partial(jobs.search, wanted=wanted, limit=limit, offset=offset)
        found, total = await self._database.read(find)
        return [job for job in found if job.id not in self._hidden], total

    async def count(self, status: JobStatus) -> int:
        """Count the jobs with this status."""
        return await self._database.read(partial(jobs.count, status=status))

    async def finished_before(self, moment: float) -> list[Job]:
        """Return the jobs that ended before `moment` (Unix seconds)."""
        return await self._database.read(partial(jobs.finished_before, moment=moment))

    async def forget_keys(self) -> None:
        """Forget the Idempotency-Keys whose time is over."""
        await self._database.write(partial(idempotency.delete_expired, now=self._clock()))

    async def lora_references(self) -> frozenset[str]:
        """Return the LoRA references of all unfinished jobs."""
        unfinished = await self._database.read(jobs.unfinished)
        return frozenset(lora.path for job in unfinished for lora in job.request.params.loras)

    async def mark_prepared(self, job_id: str) -> JobStatus:
        """Mark a queued job as ready to run; return its current status."""
        job = await self.get(job_id)
        if job.status is JobStatus.QUEUED:
            prepared = job.evolve(prepared_at=self._clock())
            job = await self._write(job, prepared, until_written=True)
            if job is prepared:
                self._transitions.prepared(job)
            self._work.set()
        return job.status

    async def claim(self) -> Job | None:
        """Wait for a prepared job, mark the next in turn as running and return it.

        Like every change that no client waits for, it is retried until it is written. Returns None
        once the server drains.
        """
        while not self.is_draining:
            self._work.clear()
            job = await self._database.persist(partial(jobs.claim, now=self._clock()))
            if job is not None:
                self._transitions.started(job)
                self._watchers.wake(job.id)
                # the jobs behind it moved up
                self._waits.moved()
                return job
            await self._work.wait()
        return None

    async def next_prepared(self) -> Job | None:
        """Return the job that would be claimed next, or None."""
        return await self._database.read(jobs.next_prepared)

    def report(self, job_id: str, progress: JobProgress) -> None:
        """Update the progress of a running job."""
        self._board.set_progress(job_id, progress)
        self._transitions.stage(job_id, progress.stage)
        self._watchers.wake(job_id)

    def show(self, job_id: str, preview: Preview) -> None:
        """Add a preview of a running job for its watchers."""
        self._board.add_preview(job_id, preview)
        self._watchers.wake(job_id)

    async def requeue(self, job: Job, *, is_attempt: bool = True) -> Job:
        """Requeue a job that its worker left, at its old place; a cancelled one ends instead.

        It is no attempt, and no start, when the server itself took the job from its worker.
        """
        self._board.forget(job.id)
        requeue = partial(endings.requeue, job_id=job.id, now=self._clock(), is_attempt=is_attempt)
        requeued = await self._database.persist(requeue)
        self.webhook_added.set()
        self._transitions.left(requeued)
        self._watchers.wake(job.id)
        self._waits.moved()
        self._work.set()
        return requeued

    async def finish(self, job: Job, outcome: Outcome) -> Job:
        """Write the outcome of a job, retrying until it is written.

        A job that has already ended stays as it is.
        """
        finished = await self._write(job, job.ended(outcome, self._clock()), until_written=True)
        self._board.forget(job.id)
        self._watchers.wake(job.id)
        return finished

    async def cancel(self, job_id: str) -> Job:
        """Cancel a queued job at once, or record the request of a running one on disk.

        A final job stays as it is. Raises NotFound, StorageFull.
        """
        job = await self.get(job_id)
        while not (job.status.is_final or job.cancel_requested):
            # retry if the job has changed meanwhile: claimed, requeued, finished
            canceled = job.evolve(cancel_requested=True)
            if job.status is JobStatus.QUEUED:
                canceled = canceled.ended(Outcome(JobStatus.CANCELED), self._clock())
            job = await self._write(job, canceled)
        return job

    def hide(self, job_id: str) -> None:
        """Treat a job as deleted, in `state`, in `search` and for its webhook, until it is."""
        self._hidden.add(job_id)

    def show_again(self, job_id: str) -> None:
        """Undo `hide`."""
        self._hidden.discard(job_id)

    async def delete(self, job_id: str) -> bool:
        """Delete a final job and its pending webhook. Returns False if there is no such job."""
        try:
            return await self._database.write(partial(endings.delete, job_id=job_id))
        finally:
            self.show_again(job_id)

    async def wait(self, job_id: str, timeout_s: float | None = None) -> Job:
        """Return the job once it is final, or as it is after `timeout_s` or at shutdown."""
        return await self._waits.wait(job_id, timeout_s)

    def watch(self, job_id: str) -> AsyncIterator[JobState]:
        """Yield the job's state now and after each change, until it is final or at shutdown."""
        return self._waits.watch(job_id)

    async def _write(self, job: Job, changed: Job, *, until_written: bool = False) -> Job:
        """Store `changed` unless the status on disk is no longer that of `job`; return the row."""
        store = self._database.persist if until_written else self._database.write
        if not await store(partial(endings.update, job=changed, expected=[job.status])):
            return await self.get(job.id)
        if changed.status.is_final:
            self.webhook_added.set()
        if changed.status != job.status:
            self._transitions.left(changed)
            # the jobs behind it may have moved
            self._waits.moved()
        self._watchers.wake(job.id)
        return changed
