"""What goes wrong at a server, in an order that a seed decides."""

import contextlib
import os
import random
import signal
import threading
import time

import httpx2

from tests.live_server import LiveServer, until
from tests.small_disk import SmallDisk

# Between two misfortunes, and how long a disk stays full.
PAUSE_S = (0.2, 1.2)
FULL_S = 1.0
# For a worker to load and to begin a job.
RUN_S = 60.0


class Chaos:
    """Kills the server and its workers, hangs workers and fills the disk, until all is done."""

    def __init__(self, server: LiveServer, disk: SmallDisk, seed: int, rounds: int) -> None:
        """Each round has a kill of the server, one of a worker, a hang and a full disk."""
        self._server = server
        self._disk = disk
        self._random = random.Random(seed)
        self._rounds = rounds
        self.done = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Go wrong."""
        try:
            for _ in range(self._rounds):
                acts = [self._kill_server, self._kill_worker, self._hang_worker, self._fill_disk]
                self._random.shuffle(acts)
                for act in acts:
                    time.sleep(self._random.uniform(*PAUSE_S))
                    act()
        except BaseException as exc:
            self.failure = exc
            raise
        finally:
            self.done.set()

    def _kill_server(self) -> None:
        self._server.kill()
        self._server.start(wait_ready=False)

    def _kill_worker(self) -> None:
        self._signal_worker(signal.SIGKILL)

    def _hang_worker(self) -> None:
        # the step watchdog kills it; one that loads has two minutes
        with contextlib.suppress(AssertionError):  # all jobs are done
            until(self._is_running, RUN_S)
        self._signal_worker(signal.SIGSTOP)

    def _is_running(self) -> bool:
        try:
            return bool(httpx2.get(f"{self._server.url}/health", timeout=60).json()["running"])
        except httpx2.HTTPError:
            return False

    def _fill_disk(self) -> None:
        with self._disk.full():
            time.sleep(FULL_S)

    def _signal_worker(self, number: signal.Signals) -> None:
        for pid in self._server.worker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
