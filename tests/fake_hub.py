"""A fake Hugging Face hub on loopback: listings, files, ranges and tokens."""

import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "1" * 40
PRIVATE_TOKEN = "hf_right"


@dataclass(frozen=True)
class Listed:
    """A file that is listed with its size but never sent."""

    size_bytes: int


class FakeHub(http.server.ThreadingHTTPServer):
    """Serves `repositories`, names to files; those under `private/` and `gated/` need a token.

    `requests` records the method and path of each request, `ranges` the ranges. With `hold_at`,
    the body of a longer file pauses there until `released` is set. `break_at` lists after how many
    bytes the connections of the next large files break. `listing` replaces the true listing.
    `cards` has the data of model cards.
    """

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes | Listed]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.hold_at: int | None = None
        self.break_at: list[int] = []
        self.listing: bytes | None = None
        self.cards: dict[str, dict[str, Any]] = {}
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_hub(repositories: Mapping[str, Mapping[str, bytes | Listed]]) -> Iterator[FakeHub]:
    """Run a hub during the block."""
    hub = FakeHub(repositories)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.released.set()
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
        is_closed = not self._has_token()
        if files is None or (is_closed and repo.startswith("private/")):
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, with_body)
        elif is_closed and repo.startswith("gated/") and file:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"}, with_body)
        elif info:
            siblings = [_sibling(name, data) for name, data in files.items()]
            card = self.server.cards.get(repo)
            listed = {"id": repo, "sha": COMMIT, "siblings": siblings, "cardData": card}
            body = json.dumps(listed).encode()
            body = self.server.listing or body
            self._send(200, body, {"Content-Type": "application/json"}, with_body)
        elif file and file[3] in files:
            self._send_file(files[file[3]], with_body)
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)

    def _send_file(self, data: bytes, with_body: bool) -> None:
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None:
            self._send(200, data, headers, with_body)
            return
        self.server.ranges.append(wanted[0])
        start = int(wanted[1])
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206, data[start:], headers, with_body)

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {PRIVATE_TOKEN}"

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not with_body:
            return
        if self.server.break_at and len(body) > self.server.break_at[0]:
            body = body[: self.server.break_at.pop(0)]
            self.close_connection = True
        hold_at = self.server.hold_at
        if hold_at is not None and len(body) > hold_at:
            self.wfile.write(body[:hold_at])
            self.server.released.wait()
            body = body[hold_at:]
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


def write_cache(
    cache: Path,
    repository: str,
    files: Mapping[str, bytes],
    *,
    commit: str = COMMIT,
    ref: str | None = "main",
) -> Path:
    """Write a snapshot into a cache like the hub's library, and return its folder."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    if ref is not None:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return snapshot


def _sibling(name: str, data: bytes | Listed) -> dict[str, Any]:
    """Return the listing of a file, which includes the SHA-256 for safetensors files."""
    if isinstance(data, Listed):
        large = {"sha256": "0" * 64, "size": data.size_bytes, "pointerSize": 134}
        return {"rfilename": name, "size": data.size_bytes, "blobId": "0" * 40, "lfs": large}
    found: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_digest(data)}
    if name.endswith(".safetensors"):
        digest = hashlib.sha256(data).hexdigest()
        found["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
    return found


def git_digest(data: bytes) -> str:
    """Return git's hash of a file with this content."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
