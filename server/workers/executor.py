"""The executor's interface: it runs jobs on workers, here or on other machines."""

from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Protocol

from pipelines.api.messages import JobEvent, LoraFile, Ready
from pipelines.api.params import EditParams


class WorkerDied(Exception):
    """A worker exited, or was killed, before it finished its work."""


class ExecutorState(StrEnum):
    """The readiness of the workers as a whole."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    FAILED = "failed"


class Executor(Protocol):
    """Runs jobs, `concurrency` at a time.

    Images travel as bytes. The paths of LoRA files are on the server's machine: an executor with
    workers elsewhere copies the files by their hashes and sends paths of its own.
    """

    @property
    def concurrency(self) -> int:
        """The number of jobs that run at the same time."""

    @property
    def state(self) -> ExecutorState:
        """READY when a worker is free, FAILED when no worker could be started."""

    @property
    def model(self) -> Ready | None:
        """The loaded model, or None until the first worker has loaded it."""

    @property
    def failure(self) -> str | None:
        """The reason why the model cannot be loaded now, or None; loading is retried."""

    def start(self) -> None:
        """Start the workers, which load the model in the background."""

    def close(self) -> None:
        """Start no more workers; running jobs continue."""

    async def stop(self) -> None:
        """Stop every worker within seconds, even in the middle of a job."""

    async def ready(self) -> None:
        """Wait until a worker is free."""

    def run(
        self,
        job_id: str,
        params: EditParams,
        references: tuple[bytes, ...],
        loras: tuple[LoraFile, ...],
    ) -> AsyncGenerator[JobEvent, None]:
        """Run a job and yield its events; the last one is Done, Failed or Canceled.

        Raises WorkerDied.
        """

    async def preload(self, job_id: str, loras: tuple[LoraFile, ...]) -> None:
        """Have the worker that runs this job read LoRA files for the next one."""

    async def cancel(self, job_id: str) -> None:
        """Ask a running job's worker to leave it at the next step; ignore any other job.

        Does not wait for the worker, which may be hung; nor does `preload`.
        """

    async def kill(self, job_id: str) -> None:
        """Kill the worker that runs this job."""
