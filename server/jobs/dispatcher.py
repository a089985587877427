"""Claim, run, deliver, finish: a job's way from the queue to its files."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from pipelines.api.errors import EngineError, without_paths
from pipelines.api.messages import Canceled, Done, Failed, OutputImage, Preview, Stage, Step
from server.errors import ContentBlocked, ServerError, StorageFull, WorkerLost
from server.job import Job, JobStatus, Outcome
from server.jobs.delivery import Delivery
from server.jobs.job_inputs import JobInputs
from server.jobs.job_queue import JobQueue
from server.jobs.job_state import JobProgress
from server.jobs.run_limits import RunLimits
from server.jobs.step_watchdog import JobKind, SilenceWatch, StepTimes
from server.limits import MAX_ATTEMPTS
from server.media.outputs import OutputStore
from server.metrics import Metrics
from server.readiness import Readiness
from server.workers.executor import Executor, WorkerDied

logger = logging.getLogger(__name__)

# The finished jobs that wait for their files, beyond which no more run.
MAX_DELIVERIES_PER_WORKER = 2
# The time that outputs have to be written at shutdown; a job that is cut off runs again.
DELIVERY_GRACE_S = 2.0
# The time that killed workers have to be noticed at shutdown.
ABANDON_S = 1.0


class Dispatcher:
    """Takes jobs from the queue to the executor, as many at a time as it can run."""

    def __init__(
        self,
        queue: JobQueue,
        executor: Executor,
        inputs: JobInputs,
        outputs: OutputStore,
        *,
        job_timeout_s: float,
        step_timeout_s: float | None = None,
        embed_prompt: bool,
        blocks_unsafe: bool,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        metrics: Metrics | None = None,
        readiness: Readiness | None = None,
    ) -> None:
        """`step_timeout_s` is how long a worker may be silent, by default relative to its steps."""
        self._queue = queue
        self._executor = executor
        self._inputs = inputs
        self._delivery = Delivery(
            executor,
            outputs,
            embed_prompt=embed_prompt,
            blocks_unsafe=blocks_unsafe,
            sleep=sleep,
            readiness=readiness or Readiness(),
        )
        # set whenever a run or a delivery has ended
        self._ended = asyncio.Event()
        self._limits = RunLimits(executor, self.leave, job_timeout_s=job_timeout_s, sleep=sleep)
        self._clock = clock
        self._sleep = sleep
        self._step_times = StepTimes(
            step_timeout_s, on_step=(metrics or Metrics()).step_seconds.observe
        )
        self._leaving: set[str] = set()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._running: set[str] = set()
        self._is_abandoning = False

    async def serve(self) -> None:
        """Dispatch jobs until cancelled, then wait briefly for outputs that are being written."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._executor.concurrency):
                    group.create_task(self._dispatch())
        finally:
            if self._deliveries:
                _, late = await asyncio.wait(self._deliveries, timeout=DELIVERY_GRACE_S)
                for delivery in late:
                    delivery.cancel()

    async def drain(self, grace_s: float) -> None:
        """Start no more jobs, and give the running ones `grace_s` before they are queued again."""
        self._queue.drain()
        logger.info("stopping; %d running jobs have %g s to end", len(self._running), grace_s)
        if await self._has_ended(self._sleep(grace_s)):
            return
        self._is_abandoning = True
        self._executor.close()
        for job_id in list(self._running):
            await self._executor.kill(job_id)
        await self._has_ended(asyncio.sleep(ABANDON_S))

    async def leave(self, job_id: str) -> None:
        """Have the worker leave a running job at its next step."""
        self._leaving.add(job_id)
        await self._executor.cancel(job_id)

    async def _dispatch(self) -> None:
        while True:
            await self._executor.ready()
            await self._room_for_outputs()
            job = await self._queue.claim()
            if job is None:
                return
            self._running.add(job.id)
            try:
                await self._run_to_its_end(job)
            finally:
                self._running.discard(job.id)
                self._ended.set()

    async def _run_to_its_end(self, job: Job) -> None:
        try:
            await self._run(job)
        except (EngineError, ServerError) as exc:
            await self._fail(job, exc)
        except WorkerDied as exc:
            await self._retry(job, exc)
        except Exception:
            logger.exception("job %s failed in the server", job.id)
            await self._fail(job, ServerError())

    async def _run(self, job: Job) -> None:
        """Hand the job to a worker and follow it to its end."""
        params, inputs = job.request.params, await self._inputs.load(job)
        images: list[OutputImage] = []
        stage: Stage | None = None
        watch = SilenceWatch(self._step_times, JobKind.of(job), self._clock, self._sleep)
        run = self._executor.run(job.id, params, inputs.references, inputs.loras)
        async with self._limits.during(job.id, watch), contextlib.aclosing(run):
            async for event in run:
                watch.hear(event)
                match event:
                    case Step():
                        await self._report(job.id, event, is_new_stage=event.stage is not stage)
                        stage = event.stage
                    case Preview():
                        self._queue.show(job.id, event)
                    case OutputImage():
                        images.append(event)
                    case Done():
                        self._start_delivery(job, images, event)
                    case Failed():
                        await self._fail_with(job, event.code, event.message)
                    case Canceled():
                        await self._end_left_job(job)

    async def _report(self, job_id: str, step: Step, *, is_new_stage: bool) -> None:
        if is_new_stage and step.stage is Stage.ENCODE:
            await self._preload_next(job_id)
        self._queue.report(job_id, JobProgress(step.stage, step.step, step.total))
        if job_id in self._leaving:
            # requested before the worker had the job: repeat it
            await self._executor.cancel(job_id)

    def _start_delivery(self, job: Job, images: list[OutputImage], done: Done) -> None:
        """Write the outputs while the device runs the next job."""
        delivery = asyncio.create_task(self._deliver(job, images, done))
        self._deliveries.add(delivery)
        delivery.add_done_callback(self._forget_delivery)

    def _forget_delivery(self, delivery: asyncio.Task[None]) -> None:
        self._deliveries.discard(delivery)
        self._ended.set()

    async def _room_for_outputs(self) -> None:
        """Wait while finished jobs wait for the disk: their images are in memory."""
        while len(self._deliveries) >= MAX_DELIVERIES_PER_WORKER * self._executor.concurrency:
            self._ended.clear()
            await self._ended.wait()

    async def _has_ended(self, grace: Awaitable[None]) -> bool:
        """Wait until all runs and deliveries have ended; return False if `grace` ends before."""
        ending = asyncio.ensure_future(self._until_idle())
        waiting = asyncio.ensure_future(grace)
        try:
            await asyncio.wait({ending, waiting}, return_when=asyncio.FIRST_COMPLETED)
            return ending.done()
        finally:
            for task in (ending, waiting):
                task.cancel()

    async def _until_idle(self) -> None:
        while self._running or self._deliveries:
            self._ended.clear()
            await self._ended.wait()

    async def _preload_next(self, running_id: str) -> None:
        """Have the worker read the next job's LoRAs while this one runs."""
        # its own run reports what is wrong
        with contextlib.suppress(EngineError, StorageFull):
            upcoming = await self._queue.next_prepared()
            if upcoming is not None and upcoming.request.params.loras:
                await self._executor.preload(running_id, await self._inputs.loras(upcoming))

    async def _deliver(self, job: Job, images: list[OutputImage], done: Done) -> None:
        """Turn a finished run into files and an outcome."""
        try:
            outcome = await self._delivery.deliver(job, images, done)
        except ContentBlocked as exc:
            await self._fail(job, exc)
        except Exception as exc:
            logger.exception("the outputs of job %s cannot be written", job.id)
            await self._fail(
                job, ServerError(without_paths(f"The outputs cannot be written: {exc}"))
            )
        else:
            await self._finish(job, outcome)

    async def _end_left_job(self, job: Job) -> None:
        """Finish a job that the worker has left for the client or for the time limit."""
        if (timeout := self._limits.timeout(job.id)) is not None:
            await self._fail(job, timeout)
        else:
            await self._finish(job, Outcome(JobStatus.CANCELED))

    async def _retry(self, job: Job, died: WorkerDied) -> None:
        """Requeue the job of a dead worker; fail it if it was overdue or had its last attempt."""
        silence_s = self._limits.silence_s(job.id)
        why = f"{died} after {silence_s:g} s without progress" if silence_s else str(died)
        logger.error("%s while it ran job %s", why, job.id)
        if (timeout := self._limits.timeout(job.id)) is not None:
            await self._fail(job, timeout)
        elif job.attempts + 1 >= MAX_ATTEMPTS and not self._is_abandoning:
            await self._fail(job, WorkerLost(f"{WorkerLost()} Last: {why}."))
        else:
            requeued = await self._queue.requeue(job, is_attempt=not self._is_abandoning)
            if requeued.status.is_final:  # a cancel had been requested
                self._leaving.discard(job.id)
                await self._release_inputs(job)

    async def _fail(self, job: Job, exc: EngineError | ServerError) -> None:
        await self._fail_with(job, exc.code, str(exc))

    async def _fail_with(self, job: Job, code: str, message: str) -> None:
        logger.warning("job %s failed: %s: %s", job.id, code, message)
        await self._finish(job, Outcome.failed(code, message))

    async def _finish(self, job: Job, outcome: Outcome) -> None:
        await self._queue.finish(job, outcome)
        self._limits.forget(job.id)
        self._leaving.discard(job.id)
        await self._release_inputs(job)

    async def _release_inputs(self, job: Job) -> None:
        try:
            await self._inputs.release(job.id)
        except OSError:
            # a disk that takes no deletion; the next start of the server removes what is left
            logger.exception("the inputs of job %s cannot be removed", job.id)
