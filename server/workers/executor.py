"""Who runs a job. The seam at which workers on other machines would be a second implementation."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import Protocol

from pipelines.api.messages import Canceled, Done, Failed, JobEvent, LoadFailed, Ready, Run
from pipelines.api.params import EditParams, LoraRef
from server.workers.local_process import WorkerDied, WorkerOptions, WorkerProcess

logger = logging.getLogger(__name__)

# A worker that dies while it loads the model this often in a row will not get better by itself.
MAX_LOAD_FAILURES = 3


class ExecutorState(StrEnum):
    """Whether jobs can be run."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    FAILED = "failed"


class Executor(Protocol):
    """Runs jobs, `concurrency` at a time. Image bytes travel in messages, never as local paths."""

    @property
    def concurrency(self) -> int:
        """How many jobs run at the same time."""

    @property
    def state(self) -> ExecutorState:
        """Whether jobs can be run."""

    @property
    def model(self) -> Ready | None:
        """What is loaded, once it is."""

    @property
    def failure(self) -> str | None:
        """Why the model could not be loaded."""

    async def ready(self) -> None:
        """Wait until a job could be run at once."""

    def run(
        self, job_id: str, params: EditParams, references: tuple[bytes, ...]
    ) -> AsyncIterator[JobEvent]:
        """Run a job; the last event says how it ended. Raises WorkerDied."""

    async def preload(self, job_id: str, loras: tuple[LoraRef, ...]) -> None:
        """Have the worker that runs this job read LoRA files, which the next job wants."""

    async def cancel(self, job_id: str) -> None:
        """Leave a running job at its next step; nothing happens for any other."""

    async def kill(self, job_id: str) -> None:
        """End the worker that runs this job."""


class LocalExecutor:
    """One worker process per device of this machine; a worker that dies is replaced."""

    def __init__(self, workers: Sequence[WorkerOptions]) -> None:
        self._options = workers
        self._idle: list[WorkerProcess] = []
        self._running: dict[str, WorkerProcess] = {}
        self._alive: dict[WorkerProcess, WorkerOptions] = {}
        self._ready_workers: set[WorkerProcess] = set()
        self._loading: set[asyncio.Task[None]] = set()
        self._available = asyncio.Event()
        self._closing = False
        self._model: Ready | None = None
        self._last_failure: str | None = None

    @property
    def concurrency(self) -> int:
        """One job per device."""
        return len(self._options)

    @property
    def model(self) -> Ready | None:
        """What is loaded, once it is."""
        return self._model

    @property
    def failure(self) -> str | None:
        """Why no worker is left and none is being started."""
        return None if self._idle or self._running or self._loading else self._last_failure

    @property
    def state(self) -> ExecutorState:
        """Ready when any worker is free."""
        if self.failure is not None:
            return ExecutorState.FAILED
        if self._idle:
            return ExecutorState.READY
        return ExecutorState.BUSY if self._running else ExecutorState.STARTING

    def start(self) -> None:
        """Start the workers; they load the model meanwhile."""
        for options in self._options:
            self._start_worker(options)

    def close(self) -> None:
        """Start no further workers: the server is about to stop."""
        self._closing = True
        for task in self._loading:
            task.cancel()

    async def stop(self) -> None:
        """End every worker within seconds, in the middle of a job too."""
        self.close()
        await asyncio.gather(*(worker.stop() for worker in list(self._alive)))

    async def ready(self) -> None:
        """Wait until a worker is free."""
        while not self._idle:
            self._available.clear()
            await self._available.wait()

    async def run(
        self, job_id: str, params: EditParams, references: tuple[bytes, ...]
    ) -> AsyncIterator[JobEvent]:
        """Run a job on a free worker; the last event says how it ended. Raises WorkerDied."""
        await self.ready()
        worker = self._idle.pop()
        self._running[job_id] = worker
        finished = False
        try:
            async for event in worker.run(Run(job_id, params, references)):
                finished = isinstance(event, Done | Failed | Canceled)
                yield event
        finally:
            del self._running[job_id]
            if finished and worker in self._alive:
                self._offer(worker)
            else:
                # it died, or nobody listens any more to a job it still works on
                worker.kill()

    async def preload(self, job_id: str, loras: tuple[LoraRef, ...]) -> None:
        """Have the worker that runs this job read LoRA files, which the next job wants."""
        worker = self._running.get(job_id)
        if worker is not None:
            with contextlib.suppress(WorkerDied):  # then `run` raises it
                await worker.preload(loras)

    async def cancel(self, job_id: str) -> None:
        """Leave a running job at its next step; nothing happens for any other."""
        worker = self._running.get(job_id)
        if worker is not None:
            with contextlib.suppress(WorkerDied):  # then `run` raises it
                await worker.cancel(job_id)

    async def kill(self, job_id: str) -> None:
        """End the worker that runs this job."""
        worker = self._running.get(job_id)
        if worker is not None:
            worker.kill()

    def _start_worker(self, options: WorkerOptions) -> None:
        if self._closing:
            return
        task = asyncio.create_task(self._load(options))
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    async def _load(self, options: WorkerOptions) -> None:
        died = ""
        for _ in range(MAX_LOAD_FAILURES):
            worker = WorkerProcess.start(options, self._exited)
            self._alive[worker] = options
            try:
                answer = await worker.ready()
            except asyncio.CancelledError:
                worker.kill()  # it would hear of the stop only when the model is loaded
                raise
            except WorkerDied as exc:
                died = str(exc)
                logger.error("%s while it loaded the model", died)
                continue
            if isinstance(answer, LoadFailed):
                self._fail(answer.message)
                return
            self._model = answer
            logger.info(
                "worker %d is ready: %s on %s (%s), %s",
                worker.pid,
                answer.model.name,
                answer.device,
                answer.device_name,
                answer.dtype,
            )
            self._ready_workers.add(worker)
            self._offer(worker)
            return
        self._fail(f"{died}, {MAX_LOAD_FAILURES} times in a row while it loaded the model")

    def _exited(self, worker: WorkerProcess) -> None:
        """Replace a worker that had been ready; `_load` itself sees to those that had not."""
        options = self._alive.pop(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker in self._ready_workers:
            self._ready_workers.discard(worker)
            self._start_worker(options)

    def _fail(self, reason: str) -> None:
        self._last_failure = reason
        logger.error("this worker cannot run jobs: %s", reason)

    def _offer(self, worker: WorkerProcess) -> None:
        self._idle.append(worker)
        self._available.set()
