"""Waiting for a job, and following its changes, until it is final or the server stops."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from server.job import Job, JobStatus
from server.jobs.job_state import JobState
from server.jobs.watchers import Watchers


class JobWaits:
    """Ends all waits when the server stops, and while it drains those for queued jobs."""

    def __init__(
        self,
        watchers: Watchers,
        get: Callable[[str], Awaitable[Job]],
        state_of: Callable[[Job], Awaitable[JobState]],
    ) -> None:
        """`get` raises NotFound."""
        self._watchers = watchers
        self._get = get
        self._state_of = state_of
        self.is_draining = False
        self._is_closed = False

    def drain(self) -> None:
        """Wait no longer for jobs that are queued: they run after the next start."""
        self.is_draining = True
        self._watchers.wake_all()

    def close(self) -> None:
        """Wait no longer for any job."""
        self._is_closed = True
        self._watchers.wake_all()

    async def wait(self, job_id: str, timeout_s: float | None) -> Job:
        """Return the job once it is final, or as it is after `timeout_s` or at shutdown."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                with self._watchers.watch(job_id) as changed:
                    while not self._is_over(job := await self._get(job_id)):
                        await changed.wait()
                        changed.clear()
                    return job
        return await self._get(job_id)

    async def watch(self, job_id: str) -> AsyncIterator[JobState]:
        """Yield the job's state now and after each change, until it is final or at shutdown."""
        with self._watchers.watch(job_id) as changed:
            last = None
            while True:
                changed.clear()
                state = await self._state_of(await self._get(job_id))
                if state != last:
                    yield state
                if self._is_over(state.job):
                    return
                last = state
                await changed.wait()

    def _is_over(self, job: Job) -> bool:
        waits_for_the_next_start = self.is_draining and job.status is JobStatus.QUEUED
        return job.status.is_final or self._is_closed or waits_for_the_next_start
