"""A small HTTP server in place of the hosts that URLs in requests name."""

import contextlib
import http.server
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answer:
    """The response to a path; none at all if `silent`."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks_for_ever: bool = False
    silent: bool = False
    # seconds between single bytes
    trickle_s: float | None = None


class FarSide(http.server.ThreadingHTTPServer):
    """Answers paths from a table, and records the requests."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        super().__init__((address, 0), _Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        self.released = threading.Event()

    def url(self, path: str, host: str | None = None) -> str:
        """Return the URL of `path`, optionally under another name or address of this host."""
        return f"http://{host or self.server_address[0]}:{self.server_port}{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FarSide

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        answer = self.server.answers.get(self.path, Answer(b"nothing here", status=404))
        if answer.silent:
            self.server.released.wait()
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if not answer.chunks_for_ever:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            if answer.trickle_s is not None:
                for byte in answer.body:
                    self.wfile.write(bytes([byte]))
                    self.server.released.wait(answer.trickle_s)
                return
            self.wfile.write(answer.body)
            while answer.chunks_for_ever:
                self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Print nothing, which would clutter the output of the tests."""


@contextlib.contextmanager
def far_side(address: str = "127.0.0.1") -> Iterator[FarSide]:
    """Run a far side during the block."""
    server = FarSide(address)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
