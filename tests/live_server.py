"""A real server process on a free loopback port."""

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx2

T = TypeVar("T")

# Modules that run as `qwen-edit`, by the worker that the server starts.
COMMANDS = {"fake": "tests.fake_worker_server", "real": "server.cli"}
ROOT = Path(__file__).parent.parent

# Only a failing test waits this long. On a busy machine a model has taken 38 s to load.
PATIENCE_S = 300.0
STOP_TIMEOUT_S = 120.0
# An edit that outlasts any test, which cancels it.
LONG = {"num_inference_steps": 100, "size": "1024*1024"}


class LiveServer:
    """Runs `qwen-edit serve`, and restarts it on the same folders with `start`.

    The worker is `tests.fake_worker`, ready in a second, or a real one with `worker="real"`.
    """

    def __init__(
        self,
        model: Path | str,
        folder: Path,
        *,
        worker: str = "fake",
        environment: Mapping[str, str] | None = None,
        verify: bool | ssl.SSLContext = True,
        launcher: Sequence[str] = (),
        **settings: object,
    ) -> None:
        self.folder = folder
        self.weights_dir = folder / "weights"
        self.data_dir = folder / "data"
        (self.weights_dir / "loras").mkdir(parents=True, exist_ok=True)
        self._command = COMMANDS[worker]
        self._settings = {"MODEL": model, **settings}
        self._environment = environment or {}
        # a command that ends by executing its arguments
        self._launcher = launcher
        self._log_path = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        # Shorter than on the server, which could otherwise close a connection as it is reused.
        limits = httpx2.Limits(keepalive_expiry=2)
        self.http = httpx2.Client(timeout=PATIENCE_S, verify=verify, limits=limits)

    def start(self, *, wait_ready: bool = True) -> "LiveServer":
        """Start the process and wait until it listens, or until the model is loaded."""
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "HF_HUB_OFFLINE": "1",
            "QWEN_EDIT_PORT": "0",
            # The page costs each server seconds of CPU time; its own tests turn it on.
            "QWEN_EDIT_PAGE": "false",
            # Tests play the proxy.
            "QWEN_EDIT_TRUSTED_PROXIES": "127.0.0.0/8",
            "QWEN_EDIT_WEIGHTS_DIR": str(self.weights_dir),
            "QWEN_EDIT_DATA_DIR": str(self.data_dir),
            **{f"QWEN_EDIT_{name}": str(value) for name, value in self._settings.items()},
            **self._environment,
        }
        start = self._log_path.stat().st_size if self._log_path.exists() else 0
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._launcher, sys.executable, "-m", self._command, "serve"],
                env=environment,
                stdout=log,
                stderr=log,
            )
        pattern = re.compile(r"listens on (https?://[^\s\"]+)")
        self.url = until(lambda: self._find(pattern, start))
        if wait_ready:
            until(lambda: self.health()["status"] == "ready")
        return self

    def health(self) -> dict[str, Any]:
        """Return the response of /health."""
        answer: dict[str, Any] = self.http.get(f"{self.url}/health").json()
        return answer

    def forget_edits(self) -> None:
        """Cancel and delete every edit, so that the next test finds no work and no history."""
        until(self._is_empty)

    def send(self, request: httpx2.Request) -> socket.socket:
        """Send a request on a new connection and return without waiting for the response."""
        address = request.url.host, request.url.port or 80
        connection = socket.create_connection(address, timeout=PATIENCE_S)
        line = f"{request.method} {request.url.raw_path.decode()} HTTP/1.1"
        headers = [f"{name}: {value}" for name, value in request.headers.items()]
        head = "\r\n".join([line, *headers, "", ""])
        connection.sendall(head.encode() + request.read())
        return connection

    def post_and_hang_up(self, path: str, body: Mapping[str, object]) -> str:
        """POST the body, close the connection once the edit exists, and return its id."""
        before = self._newest_edit()

        def submitted() -> str | None:
            newest = self._newest_edit()
            return None if newest == before else newest

        with self.send(httpx2.Request("POST", self.url + path, json=body)):
            return until(submitted)

    def log(self) -> str:
        """Return the output of the server and its workers."""
        return self._log_path.read_text()

    def worker_pids(self) -> list[int]:
        """Return the process ids of the current workers."""
        return [int(pid) for pid in self._children() if "--fd=" in _command(int(pid))]

    def decoder_pids(self) -> list[int]:
        """The current decoders of this server."""
        return [int(pid) for pid in self._children() if "media.decoder" in _command(int(pid))]

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Return the process of the server."""
        assert self._process is not None
        return self._process

    @property
    def is_running(self) -> bool:
        """Return whether the server was started and still runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Send SIGKILL, like the kernel's out-of-memory killer."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Send a signal and return the seconds until the process ended."""
        start = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(timeout=STOP_TIMEOUT_S)
        return time.monotonic() - start

    def close(self) -> None:
        """End the process if it is running."""
        self.http.close()
        if self.is_running:
            self.kill()

    def _newest_edit(self) -> str | None:
        edits = self.http.get(f"{self.url}/v1/edits?limit=1").json()["items"]
        return edits[0]["id"] if edits else None

    def _is_empty(self) -> bool:
        edits = self.http.get(f"{self.url}/v1/edits?limit=100").json()["items"]
        for edit in edits:
            self.http.delete(f"{self.url}/v1/edits/{edit['id']}")
        return not edits

    def _find(self, pattern: re.Pattern[str], start: int) -> str | None:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()}")
        match = pattern.search(self._log_path.read_bytes()[start:].decode())
        return match[1] if match else None

    def _children(self) -> list[str]:
        found: list[str] = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            # A thread may end after it was listed.
            with contextlib.suppress(OSError):
                found += (task / "children").read_text().split()
        return found


def until(found: Callable[[], T | None], timeout_s: float = PATIENCE_S) -> T:
    """Poll `found` until it returns a true value, and return it. Fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = found()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still false after {timeout_s} s")
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def events(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    """Yield the jobs in an event stream of the native contract."""
    for event in httpx2.EventSource(response):
        yield json.loads(event.data)


@contextlib.contextmanager
def live_server(model: Path, folder: Path, **settings: Any) -> Iterator[LiveServer]:
    """Run a server during the block."""
    server = LiveServer(model, folder, **settings)
    try:
        yield server.start()
    finally:
        server.close()


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
