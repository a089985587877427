"""What goes wrong at a server, in an order that a seed decides."""

import contextlib
import os
import random
import signal
import threading
import time

from tests.live_server import LiveServer
from tests.small_disk import SmallDisk

# Between two misfortunes, and how long a disk stays full.
PAUSE_S = (0.2, 1.2)
FULL_S = 1.0


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
        # a stopped worker would not notice that its server is gone
        self._signal_worker(signal.SIGCONT)
        self._server.kill()
        self._server.start(wait_ready=False)

    def _kill_worker(self) -> None:
        self._signal_worker(signal.SIGKILL)

    def _hang_worker(self) -> None:
        # the step watchdog kills it
        self._signal_worker(signal.SIGSTOP)

    def _fill_disk(self) -> None:
        with self._disk.full():
            time.sleep(FULL_S)

    def _signal_worker(self, number: signal.Signals) -> None:
        for pid in self._server.worker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
