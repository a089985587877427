"""Many connections to a live server, and a login form under guesses."""

import contextlib
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.live_server import LONG, LiveServer, until
from tests.server.contracts.owners import BODY, WAVESPEED
from tests.server.playground.conftest import with_page
from tests.server.web.test_transport import authority

__all__ = ["authority"]

FILES = 256
KEY = "right-key-for-tests"


@contextlib.contextmanager
def silent_connections(server: LiveServer, count: int) -> Iterator[list[socket.socket]]:
    """Open connections and send nothing."""
    address = httpx2.URL(server.url)
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection((address.host, address.port or 0)))
            for _ in range(count)
        ]


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit of util-linux")
@pytest.mark.parametrize("files", [FILES, 96])
def test_silent_connections_keep_nobody_out(tiny_model: Path, tmp_path: Path, files: int) -> None:
    launcher = ("prlimit", f"--nofile={files}:{files}")
    server = LiveServer(tiny_model, tmp_path, launcher=launcher)
    try:
        server.start()
        lines = len(server.log().splitlines())
        with silent_connections(server, 400):
            during = [httpx2.get(f"{server.url}/health").status_code for _ in range(20)]
        after = httpx2.get(f"{server.url}/health").status_code
        # once a minute, and not once for each connection
        logged = len(server.log().splitlines()) - lines
    finally:
        server.close()

    assert during == [200] * 20
    assert after == 200
    assert logged <= 2


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit of util-linux")
def test_start_raises_the_limit_of_open_files(tiny_model: Path, tmp_path: Path) -> None:
    server = LiveServer(tiny_model, tmp_path, launcher=("prlimit", "--nofile=128:3000"))
    try:
        server.start(wait_ready=False)
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    finally:
        server.close()

    [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert line.split()[3:5] == ["3000", "3000"]


def test_silent_tls_connections_keep_nobody_out(
    tiny_model: Path, tmp_path: Path, authority: tuple[ssl.SSLContext, Path, dict[str, Path]]
) -> None:
    context, _, settings = authority
    server = LiveServer(tiny_model, tmp_path, verify=context, MAX_CONNECTIONS=16, **settings)
    try:
        server.start()
        with silent_connections(server, 50):
            answers = [
                httpx2.get(f"{server.url}/health", verify=context).status_code for _ in range(5)
            ]
    finally:
        server.close()

    assert answers == [200] * 5


def test_event_stream_keeps_its_place(tiny_model: Path, tmp_path: Path) -> None:
    server = LiveServer(tiny_model, tmp_path, MAX_CONNECTIONS=16)
    body = BODY | LONG
    try:
        server.start()
        edit = server.http.post(f"{server.url}/v1/edits", json=body).json()["id"]
        url = f"{server.url}/v1/edits/{edit}"
        with httpx2.stream("GET", f"{url}/events", timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            with silent_connections(server, 50):
                until(lambda: httpx2.get(f"{server.url}/health").status_code == 200)
            httpx2.post(f"{url}/cancel")
            rest = "".join(lines)
    finally:
        server.close()

    assert '"canceled"' in rest


def test_forwarded_headers_are_believed_from_nobody_by_default(
    tiny_model: Path, tmp_path: Path
) -> None:
    server = LiveServer(tiny_model, tmp_path, TRUSTED_PROXIES="")
    headers = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    try:
        server.start()
        answer = server.http.post(f"{server.url}{WAVESPEED}", json=BODY, headers=headers).json()
    finally:
        server.close()

    assert answer["data"]["urls"]["get"].startswith(f"{server.url}/")


def test_guesses_on_the_login_form_get_429(tiny_model: Path, tmp_path: Path) -> None:
    settings = {"API_KEYS": KEY, "PAGE": "true", "TRUSTED_PROXIES": "127.0.0.0/8"}
    server = LiveServer(tiny_model, tmp_path, **settings)

    def log_in(key: str, client: str) -> httpx2.Response:
        headers = {"X-Forwarded-For": client}
        return httpx2.post(f"{server.url}/login", data={"key": key}, headers=headers)

    try:
        with_page(server.start(wait_ready=False))
        wrong = [log_in(f"guess {number}", "203.0.113.1").status_code for number in range(6)]
        right = log_in(KEY, "203.0.113.1")
        other = log_in(KEY, "203.0.113.2")
    finally:
        server.close()

    assert wrong == [401] * 5 + [429]
    assert right.status_code == 429
    assert 1 <= int(right.headers["retry-after"]) <= 60
    assert "Try again in" in right.text
    assert "set-cookie" not in right.headers
    assert other.status_code == 303
