"""An executor without workers, whose events are sent by the test."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from pipelines.api.messages import (
    Canceled,
    Done,
    Failed,
    JobEvent,
    LoraFile,
    OutputImage,
    Ready,
    Stage,
    Step,
)
from pipelines.api.params import EditParams
from pipelines.api.profiles import Source, UsedSampling
from server.workers.executor import ExecutorState, WorkerDied

SAMPLING = UsedSampling(
    {"steps": Source.MODEL, "true_cfg_scale": Source.MODEL}, 40, 4.0, 2.0, 0.02, (1.0, 0.5, 0.02)
)
SECONDS = {Stage.ENCODE: 0.25, Stage.DENOISE: 2.0, Stage.DECODE: 0.5}


@dataclass
class FakeRun:
    """One run: the arguments of the executor, and the worker's side."""

    job_id: str
    params: EditParams
    references: tuple[bytes, ...]
    loras: tuple[LoraFile, ...]
    events: asyncio.Queue[JobEvent | Exception] = field(default_factory=asyncio.Queue)

    def send(self, event: JobEvent) -> None:
        """Send any event."""
        self.events.put_nowait(event)

    def step(self, stage: Stage = Stage.DENOISE, step: int = 1, total: int = 4) -> None:
        """Report a step."""
        self.send(Step(self.job_id, stage, step, total))

    def image(self, *, index: int = 0, is_unsafe: bool = False) -> None:
        """Send a 2×1 output."""
        rgb = bytes([255, 0, 0, 0, 0, 255])
        seed = self.params.seed + index
        self.send(OutputImage(self.job_id, index, seed, 2, 1, rgb, is_unsafe))

    def done(self) -> None:
        """Finish."""
        self.send(Done(self.job_id, SECONDS, SAMPLING, self.params.prompt, is_extended=False))

    def fail(self, code: str, message: str) -> None:
        """Fail."""
        self.send(Failed(self.job_id, code, message))

    def leave(self) -> None:
        """Confirm a cancel."""
        self.send(Canceled(self.job_id))

    def die(self) -> None:
        """End like a worker whose process was killed."""
        self.events.put_nowait(WorkerDied("worker 7 was killed by SIGKILL"))


class FakeExecutor:
    """Records every call. `started` receives each run as the dispatcher starts it.

    Without `takes_cancels` a cancel never returns, like one to a worker that reads nothing.
    """

    def __init__(self, concurrency: int = 1) -> None:
        self.concurrency = concurrency
        self.state = ExecutorState.READY
        self.model: Ready | None = None
        self.failure: str | None = None
        self.started: asyncio.Queue[FakeRun] = asyncio.Queue()
        self.running: dict[str, FakeRun] = {}
        self.takes_cancels = True
        self.canceled: list[str] = []
        self.killed: list[str] = []
        self.preloaded: list[tuple[str, tuple[LoraFile, ...]]] = []
        self._freed = asyncio.Event()

    def start(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        """Nothing to close."""

    async def stop(self) -> None:
        """Nothing to stop."""

    async def ready(self) -> None:
        while len(self.running) >= self.concurrency:
            self._freed.clear()
            await self._freed.wait()

    async def run(
        self,
        job_id: str,
        params: EditParams,
        references: tuple[bytes, ...],
        loras: tuple[LoraFile, ...],
    ) -> AsyncGenerator[JobEvent, None]:
        await self.ready()
        run = FakeRun(job_id, params, references, loras)
        self.running[job_id] = run
        self.started.put_nowait(run)
        try:
            while True:
                event = await run.events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Done | Failed | Canceled):
                    return
        finally:
            del self.running[job_id]
            self._freed.set()

    async def preload(self, job_id: str, loras: tuple[LoraFile, ...]) -> None:
        self.preloaded.append((job_id, loras))

    async def cancel(self, job_id: str) -> None:
        self.canceled.append(job_id)
        if not self.takes_cancels:
            await asyncio.Event().wait()

    async def kill(self, job_id: str) -> None:
        """End the run like a worker whose process was killed."""
        self.killed.append(job_id)
        self.running[job_id].die()
