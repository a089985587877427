"""A live server whose data folder is a small file system, and whose database is deleted."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live_server import LiveServer, until

MOUNT = 'mount -t tmpfs -o size=8m tmpfs "$QWEN_EDIT_DATA_DIR" && exec "$@"'
NAMESPACE = ("unshare", "-Urm", "sh", "-c", MOUNT, "sh")


@pytest.fixture
def small_disk(tiny_model: Path, tmp_path: Path) -> Iterator[LiveServer]:
    """A server on 8 MB, in a namespace of its own."""
    environment = {**os.environ, "QWEN_EDIT_DATA_DIR": str(tmp_path)}
    probe = subprocess.run([*NAMESPACE, "true"], env=environment, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no file system can be mounted in a user namespace: {probe.stderr.strip()}")
    server = LiveServer(tiny_model, tmp_path, launcher=NAMESPACE)
    server.data_dir.mkdir()
    yield server
    server.close()


def ready(server: LiveServer) -> tuple[int, str | None]:
    answer = server.http.get(f"{server.url}/health/ready")
    return answer.status_code, answer.json()["reason"]


def test_full_disk_refuses_submits_and_loses_no_job(
    small_disk: LiveServer, body: dict[str, Any]
) -> None:
    server = small_disk.start()
    edits = f"{server.url}/v1/edits"
    # about a second of work
    accepted = server.http.post(edits, json=body | {"num_inference_steps": 20, "n": 2}).json()["id"]
    filler = Path(f"/proc/{server.process.pid}/root{server.data_dir}/filler")
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass

    refused = server.http.post(edits, json=body)
    until(lambda: ready(server)[0] == 503)
    reason = ready(server)[1]
    live = server.http.get(f"{server.url}/health/live").status_code
    filler.unlink()

    def ended() -> str | None:
        status: str = server.http.get(f"{edits}/{accepted}").json()["status"]
        return status if status not in ("queued", "running") else None

    assert until(ended) == "succeeded"
    until(lambda: ready(server)[0] == 200)
    assert refused.status_code == 507, refused.text
    assert refused.json()["error"]["code"] == "storage_full"
    assert str(server.data_dir) not in f"{refused.text} {reason}"
    assert live == 200
    assert "Traceback" not in server.log()


def test_deleted_database_stops_the_server_with_a_sentence(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server()
    started = time.monotonic()
    (server.data_dir / "jobs.sqlite3").unlink()

    assert server.process.wait(timeout=60) == 1
    # noticed within 10 s, stopped within a few more
    assert time.monotonic() - started < 20
    assert "The database file was deleted or replaced while the server ran" in server.log()
    assert "Traceback" not in server.log()


def test_damaged_database_ends_the_start_with_code_2(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server()
    server.stop()
    database = server.data_dir / "jobs.sqlite3"
    database.write_bytes(b"no database " * 2000)

    with pytest.raises(AssertionError, match="the server ended with 2"):
        server.start()

    assert "file is not a database. Nothing has been changed." in server.log()
    assert "Traceback" not in server.log()
