"""A server whose decoders are busy with images that take many seconds."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from server.media.decoder_frames import REQUEST_HEAD
from server.media.decoder_process import DECODER_COMMAND
from server.media.jpeg_scans import MAX_SCANS
from tests.conftest import as_base64
from tests.live_server import LiveServer, is_alive, live_server, until
from tests.server.media.bombs import scan_bomb


@pytest.fixture(scope="module")
def slow() -> bytes:
    """An image with as many scans as allowed, which takes seconds."""
    return scan_bomb(MAX_SCANS - 10)


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tiny_model, tmp_path_factory.mktemp("server")) as running:
        yield running


def cpu_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def decoding(server: LiveServer, count: int = 1) -> list[int]:
    """Wait until so many decoders have worked for longer than a start takes."""

    def busy() -> list[int]:
        pids = [pid for pid in server.decoder_pids() if cpu_ticks(pid) >= 40]
        return pids if len(pids) == count else []

    return until(busy)


def submission(server: LiveServer, image: bytes, path: str = "/v1/edits") -> httpx2.Request:
    body: dict[str, Any] = {"prompt": "make it blue", "images": [as_base64(image)]}
    return httpx2.Request("POST", server.url + path, json=body)


@pytest.mark.parametrize(
    "path",
    ["/v1/edits", "/api/v3/wavespeed-ai/qwen-image/edit-plus", "/fal-ai/qwen-image-edit-plus"],
)
def test_client_that_hangs_up_frees_its_decoder(server: LiveServer, slow: bytes, path: str) -> None:
    connection = server.send(submission(server, slow, path))
    (pid,) = decoding(server)

    connection.close()

    until(lambda: not is_alive(pid), timeout_s=2)
    assert server.http.get(f"{server.url}/v1/edits").json()["items"] == []


def test_health_answers_while_all_decoders_are_busy(server: LiveServer, slow: bytes) -> None:
    connections = [server.send(submission(server, slow)) for _ in range(3)]
    decoding(server, 2)

    start = time.monotonic()
    assert server.health()["status"] == "ready"

    assert time.monotonic() - start < 5
    for connection in connections:
        connection.close()
    until(lambda: server.decoder_pids() == [])


def test_sigterm_ends_decoders_and_server_in_mid_decode(
    start_server: Callable[..., LiveServer], slow: bytes
) -> None:
    server = start_server()
    with server.send(submission(server, slow)) as connection:
        (pid,) = decoding(server)

        # the decode alone would go on for longer; on a busy machine a stop has taken 3.6 s
        assert server.stop() < 5

        assert b" 503 " in connection.recv(100)
    assert server.process.returncode == 0
    assert not is_alive(pid)


def test_idle_decoder_ends_with_its_server(
    start_server: Callable[..., LiveServer], image_base64: str
) -> None:
    server = start_server()
    body = {"prompt": "make it blue", "images": [image_base64]}
    assert server.http.post(f"{server.url}/v1/edits", json=body).status_code == 201
    (pid,) = server.decoder_pids()

    server.kill()

    until(lambda: not is_alive(pid))


def test_decoder_in_mid_decode_ends_soon_after_its_server(slow: bytes) -> None:
    ours, theirs = socket.socketpair()
    command = [*DECODER_COMMAND[:-1], "1"]
    with theirs, subprocess.Popen(command, stdin=theirs.fileno()) as process:
        ours.sendall(REQUEST_HEAD.pack(len(slow)) + slow)
        ours.close()

        assert process.wait() == -signal.SIGALRM
