"""A live server whose data folder is a small file system, and whose database is deleted."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live_server import LiveServer, live_server, until
from tests.small_disk import SmallDisk, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "data", "8m") as disk:
        yield disk


@pytest.fixture
def server_on_disk(tiny_model: Path, tmp_path: Path, disk: SmallDisk) -> Iterator[LiveServer]:
    with live_server(tiny_model, tmp_path, launcher=disk.launcher) as running:
        yield running


def ready(server: LiveServer) -> tuple[int, str | None]:
    answer = server.http.get(f"{server.url}/health/ready")
    return answer.status_code, answer.json()["reason"]


def test_full_disk_refuses_submits_and_loses_no_job(
    server_on_disk: LiveServer, disk: SmallDisk, body: dict[str, Any]
) -> None:
    server, edits = server_on_disk, f"{server_on_disk.url}/v1/edits"
    # about a second of work
    accepted = server.http.post(edits, json=body | {"num_inference_steps": 20, "n": 2}).json()["id"]
    with disk.full():
        refused = server.http.post(edits, json=body)
        until(lambda: ready(server)[0] == 503)
        reason = ready(server)[1]
        live = server.http.get(f"{server.url}/health/live").status_code

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
