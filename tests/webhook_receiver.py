"""A webhook receiver that shares no code with the server."""

import contextlib
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_CLOCK_DIFFERENCE_S = 300


@dataclass(frozen=True)
class Received:
    """One POST request."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    def is_signed_with(self, secret: str) -> bool:
        """Return whether the signature is valid and recent, by the provider's documentation."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        if abs(time.time() - int(headers["webhook-timestamp"])) > MAX_CLOCK_DIFFERENCE_S:
            return False
        signed = b".".join(
            (headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), self.body)
        )
        key = secret[len("whsec_") :] if secret.startswith("whsec_") else secret
        expected = hmac.new(key.encode(), signed, hashlib.sha256).hexdigest()
        version, _, signature = headers["webhook-signature"].partition(",")
        return version == "v3" and signature == expected


class Receiver(http.server.ThreadingHTTPServer):
    """Records requests. Answers with `statuses` in order, then with 200."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[Received] = []
        self.statuses: list[int] = []
        self.location: str | None = None

    @property
    def url(self) -> str:
        """Return the URL for webhooks."""
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(Received(self.path, dict(self.headers), body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        if self.server.location is not None:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing, which would clutter the output of the tests."""


@contextlib.contextmanager
def webhook_receiver() -> Iterator[Receiver]:
    """Run a receiver during the block."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.shutdown()
        thread.join()
        receiver.server_close()
