"""A stand-in for the Hugging Face hub on loopback, as far as downloads of single files need it."""

import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PRIVATE_TOKEN = "hf_right"


class FakeHub(http.server.ThreadingHTTPServer):
    """Serves `repositories`: names to files. Those whose name begins with `private/` want a token.

    `requests` records method and path of everything asked for.
    """

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_hub(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[FakeHub]:
    """A running hub, stopped after the block."""
    hub = FakeHub(repositories)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = urllib.parse.unquote(self.path.partition("?")[0])
        self.server.requests.append(f"{self.command} {path}")
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repo = (info or file)[1] if info or file else ""
        files = self.server.repositories.get(repo)
        is_private = repo.startswith("private/")
        if files is None or (is_private and not self._has_token()):
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, with_body)
        elif info:
            siblings = [{"rfilename": name} for name in files]
            body = json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode()
            self._send(200, body, {"Content-Type": "application/json"}, with_body)
        elif file and file[3] in files:
            data = files[file[3]]
            etag = hashlib.sha256(data).hexdigest()
            self._send(200, data, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, with_body)
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {PRIVATE_TOKEN}"

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
