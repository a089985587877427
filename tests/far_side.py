"""A small HTTP server that plays the hosts which URLs in requests name."""

import contextlib
import http.server
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answer:
    """What the far side sends for a path. With `length` it promises more than it sends."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks_for_ever: bool = False
    silent: bool = False


class FarSide(http.server.ThreadingHTTPServer):
    """Answers paths from a table, and notes who asked for what."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        super().__init__((address, 0), _Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        self.released = threading.Event()

    def url(self, path: str, host: str | None = None) -> str:
        """The address of `path`, under another name or address of this host if asked."""
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
            self.wfile.write(answer.body)
            while answer.chunks_for_ever:
                self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the tests' output is read."""


@contextlib.contextmanager
def far_side(address: str = "127.0.0.1") -> Iterator[FarSide]:
    """A running far side, ended after the block."""
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
