"""The local executor: one worker process per device of this machine."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

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
from server.metrics import Metrics
from server.workers import load_watch
from server.workers.executor import ExecutorState, WorkerDied
from server.workers.local_process import WorkerOptions, WorkerProcess
from server.workers.usage_metrics import UsageMetrics

logger = logging.getLogger(__name__)

# The longest wait between attempts to load the model.
MAX_RETRY_S = 300.0


def retry_delay_s(failures: int) -> float:
    """Return the wait after this many failed loads in a row: 1, 4, 16, … up to 300 seconds.

    A worker that has just died may hold the device's memory a little longer; a broken model needs
    a person.
    """
    return min(MAX_RETRY_S, 4.0 ** min(failures - 1, 10))


class LocalPool:
    """Runs one job per worker process and replaces the workers that die.

    Workers share the server's file system, so LoRA paths are sent as they are.
    """

    def __init__(
        self,
        workers: Sequence[WorkerOptions],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        metrics: Metrics | None = None,
        load_silence_s: float = load_watch.SILENCE_S,
    ) -> None:
        """A worker that uses no CPU time for `load_silence_s` while it loads is replaced."""
        self._options = workers
        self._load_silence_s = load_silence_s
        self._sleep = sleep
        self._metrics = metrics or Metrics()
        self._usage = UsageMetrics(self._metrics)
        self._idle: list[WorkerProcess] = []
        self._running: dict[str, WorkerProcess] = {}
        self._alive: dict[WorkerProcess, WorkerOptions] = {}
        self._ready_workers: set[WorkerProcess] = set()
        # the tasks that start workers, with the last failure of each
        self._loading: dict[asyncio.Task[None], str | None] = {}
        self._available = asyncio.Event()
        self._closing = False
        self._model: Ready | None = None

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
        """The reason why no worker could be started, or None; all of them are retried."""
        if self._idle or self._running or None in self._loading.values():
            return None
        return next(iter(self._loading.values()), None)

    @property
    def state(self) -> ExecutorState:
        """READY when a worker is free, FAILED when no worker could be started."""
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
                finished = isinstance(event, Done | Failed | Canceled) and not (
                    isinstance(event, Failed) and event.is_fatal
                )
                yield event
        finally:
            del self._running[job_id]
            if finished and worker in self._alive:
                self._release(worker)
            else:
                # it died, its device failed, or its job was abandoned and still runs
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
        self._loading[task] = None
        task.add_done_callback(self._loading.pop)

    async def _load(self, options: WorkerOptions) -> None:
        """Start a worker until one has loaded the model."""
        task, failures = asyncio.current_task(), 0
        assert task is not None, "a coroutine runs in a task"
        while (reason := await self._try_to_load(options)) is not None:
            failures += 1
            self._metrics.load_failures.inc()
            delay_s = retry_delay_s(failures)
            self._loading[task] = f"{reason} Next attempt in {delay_s:g} s."
            logger.error("no worker on %s: %s", options.device, self._loading[task])
            await self._sleep(delay_s)

    async def _try_to_load(self, options: WorkerOptions) -> str | None:
        """Start a worker and wait until it is ready; return why it is not, or None."""
        try:
            worker = WorkerProcess.start(options, self._exited, self._usage.note)
        except OSError as exc:
            return f"A worker process cannot be started: {exc.strerror or exc}."
        self._alive[worker] = options
        watch = asyncio.create_task(self._kill_if_hung(worker))
        try:
            answer = await worker.ready()
        except asyncio.CancelledError:
            worker.kill()  # it reads Stop only once the model is loaded
            raise
        except WorkerDied as exc:
            if watch.done() and watch.result():
                return (
                    f"{exc}: it loaded the model without progress for {self._load_silence_s:g} s."
                )
            return f"{exc} while it loaded the model."
        finally:
            watch.cancel()
        if isinstance(answer, LoadFailed):
            worker.kill()  # its own exit takes seconds, in which it holds memory
            return answer.message
        self._add_ready(worker, answer)
        return None

    async def _kill_if_hung(self, worker: WorkerProcess) -> bool:
        is_hung = await load_watch.hangs(worker.pid, self._load_silence_s)
        if is_hung:
            worker.kill()
        return is_hung

    def _add_ready(self, worker: WorkerProcess, ready: Ready) -> None:
        self._model = ready
        logger.info(
            "worker %d is ready: %s on %s (%s), %s, %s forward%s",
            worker.pid,
            ready.model.name,
            ready.device,
            ready.device_name,
            ready.dtype,
            ready.forward,
            f" ({ready.forward_reason})" if ready.forward_reason else "",
        )
        self._ready_workers.add(worker)
        self._release(worker)

    def _exited(self, worker: WorkerProcess) -> None:
        """Replace a worker that had been ready; `_load` retries the others."""
        options = self._alive.pop(worker)
        self._usage.forget(worker.pid)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker in self._ready_workers:
            self._ready_workers.discard(worker)
            if not self._closing:
                self._metrics.worker_restarts.inc()
            self._start_worker(options)

    def _release(self, worker: WorkerProcess) -> None:
        self._idle.append(worker)
        self._available.set()
