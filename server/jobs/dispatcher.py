"""Claim, run, deliver, finish: a job's way from the queue to its files."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from pipelines.api.errors import EngineError
from pipelines.api.messages import Canceled, Done, Failed, OutputImage, Preview, Stage, Step
from server.errors import ContentBlocked, JobTimeout, ServerError, StorageFull, WorkerLost
from server.job import Job, JobStatus, Outcome
from server.jobs.delivery import Delivery
from server.jobs.job_inputs import JobInputs
from server.jobs.job_queue import JobQueue
from server.jobs.job_state import JobProgress
from server.jobs.step_watchdog import JobKind, SilenceWatch, StepTimes
from server.limits import MAX_ATTEMPTS
from server.media.outputs import OutputStore
from server.metrics import Metrics
from server.readiness import Readiness
from server.workers.executor import Executor, WorkerDied

logger = logging.getLogger(__name__)

# The time that a worker has to leave a job before it is killed.
CANCEL_GRACE_S = 30.0
# The finished jobs that wait for their files, beyond which no more run.
MAX_DELIVERIES_PER_WORKER = 2
# The time that outputs have to be written at shutdown; a job that is cut off runs again.
DELIVERY_GRACE_S = 2.0


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
        self._delivered = asyncio.Event()
        self._job_timeout_s = job_timeout_s
        self._clock = clock
        self._sleep = sleep
        self._step_times = StepTimes(
            step_timeout_s, on_step=(metrics or Metrics()).step_seconds.observe
        )
        self._leaving: set[str] = set()
        self._overdue: set[str] = set()
        # seconds of silence after which the worker of a job was killed
        self._silent: dict[str, float] = {}
        self._deliveries: set[asyncio.Task[None]] = set()

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

    async def leave(self, job_id: str) -> None:
        """Have the worker leave a running job at its next step."""
        self._leaving.add(job_id)
        await self._executor.cancel(job_id)

    async def _dispatch(self) -> None:
        while True:
            await self._executor.ready()
            await self._room_for_outputs()
            job = await self._queue.claim()
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
        async with self._limits(job.id, watch), contextlib.aclosing(run):
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
        self._delivered.set()

    async def _room_for_outputs(self) -> None:
        """Wait while finished jobs wait for the disk: their images are in memory."""
        while len(self._deliveries) >= MAX_DELIVERIES_PER_WORKER * self._executor.concurrency:
            self._delivered.clear()
            await self._delivered.wait()

    async def _preload_next(self, running_id: str) -> None:
        """Have the worker read the next job's LoRAs while this one runs."""
        # its own run reports what is wrong
        with contextlib.suppress(EngineError, StorageFull):
            upcoming = await self._queue.next_prepared()
            if upcoming is not None and upcoming.request.params.loras:
                await self._executor.preload(running_id, await self._inputs.loras(upcoming))

    @contextlib.asynccontextmanager
    async def _limits(self, job_id: str, watch: SilenceWatch) -> AsyncIterator[None]:
        """Enforce the time limit and the step watchdog during the block."""
        tasks = (
            asyncio.create_task(self._end_overdue(job_id)),
            asyncio.create_task(self._kill_silent(job_id, watch)),
        )
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    async def _end_overdue(self, job_id: str) -> None:
        """Have the worker leave the job after the time limit, and kill it if it does not."""
        await self._sleep(self._job_timeout_s)
        self._overdue.add(job_id)
        # beside the timer: the kill must not wait for a worker that takes no message
        leaving = asyncio.create_task(self.leave(job_id))
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

    async def _deliver(self, job: Job, images: list[OutputImage], done: Done) -> None:
        """Turn a finished run into files and an outcome."""
        try:
            outcome = await self._delivery.deliver(job, images, done)
        except ContentBlocked as exc:
            await self._fail(job, exc)
        except Exception as exc:
            logger.exception("the outputs of job %s cannot be written", job.id)
            await self._fail(job, ServerError(f"The outputs cannot be written: {exc}"))
        else:
            await self._finish(job, outcome)

    async def _end_left_job(self, job: Job) -> None:
        """Finish a job that the worker has left for the client or for the time limit."""
        if job.id in self._overdue:
            await self._fail(job, self._timeout_error())
        else:
            await self._finish(job, Outcome(JobStatus.CANCELED))

    async def _retry(self, job: Job, died: WorkerDied) -> None:
        """Requeue the job of a dead worker; fail it if it was overdue or had its last attempt."""
        silence_s = self._silent.pop(job.id, None)
        why = f"{died} after {silence_s:g} s without progress" if silence_s else str(died)
        logger.error("%s while it ran job %s", why, job.id)
        if job.id in self._overdue:
            await self._fail(job, self._timeout_error())
        elif job.attempts + 1 >= MAX_ATTEMPTS:
            await self._fail(job, WorkerLost(f"{WorkerLost()} Last: {why}."))
        else:
            requeued = await self._queue.requeue(job)
            if requeued.status.is_final:  # a cancel had been requested
                self._leaving.discard(job.id)
                await self._release_inputs(job)

    def _timeout_error(self) -> JobTimeout:
        return JobTimeout(f"The job ran longer than the allowed {self._job_timeout_s:g} seconds.")

    async def _fail(self, job: Job, exc: EngineError | ServerError) -> None:
        await self._fail_with(job, exc.code, str(exc))

    async def _fail_with(self, job: Job, code: str, message: str) -> None:
        logger.warning("job %s failed: %s: %s", job.id, code, message)
        await self._finish(job, Outcome.failed(code, message))

    async def _finish(self, job: Job, outcome: Outcome) -> None:
        await self._queue.finish(job, outcome)
        self._overdue.discard(job.id)
        self._leaving.discard(job.id)
        self._silent.pop(job.id, None)
        await self._release_inputs(job)

    async def _release_inputs(self, job: Job) -> None:
        try:
            await self._inputs.release(job.id)
        except OSError:
            # a disk that takes no deletion; the next start of the server removes what is left
            logger.exception("the inputs of job %s cannot be removed", job.id)
