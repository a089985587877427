"""The local executor: one worker process per device of this machine."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence

from pipelines.api.messages import (
    Canceled,
    Done,
    Failed,
    JobEvent,
    LoadFailed,
    LoraFile,
    Ready,
    Run,
)
from pipelines.api.params import EditParams
from server.workers.executor import ExecutorState, WorkerDied
from server.workers.local_process import WorkerOptions, WorkerProcess

logger = logging.getLogger(__name__)

# A worker that dies this often in a row while it loads the model will die again.
MAX_LOAD_FAILURES = 3


class LocalPool:
    """Runs one job per worker process and replaces the workers that die.

    Workers share the server's file system, so LoRA paths are sent as they are.
    """

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
        """The loaded model, or None until the first worker has loaded it."""
        return self._model

    @property
    def failure(self) -> str | None:
        """The reason why no worker is left and none is starting, or None."""
        return None if self._idle or self._running or self._loading else self._last_failure

    @property
    def state(self) -> ExecutorState:
        """READY when a worker is free, FAILED when no worker is left or starting."""
        if self.failure is not None:
            return ExecutorState.FAILED
        if self._idle:
            return ExecutorState.READY
        return ExecutorState.BUSY if self._running else ExecutorState.STARTING

    def start(self) -> None:
        """Start the workers, which load the model in the background."""
        for options in self._options:
            self._start_worker(options)

    def close(self) -> None:
        """Start no more workers; running jobs continue."""
        self._closing = True
        for task in self._loading:
            task.cancel()

    async def stop(self) -> None:
        """Stop every worker within seconds, even in the middle of a job."""
        self.close()
        await asyncio.gather(*(worker.stop() for worker in list(self._alive)))

    async def ready(self) -> None:
        """Wait until a worker is free."""
        while not self._idle:
            self._available.clear()
            await self._available.wait()

    async def run(
        self,
        job_id: str,
        params: EditParams,
        references: tuple[bytes, ...],
        loras: tuple[LoraFile, ...],
    ) -> AsyncGenerator[JobEvent, None]:
        """Run a job on a free worker and yield its events. Raises WorkerDied."""
        await self.ready()
        worker = self._idle.pop()
        self._running[job_id] = worker
        finished = False
        try:
            async for event in worker.run(Run(job_id, params, references, loras)):
                finished = isinstance(event, Done | Failed | Canceled)
                yield event
        finally:
            del self._running[job_id]
            if finished and worker in self._alive:
                self._release(worker)
            else:
                # it died, or its job was abandoned and still runs
                worker.kill()

    async def preload(self, job_id: str, loras: tuple[LoraFile, ...]) -> None:
        """Have the worker that runs this job read LoRA files for the next one."""
        worker = self._running.get(job_id)
        if worker is not None:
            with contextlib.suppress(WorkerDied):  # `run` raises it too
                await worker.preload(loras)

    async def cancel(self, job_id: str) -> None:
        """Ask a running job's worker to leave it at the next step; ignore any other job."""
        worker = self._running.get(job_id)
        if worker is not None:
            with contextlib.suppress(WorkerDied):  # `run` raises it too
                await worker.cancel(job_id)

    async def kill(self, job_id: str) -> None:
        """Kill the worker that runs this job."""
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
                worker.kill()  # it reads Stop only once the model is loaded
                raise
            except WorkerDied as exc:
                died = str(exc)
                logger.error("%s while it loaded the model", died)
                continue
            if isinstance(answer, LoadFailed):
                self._fail(answer.message)
            else:
                self._add_ready(worker, answer)
            return
        self._fail(f"{died}, {MAX_LOAD_FAILURES} times in a row while it loaded the model")

    def _add_ready(self, worker: WorkerProcess, ready: Ready) -> None:
        self._model = ready
        logger.info(
            "worker %d is ready: %s on %s (%s), %s",
            worker.pid,
            ready.model.name,
            ready.device,
            ready.device_name,
            ready.dtype,
        )
        self._ready_workers.add(worker)
        self._release(worker)

    def _exited(self, worker: WorkerProcess) -> None:
        """Replace a worker that had been ready; `_load` retries the others itself."""
        options = self._alive.pop(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker in self._ready_workers:
            self._ready_workers.discard(worker)
            self._start_worker(options)

    def _fail(self, reason: str) -> None:
        self._last_failure = reason
        logger.error("this worker cannot run jobs: %s", reason)

    def _release(self, worker: WorkerProcess) -> None:
        self._idle.append(worker)
        self._available.set()
