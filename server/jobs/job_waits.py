"""Waiting for a job, and following its changes, until it is final or the server stops."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace

from server.job import Job, JobStatus
from server.jobs.job_state import JobState
from server.jobs.watchers import Watchers

# The least time between two announcements of positions, in all and for each follower: one claim
# moves every job behind it.
MOVE_INTERVAL_S = 0.25
MOVE_INTERVAL_PER_FOLLOWER_S = 0.005
# Followers that are told at a time, and the pause after them: each writes an event of its own, and
# a poll takes several turns of the event loop.
TOLD_AT_ONCE = 4
PAUSE_S = 0.01


class JobWaits:
    """Ends all waits when the server stops, and while it drains those for queued jobs."""

    def __init__(
        self,
        watchers: Watchers,
        get: Callable[[str], Awaitable[Job]],
        state_of: Callable[[Job], Awaitable[JobState]],
        positions: Callable[[], Awaitable[Mapping[str, int]]],
    ) -> None:
        """`get` raises NotFound; `positions` are those of all queued jobs."""
        self._watchers = watchers
        self._get = get
        self._state_of = state_of
        self._positions = positions
        self._announcing: asyncio.Task[None] | None = None
        self._has_moved = False
        self.is_draining = False
        self._is_closed = False

    def drain(self) -> None:
        """Wait no longer for jobs that are queued: they run after the next start."""
        self.is_draining = True
        self._watchers.wake_all()

    def close(self) -> None:
        """Wait no longer for any job."""
        self._is_closed = True
        if self._announcing is not None:
            self._announcing.cancel()
        self._watchers.wake_all()

    def moved(self) -> None:
        """Announce the positions of queued jobs soon: some may have changed."""
        self._has_moved = True
        if self._announcing is None and not self._is_closed and self._watchers.followed():
            self._announcing = asyncio.create_task(self._announce())
            self._announcing.add_done_callback(self._announced)

    async def wait(self, job_id: str, timeout_s: float | None) -> Job:
        """Return the job once it is final, or as it is after `timeout_s` or at shutdown."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                with self._watchers.watch(job_id, follows_position=False) as watch:
                    while not self._is_over(job := await self._get(job_id)):
                        await watch.next()
                    return job
        return await self._get(job_id)

    async def watch(self, job_id: str) -> AsyncIterator[JobState]:
        """Yield the job's state now and after each change, until it is final or at shutdown."""
        with self._watchers.watch(job_id, follows_position=True) as watch:
            last = None
            position: int | None = None
            while True:
                if last is None or position is None:
                    watch.clear()
                    state = await self._state_of(await self._get(job_id))
                else:
                    # nothing to read: hundreds of followers would keep other reads waiting
                    state = replace(last, position=position)
                if state != last:
                    yield state
                if self._is_over(state.job):
                    return
                last = state
                position = await watch.next()

    async def _announce(self) -> None:
        while self._has_moved:
            self._has_moved = False
            positions = await self._positions()
            moved = [job_id for job_id in self._watchers.followed() if job_id in positions]
            for start in range(0, len(moved), TOLD_AT_ONCE):
                for job_id in moved[start : start + TOLD_AT_ONCE]:
                    self._watchers.move(job_id, positions[job_id])
                await asyncio.sleep(PAUSE_S)
            await asyncio.sleep(max(MOVE_INTERVAL_S, MOVE_INTERVAL_PER_FOLLOWER_S * len(moved)))

    def _announced(self, task: asyncio.Task[None]) -> None:
        self._announcing = None
        # a disk that cannot be read: the next move tries again
        failed = not task.cancelled() and task.exception() is not None
        if self._has_moved and not failed:
            self.moved()

    def _is_over(self, job: Job) -> bool:
        waits_for_the_next_start = self.is_draining and job.status is JobStatus.QUEUED
        return job.status.is_final or self._is_closed or waits_for_the_next_start
