"""The time limit of a run and the step watchdog, which end it whatever its worker does."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from server.errors import JobTimeout
from server.jobs.step_watchdog import SilenceWatch
from server.workers.executor import Executor

logger = logging.getLogger(__name__)

# The time that a worker has to leave a job before it is killed.
CANCEL_GRACE_S = 30.0


class RunLimits:
    """Watches runs, and remembers until `forget` which limit ended one."""

    def __init__(
        self,
        executor: Executor,
        leave: Callable[[str], Awaitable[None]],
        *,
        job_timeout_s: float,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """`leave` has the worker leave a running job at its next step."""
        self._executor = executor
        self._leave = leave
        self._job_timeout_s = job_timeout_s
        self._sleep = sleep
        self._overdue: set[str] = set()
        # seconds of silence after which the worker of a job was killed
        self._silent: dict[str, float] = {}

    @contextlib.asynccontextmanager
    async def during(self, job_id: str, watch: SilenceWatch) -> AsyncIterator[None]:
        """Enforce both limits during the block."""
        tasks = (
            asyncio.create_task(self._end_overdue(job_id)),
            asyncio.create_task(self._kill_silent(job_id, watch)),
        )
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    def timeout(self, job_id: str) -> JobTimeout | None:
        """Return the error of a job that has run longer than allowed, or None."""
        if job_id not in self._overdue:
            return None
        return JobTimeout(f"The job ran longer than the allowed {self._job_timeout_s:g} seconds.")

    def silence_s(self, job_id: str) -> float | None:
        """Return after how long a silence the job's worker was killed, once, or None."""
        return self._silent.pop(job_id, None)

    def forget(self, job_id: str) -> None:
        """Forget a job that has ended."""
        self._overdue.discard(job_id)
        self._silent.pop(job_id, None)

    async def _end_overdue(self, job_id: str) -> None:
        """Have the worker leave the job after the time limit, and kill it if it does not."""
        await self._sleep(self._job_timeout_s)
        self._overdue.add(job_id)
        # beside the timer: the kill must not wait for a worker that takes no message
        leaving = asyncio.ensure_future(self._leave(job_id))
        try:
            while True:
                await self._sleep(CANCEL_GRACE_S)
                await self._executor.kill(job_id)
        finally:
            leaving.cancel()

    async def _kill_silent(self, job_id: str, watch: SilenceWatch) -> None:
        """Kill the worker whenever it has been silent for too long."""
        while True:
            self._silent[job_id] = silence_s = await watch.silence()
            logger.error("job %s: its worker was silent for %g s and is killed", job_id, silence_s)
            await self._executor.kill(job_id)
