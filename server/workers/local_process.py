"""One local worker process and the socket to it, seen from the event loop."""

import asyncio
import contextlib
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from pipelines.api.messages import (
    Cancel,
    Canceled,
    Done,
    Failed,
    FromWorker,
    JobEvent,
    LoadFailed,
    LoraFile,
    Preload,
    Ready,
    Run,
    Stop,
    ToWorker,
    WorkerUsage,
)
from server.workers.executor import WorkerDied
from server.workers.output import log_output
from server.workers.threads import thread_settings

logger = logging.getLogger(__name__)

STOP_GRACE_S = 2.0
# A killed process that a driver holds in the kernel keeps its socket open; it is given up then.
KILL_GRACE_S = 5.0
# For the last lines of a worker that has exited.
OUTPUT_GRACE_S = 1.0
# The program of a worker; its arguments follow.
WORKER_COMMAND = (sys.executable, "-m", "pipelines.worker")


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """The program of a worker and its options."""

    model: Path
    device: str
    dtype: str
    offload: str
    safety_checker: str | None = None
    strict_loras: bool = False
    forward: str = "auto"
    prune_last_block: bool = False
    command: Sequence[str] = WORKER_COMMAND

    def command_line(self, fd: int) -> list[str]:
        """The command line of a worker that talks over the socket `fd`."""
        more = ["--safety-checker", self.safety_checker] if self.safety_checker else []
        if self.strict_loras:
            more.append("--strict-loras")
        if self.prune_last_block:
            more.append("--prune-last-block")
        return [
            *self.command, f"--fd={fd}", "--model", str(self.model), "--device", self.device,
            "--dtype", self.dtype, "--offload", self.offload,
            "--forward", self.forward, *more,
        ]  # fmt: skip


class WorkerProcess:
    """A worker process that runs one job at a time. It is never restarted, only replaced.

    Sending never waits: a thread writes to the socket, which blocks while a hung worker reads
    nothing, and is released by `kill`.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        connection: Connection,
        on_exit: Callable[["WorkerProcess"], None],
        on_usage: Callable[[int, WorkerUsage], None],
    ) -> None:
        self._process = process
        self._connection = connection
        self._on_exit = on_exit
        self._on_usage = on_usage
        self._loop = asyncio.get_running_loop()
        self._messages: asyncio.Queue[Ready | LoadFailed | JobEvent | None] = asyncio.Queue()
        self._outbox: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        self._has_ended = False
        self._writer = threading.Thread(
            target=self._write, name=f"to-worker-{process.pid}", daemon=True
        )
        self._reader = threading.Thread(
            target=self._read, name=f"worker-{process.pid}", daemon=True
        )
        assert process.stdout is not None, "it is started with a pipe"
        self._output = threading.Thread(
            target=log_output,
            args=(process.stdout, process.pid),
            name=f"output-of-worker-{process.pid}",
            daemon=True,
        )
        for thread in (self._reader, self._writer, self._output):
            thread.start()

    @classmethod
    def start(
        cls,
        options: WorkerOptions,
        on_exit: Callable[["WorkerProcess"], None],
        on_usage: Callable[[int, WorkerUsage], None],
    ) -> "WorkerProcess":
        """Start the process, which loads the model and then sends Ready.

        `on_exit` is called in the event loop once the process has exited, for whatever reason, and
        `on_usage` with the process ID and what the worker reports about itself.
        Raises OSError where the machine has no room for another process.
        """
        ours, theirs = socket.socketpair()
        threads = thread_settings(os.environ)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(ours.close)
            with theirs:
                process = subprocess.Popen(
                    options.command_line(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **threads, "PYTHONUNBUFFERED": "1"},
                )
            on_failure.pop_all()
        chosen = ", ".join(f"{name}={value}" for name, value in threads.items()) or "no defaults"
        logger.info("worker %d started on %s, %s", process.pid, options.device, chosen)
        try:
            return cls(process, Connection(ours.detach()), on_exit, on_usage)
        except RuntimeError as exc:
            process.kill()
            process.wait()
            raise OSError(str(exc)) from exc

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    async def ready(self) -> Ready | LoadFailed:
        """Wait until the model has been loaded or has failed to load. Raises WorkerDied."""
        message = await self._messages.get()
        if isinstance(message, Ready | LoadFailed):
            return message
        raise WorkerDied(await self._exit_reason())

    async def run(self, run: Run) -> AsyncGenerator[JobEvent, None]:
        """Run one job and yield its events; the last one is Done, Failed or Canceled.

        Raises WorkerDied.
        """
        await self._post(run)
        while True:
            message = await self._messages.get()
            if message is None:
                raise WorkerDied(await self._exit_reason())
            if isinstance(message, Ready | LoadFailed) or message.job_id != run.job_id:
                continue
            yield message
            if isinstance(message, Done | Failed | Canceled):
                return

    async def preload(self, loras: tuple[LoraFile, ...]) -> None:
        """Have the worker read LoRA files while it runs a job. Raises WorkerDied."""
        await self._post(Preload(loras))

    async def cancel(self, job_id: str) -> None:
        """Ask the worker to leave the job at its next step. Raises WorkerDied."""
        await self._post(Cancel(job_id))

    async def stop(self) -> None:
        """Ask the process to exit, and kill it after `STOP_GRACE_S`."""
        try:
            await self._post(Stop())
            await asyncio.to_thread(self._process.wait, STOP_GRACE_S)
        except (WorkerDied, subprocess.TimeoutExpired):
            self.kill()
        await asyncio.to_thread(self._reader.join, KILL_GRACE_S)
        if self._reader.is_alive():
            logger.error("worker %d does not end", self.pid)
            return
        await asyncio.to_thread(self._writer.join)
        # a process that the worker left behind may keep the pipe open
        await asyncio.to_thread(self._output.join, OUTPUT_GRACE_S)
        self._connection.close()

    def kill(self) -> None:
        """Kill the process, and close its socket if that does not end it."""
        self._process.kill()
        self._loop.call_later(KILL_GRACE_S, self._hang_up)

    def _hang_up(self) -> None:
        """End the threads' reading and writing, as the end of the process would."""
        with contextlib.suppress(OSError):  # already closed
            ours = socket.socket(fileno=os.dup(self._connection.fileno()))
            with ours:
                ours.shutdown(socket.SHUT_RDWR)

    async def _post(self, message: ToWorker) -> None:
        if self._has_ended:
            raise WorkerDied(await self._exit_reason())
        self._outbox.put(message)

    def _write(self) -> None:
        # a worker that has exited is noticed by the reader
        with contextlib.suppress(OSError):
            while (message := self._outbox.get()) is not None:
                self._connection.send(message)

    def _read(self) -> None:
        # a closed loop raises RuntimeError
        with contextlib.suppress(RuntimeError):
            while (message := self._receive()) is not None:
                self._loop.call_soon_threadsafe(self._take, message)
            self._has_ended = True
            self._outbox.put(None)
            self._loop.call_soon_threadsafe(self._messages.put_nowait, None)
            self._loop.call_soon_threadsafe(self._on_exit, self)
        # nothing else waits for a worker that exits by itself: it would stay a zombie
        self._process.wait()

    def _take(self, message: FromWorker) -> None:
        if isinstance(message, WorkerUsage):
            self._on_usage(self.pid, message)
        else:
            self._messages.put_nowait(message)

    def _receive(self) -> FromWorker | None:
        """The next message, or None once the socket is closed."""
        try:
            message: FromWorker = self._connection.recv()
        except (EOFError, OSError):
            return None
        return message

    async def _exit_reason(self) -> str:
        try:
            code = await asyncio.to_thread(self._process.wait, STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            return f"worker {self.pid} closed its socket"
        if code < 0:
            return f"worker {self.pid} was killed by {signal.Signals(-code).name}"
        return f"worker {self.pid} exited with code {code}"
